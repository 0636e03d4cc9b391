"""The page *Try it on your device* in a real browser, on a real server, below a sub-path.

Its files are gathered anew from the source; LiteRT's browser build comes from `make book` where that has run, else
from the package registry. Skipped, saying so, where that is out of reach or no Chromium is installed.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from abpn_lib import claims, degradation, metrics, models, paper, results, score
from abpn_lib.tflite import graph
from abpn_lib.tflite.images import upscale_image
from abpn_lib.tflite.upscaler import Upscaler, spans
from tools import browser

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "book" / "try"
PAGE = ROOT / "book" / "try.md"
BUILT = ROOT / "_build" / "litert"
OWN_SCRIPTS = ["app.js", "difference.js", "jobs.js", "stats.js", "tables.js", "view.js", "yours.js"]  # loaded at first
FIRST_LIMIT = 40_000  # bytes of them, compressed
LIMIT = 3_500_000  # bytes, compressed, of one run
PATIENCE = 240_000  # milliseconds; other work may share the cores


@pytest.fixture(scope="session")
def litert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (BUILT / "version").is_file():
        return BUILT
    folder = tmp_path_factory.mktemp("litert") / "litert"
    try:
        browser.fetch_litert(SOURCE, folder)
    except browser.BuildError as error:
        pytest.skip(f"LiteRT's browser build cannot be had: {error}")
    return folder


@pytest.fixture(scope="session")
def gathered(litert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files; what is timed is small here, so that measuring takes no time."""
    folder = tmp_path_factory.mktemp("gathered") / "try"
    browser.gather(SOURCE, litert, folder, frame=(12, 24))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["rounds"] = {"seconds": 1, "least": 6, "most": 6}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class _Handler(http.server.SimpleHTTPRequestHandler):
    broken: str = ""  # addresses with this in them are not found

    def do_GET(self) -> None:
        if _Handler.broken and _Handler.broken in self.path:
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def markup() -> str:
    return "\n".join(re.findall(r"^```\{raw\} html\n(.*?)^```", PAGE.read_text(), re.M | re.S))


@pytest.fixture(scope="session")
def address(gathered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page below a sub-path, without the book's theme around it."""
    root = tmp_path_factory.mktemp("server")
    pages = root / "sub" / "path" / "book"
    pages.mkdir(parents=True)
    browser.install(gathered, pages)
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += '<link rel="icon" href="data:,"><title>Try it</title><style>:root { color-scheme: light dark }</style>'
    (pages / "try.html").write_text(f"{head}<body><main>{markup()}</main></body></html>")
    handler = functools.partial(_Handler, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/sub/path/book/try.html"
        server.shutdown()


class Page:
    """The page as its reader uses it."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **context)
        self.context.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.crashes: list[str] = []
        self.page.on("pageerror", lambda error: self.crashes.append(str(error)))
        self.address = address
        self.page.goto(address)
        self.page.wait_for_selector("html[data-try-ready=yes]")

    def part(self, name: str) -> Any:
        return self.page.locator(f"[data-try={name}]")

    def open(self, content: bytes, name: str = "image.png") -> None:
        self.part("file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})

    def done(self, of: str = "") -> None:
        """Wait until the job has ended well; `of` "measure-" for a measurement."""
        self.page.wait_for_function(
            f"document.querySelector('[data-try={of}status]').textContent === 'Done.'"
            f" || !document.querySelector('[data-try={of}error]').hidden"
        )
        assert self.part(f"{of}error").is_hidden(), self.part(f"{of}error").inner_text()

    def error(self) -> str:
        self.part("error").wait_for(state="visible")
        return self.part("error").inner_text()

    def png(self, label: str) -> Image.Image:
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=f"Save PNG of the {label} version").click()
        return Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))

    def close(self) -> None:
        origin = self.address.split("/sub/")[0]
        outside = [url for url in self.requests if not url.startswith((origin, "data:", "blob:"))]
        self.context.close()
        assert outside == []
        assert self.crashes == []


@pytest.fixture
def reader(chromium: Any, address: str) -> Iterator[Page]:
    page = Page(chromium, address)
    yield page
    page.close()


def png(pixels: NDArray[np.uint8] | Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(content, "PNG", **options)
    return content.getvalue()


def natural(height: int, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(skimage.data.chelsea()[40 : 40 + height, 60 : 60 + width])


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


OURS = "ABPN with 32 channels, INT8"


def by_library(method: str, image: Image.Image) -> NDArray[np.uint8]:
    upscaler = Upscaler(models.find(browser.MODELS[method]))
    return np.asarray(upscale_image(upscaler, image, tile=None))


# --- same results as the library


@pytest.mark.parametrize(
    "pixels",
    [natural(47, 61), noise(35, 22, 3), natural(135, 291), noise(1, 1, 3)],
    ids=["natural", "random", "tiled", "one pixel"],
)
def test_same_bits_as_the_library(pixels: NDArray[np.uint8], reader: Page) -> None:
    reader.open(png(pixels))
    reader.done()
    assert np.array_equal(np.asarray(reader.png(OURS)), by_library("abpn32", Image.fromarray(pixels)))
    assert np.array_equal(np.asarray(reader.png("Bicubic")), degradation.bicubic_up(pixels, 3))


def test_fsrcnn_has_the_same_bits_too(reader: Page) -> None:
    pixels = natural(17, 23)
    reader.open(png(pixels))
    reader.done()
    assert not any("fsrcnn" in url for url in reader.requests), "it is loaded only when it is chosen"
    reader.part("right").select_option("fsrcnn")
    reader.page.get_by_role("button", name="Save PNG of the FSRCNN, INT8 version").wait_for()
    reader.done()
    assert np.array_equal(np.asarray(reader.png("FSRCNN, INT8")), by_library("fsrcnn", Image.fromarray(pixels)))


def test_transparency_is_kept_as_in_the_library(reader: Page) -> None:
    pixels = np.dstack([natural(40, 31), np.tile(np.linspace(0, 255, 31).astype(np.uint8), (40, 1))])
    reader.open(png(pixels))
    reader.done()
    ours = np.asarray(reader.png(OURS))
    theirs = by_library("abpn32", Image.fromarray(pixels))
    assert ours.shape == theirs.shape == (120, 93, 4)
    assert np.array_equal(ours[..., 3], theirs[..., 3])
    assert np.array_equal(ours[..., :3], theirs[..., :3])


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_is_honoured(orientation: int, reader: Page) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    Image.fromarray(natural(40, 64)).save(content, "JPEG", quality=95, exif=exif)
    reader.open(content.getvalue(), "photo.jpg")
    reader.done()
    ours = np.asarray(reader.png(OURS)).astype(int)
    theirs = by_library("abpn32", Image.open(content)).astype(int)
    assert ours.shape == theirs.shape
    # Two JPEG decoders: close, not equal.
    assert np.abs(ours - theirs).mean() < 2


def test_an_image_can_be_shrunk_first_and_scored(reader: Page) -> None:
    hr = natural(101, 152)
    reader.part("shrink").check()
    reader.open(png(hr))
    reader.done()
    truth = degradation.crop_to_multiple(hr, 3)
    lr = degradation.bicubic_down(truth, 3)
    for label, estimate in (
        (OURS, by_library("abpn32", Image.fromarray(lr))), ("Bicubic", degradation.bicubic_up(lr, 3)),
    ):
        row = reader.part("scores").locator("tr", has_text=label).inner_text().split("\t")
        assert row[2] == f"{metrics.psnr(truth, estimate):.2f} dB"
        assert row[3] == f"{metrics.ssim(truth, estimate):.4f}"
        assert np.array_equal(np.asarray(reader.png(label)), estimate)


# --- Table 2's strategies, and what INT8 costs them


def chosen(reader: Page, side: str, value: str) -> None:
    reader.part(side).select_option(value)
    reader.page.wait_for_function("document.querySelector('[data-try=status]').textContent !== ''")
    reader.done()


def test_every_strategy_of_table_2_has_the_librarys_bits(reader: Page) -> None:
    pixels = natural(19, 26)
    reader.open(png(pixels))
    reader.done()
    assert set(paper.TABLE2) - {"abpn"} <= set(browser.MODELS)
    for method in set(browser.MODELS) - {"abpn32", "fsrcnn"}:
        reader.requests.clear()
        chosen(reader, "left", method)
        assert sum("/models/" in url for url in reader.requests) == 1, "loaded when it is chosen, without its twin"
        ours = reader.png(reader.part("left").locator("option:checked").inner_text())
        assert np.array_equal(np.asarray(ours), by_library(method, Image.fromarray(pixels))), method


def test_a_map_shows_what_int8_changed(reader: Page) -> None:
    hr = natural(60, 90)
    reader.part("shrink").check()
    reader.open(png(hr))
    reader.done()
    chosen(reader, "left", "baseline")
    lr = Image.fromarray(degradation.bicubic_down(hr, 3))
    small, whole = by_library("baseline", lr), np.asarray(upscale_image(Upscaler(models.find("baseline-fp32")), lr))
    pictures = [reader.page.evaluate("document.querySelector('.abpn-try canvas').toDataURL()")]
    for show, other, tolerance in (("float", whole, 0.02), ("original", hr, 0.006)):
        chosen(reader, "show", show)
        label = reader.page.locator("[data-side=left]").inner_text()
        shown = re.fullmatch(r"Baseline, INT8: off by (\d+\.\d\d) levels", label)
        assert shown, label
        assert abs(float(shown[1]) - np.abs(small.astype(int) - other).mean()) < tolerance
        assert "levels of 255" in reader.part("legend").inner_text()
        pictures.append(reader.page.evaluate("document.querySelector('.abpn-try canvas').toDataURL()"))
    assert len(set(pictures)) == 3
    chosen(reader, "right", "bicubic")
    chosen(reader, "show", "float")
    assert reader.page.locator("[data-side=right]").inner_text() == "Bicubic: no float32 form here"
    chosen(reader, "show", "picture")
    assert reader.part("legend").is_hidden()


def test_an_image_without_an_original_has_no_map_of_errors(reader: Page) -> None:
    reader.open(png(natural(12, 12)))
    reader.done()
    assert reader.part("show").locator("option[value=original]").is_disabled()


# --- a reader's own model


def written(path: Path, by: int, unit: bool) -> Path:
    """A float32 .tflite, any size, that repeats each pixel; in [0, 1] with `unit`, else in [0, 255]."""
    import tensorflow as tf

    def enlarge(lr: Any) -> Any:
        return tf.clip_by_value(tf.nn.depth_to_space(tf.concat([lr] * by**2, -1), by), 0, 1 if unit else 255)

    return converted(path, enlarge)


def converted(path: Path, enlarge: Callable[[Any], Any]) -> Path:
    import tensorflow as tf

    signature = tf.TensorSpec((1, None, None, 3), tf.float32)
    concrete = tf.function(enlarge, input_signature=[signature]).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def strange(kind: str, folder: Path, exported: Callable[..., Path]) -> Path:
    if kind == "own":
        return models.find("abpn-int8-ptq")
    if kind in ("x2", "x4"):
        return written(folder / f"{kind}.tflite", int(kind[1]), unit=kind == "x2")
    if kind == "int8":
        return exported("abpn", "int8", dtype="int8")
    path, name = folder / f"{kind}.tflite", {"one size": "bilinear-fp32", "any size after all": "abpn-int8-ptq"}[kind]
    path.write_bytes(graph.fix_size(models.find(name).read_bytes(), 64, 48))
    return path


def take(reader: Page, path: Path) -> None:
    reader.part("model").set_input_files(path)
    reader.done()


def row(reader: Page) -> dict[str, str]:
    heads, _, cells = reader.part("yours-row").input_value().splitlines()
    return dict(zip(heads.strip("| ").split(" | "), cells.strip("| ").split(" | "), strict=True))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("own", "×3, uint8 in, uint8 out, any size; values in 0..255 RGB"),
        ("x2", "×2, float32 in, float32 out, any size; values in 0..1 RGB"),
        ("x4", "×4, float32 in, float32 out, any size; values in 0..255 RGB"),
        ("int8", "×3, int8 in, int8 out, any size; values in 0..255 RGB"),
        ("one size", "×3, float32 in, float32 out, 48×64 pixels alone"),
        ("any size after all", "×3, uint8 in, uint8 out, any size"),
    ],
)
def test_a_readers_model_is_read_and_scored_as_the_library_does(
    kind: str, said: str, reader: Page, gathered: Path, tmp_path: Path, exported: Callable[..., Path]
) -> None:
    path = strange(kind, tmp_path, exported)
    take(reader, path)
    facts = reader.part("yours-facts").inner_text()
    assert facts.startswith(f"{path.name}: {said}")
    assert reader.part("yours-bits").inner_text() == "A second run gave the same bits."
    stranger = score.Stranger(path)
    luma = metrics.Protocol("y", stranger.scale)
    scores: dict[metrics.Protocol, list[float]] = {metrics.AUTHORS: [], luma: []}
    for image in ("cat", "rocket"):
        hr = degradation.crop_to_multiple(np.asarray(Image.open(gathered / "images" / f"{image}.png")), stranger.scale)
        estimate = stranger.upscale(degradation.bicubic_down(hr, stranger.scale))
        for protocol, found in scores.items():
            found.append(metrics.psnr(hr, estimate, protocol))
    ours = row(reader)
    for protocol, found in scores.items():
        # The same bits where the model is in integers; two sums in float32 may differ in their last place.
        digits = 0.0006 if stranger._output["dtype"] != np.float32 else 0.003
        assert abs(float(ours[f"PSNR cat+rocket {protocol.name}"]) - np.mean(found)) < digits
    # It stands beside what is of its own scale, and can be saved.
    left = "ABPN, INT8" if stranger.scale == 3 else f"Bicubic, ×{stranger.scale}"
    assert reader.page.locator("[data-side=left]").inner_text() == left
    assert reader.page.locator("[data-side=right]").inner_text().startswith("Yours: ")
    label = reader.part("right").locator("option:checked").inner_text()
    assert reader.png(label).size[0] == 300
    if stranger.scale != 3:
        chosen(reader, "left", "abpn")
        assert reader.part("right").input_value() == "bicubic", "one divider, one size"


def test_a_readers_model_is_timed_beside_abpn(reader: Page) -> None:
    take(reader, models.find("fsrl-int8-ptq"))
    assert row(reader)["Browser ms, not timed"] == "–"
    reader.part("yours-time").click()
    reader.page.wait_for_function("document.querySelector('[data-try=status]').textContent !== ''")
    reader.done()
    cells = row(reader)
    milliseconds = float(cells["Browser ms, 24x12"])
    points = float(cells["2^(2*PSNR-48)/ms, PSNR on cat+rocket, browser ms"])
    assert points == pytest.approx(paper.score(float(cells["PSNR cat+rocket rgb-border1"]), milliseconds), rel=0.1)
    assert float(cells[f"Browser time to {browser.MODELS['abpn']}"]) > 0
    rows = reader.part("yours-table").locator("tbody tr")
    assert rows.nth(1).locator("th").inner_text() == browser.MODELS["abpn"]
    assert rows.nth(1).locator("td").nth(3).inner_text() == "1.00"
    reader.part("yours-copy").click()
    reader.page.wait_for_function("/cop/i.test(document.querySelector('[data-try=status]').textContent)")


def test_how_a_model_is_read_can_be_told(reader: Page, tmp_path: Path) -> None:
    take(reader, written(tmp_path / "unit.tflite", 3, unit=True))
    found = row(reader)["PSNR cat+rocket rgb-border1"]
    chosen(reader, "yours-range", "0..255")
    assert "values in 0..255 RGB, of those tried" in reader.part("yours-facts").inner_text()
    assert float(row(reader)["PSNR cat+rocket rgb-border1"]) < float(found) - 5


def test_a_bad_model_gets_one_sentence_and_the_one_before_stays(reader: Page, tmp_path: Path, gathered: Path) -> None:
    good = models.find("abpn-int8-ptq")
    take(reader, good)
    before = np.asarray(reader.png("Yours: abpn-int8-ptq"))
    content, large = good.read_bytes(), tmp_path / "large.tflite"
    with large.open("wb") as file:
        file.truncate(2**27)
    stuck = graph.read(content)
    for operator in stuck.subgraphs[0].operators:
        if graph.name_of(stuck, operator) == "DEPTH_TO_SPACE":
            operator.builtinOptions.blockSize = -3
    bad: dict[str, bytes] = {
        "text.tflite": b"no model at all", "empty.tflite": b"", "cut.tflite": content[:9000],
        "stuck.tflite": graph.write(stuck),
        "two.tflite": next((gathered / "timed").glob("add-*")).read_bytes(),
        "five.tflite": written(tmp_path / "five.tflite", 5, unit=True).read_bytes(),
        "unnamed": content[:200],
        # LiteRT for browsers fails at this one's output, but says so on the console alone.
        "silent.tflite": models.find("fsrcnn-fp32").read_bytes(),
    }
    for path in [large, *(tmp_path / name for name in bad)]:
        if path != large:
            path.write_bytes(bad[path.name])
        reader.part("model").set_input_files(path)
        reader.part("error").filter(has_text=f"{path.name}: ").wait_for()
        sentence = reader.error()
        assert sentence.endswith("."), sentence
        assert "\n" not in sentence
        assert reader.part("yours-facts").inner_text().startswith(good.name)
        reader.page.wait_for_function("document.querySelector('[data-try=progress]').hidden")
    assert np.array_equal(np.asarray(reader.png("Yours: abpn-int8-ptq")), before)


@pytest.mark.slow
def test_a_model_without_end_is_given_up_and_the_page_goes_on(reader: Page, tmp_path: Path) -> None:
    import tensorflow as tf

    def enlarge(lr: Any) -> Any:
        start = (tf.constant(0), lr)
        _, turned = tf.while_loop(lambda n, _: n < 2**31 - 2, lambda n, x: (n + 1, x * 1.0000001), start)
        return tf.nn.depth_to_space(tf.concat([turned] * 4, -1), 2)

    take(reader, models.find("abpn-int8-ptq"))
    reader.part("model").set_input_files(converted(tmp_path / "endless.tflite", enlarge))
    reader.page.wait_for_function("document.querySelector('[data-try=status]').textContent.startsWith('Trying')")
    reader.part("cancel").click()
    reader.page.wait_for_function("document.querySelector('[data-try=status]').textContent === 'Cancelled.'")
    assert reader.part("yours-facts").inner_text().startswith("abpn-int8-ptq.tflite: ×3")
    assert reader.png("Yours: abpn-int8-ptq").size == (300, 270)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_what_the_page_shows_of_a_model(
    scheme: str, chromium: Any, address: str, litert: Path
) -> None:
    page = Page(chromium, address, viewport={"width": 375, "height": 800}, color_scheme=scheme)
    take(page, models.find("abpn-int8-ptq"))
    chosen(page, "show", "float")
    assert page.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.page.add_script_tag(path=litert / "axe.min.js")
    # What belongs to a whole page, the book's theme brings.
    found = page.page.evaluate("axe.run('.abpn-try', { resultTypes: ['violations'] }).then(all => all.violations)")
    page.close()
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_a_model_can_be_dropped(reader: Page) -> None:
    content = list(models.find("abpn-int8-ptq").read_bytes())
    reader.page.evaluate(
        """content => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([Uint8Array.from(content)], "mine"));
          const drop = new DragEvent("drop", { dataTransfer, bubbles: true });
          document.querySelector("[data-try=drop]").dispatchEvent(drop);
        }""",
        content,
    )
    reader.page.wait_for_function("document.querySelector('[data-try=status]').textContent !== ''")
    reader.done()
    assert reader.part("yours-facts").inner_text().startswith("mine: ×3")


# --- light


def test_nothing_is_loaded_before_the_reader_asks(chromium: Any, address: str, gathered: Path) -> None:
    page = Page(chromium, address)
    page.page.wait_for_load_state("networkidle")
    assert sorted(url.rsplit("/", 1)[1] for url in page.requests if not url.startswith("data:")) == sorted(
        ["try.html", "try.css", *OWN_SCRIPTS]
    )
    first = [(gathered / name).read_bytes() for name in ("try.css", *OWN_SCRIPTS)]
    assert sum(len(gzip.compress(data)) for data in first) <= FIRST_LIMIT
    page.requests.clear()
    page.page.get_by_role("button", name="Cat").click()
    page.done()
    loaded = {url.split("?")[0].split("/try/")[1] for url in page.requests if "/try/" in url}
    assert {name for name in loaded if name.startswith(("models/", "timed/")) or "threaded" in name} == {
        f"models/{models.DEFAULT}.tflite"
    }
    page.close()
    loaded |= {"try.css", *OWN_SCRIPTS}
    contents = {name: (gathered / name).read_bytes() for name in loaded}
    size = sum(len(data if name.endswith(".gz") else gzip.compress(data)) for name, data in contents.items())
    print(f"one run: {size} bytes compressed, {len(loaded)} files")
    assert size <= LIMIT


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_page_fits(scheme: str, width: int, chromium: Any, address: str) -> None:
    page = Page(chromium, address, viewport={"width": width, "height": 800}, color_scheme=scheme)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.page.evaluate(wide) <= 0
    page.open(png(natural(30, 200)))
    page.done()
    assert page.page.evaluate(wide) <= 0
    page.close()


# --- usable by everybody


def test_the_viewer_by_keyboard(reader: Page) -> None:
    page = reader.page
    page.get_by_role("button", name="Rocket").focus()
    page.keyboard.press("Enter")
    reader.done()
    slider = page.get_by_role("slider")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "slider":
            break
    assert slider.get_attribute("aria-valuenow") == "50"
    for key, value in (("ArrowRight", 52), ("PageUp", 62), ("Home", 0), ("ArrowUp", 2), ("End", 100)):
        page.keyboard.press(key)
        assert slider.get_attribute("aria-valuenow") == str(value)
    assert slider.get_attribute("aria-valuetext") == "100 % Bicubic, the rest ABPN with 32 channels, INT8"
    canvas = page.locator(".abpn-try canvas")
    before = canvas.get_attribute("aria-label")
    canvas.focus()
    page.keyboard.press("+")
    assert canvas.get_attribute("aria-label") != before
    page.keyboard.press("0")
    assert canvas.get_attribute("aria-label") == before


def test_the_divider_by_mouse_shows_both_versions(reader: Page) -> None:
    reader.open(png(np.where(np.indices((40, 40)).sum(0)[..., None] % 2, 255, 0).repeat(3, 2).astype(np.uint8)))
    reader.done()
    slider, canvas = reader.page.get_by_role("slider"), reader.page.locator(".abpn-try canvas")
    pictures = []
    box = canvas.bounding_box()
    for share in (0.0, 1.0):
        slider.hover()
        reader.page.mouse.down()
        reader.page.mouse.move(box["x"] + share * box["width"], box["y"] + 50, steps=3)
        reader.page.mouse.up()
        assert slider.get_attribute("aria-valuenow") == str(int(100 * share))
        pictures.append(reader.page.evaluate("document.querySelector('.abpn-try canvas').toDataURL()"))
    assert pictures[0] != pictures[1]


def test_every_control_has_a_name() -> None:
    from bs4 import BeautifulSoup

    page = BeautifulSoup(markup(), "html.parser")
    for control in page.find_all(["button", "input", "select", "canvas", "progress"]):
        labelled = control.find_parent("label") or page.find("label", attrs={"for": control.get("id", "none")})
        assert control.get_text(strip=True) or control.get("aria-label") or labelled, control
    assert page.find("noscript").get_text().count(".") == 1, "one sentence"
    assert page.find(role="slider")["aria-label"]
    assert page.find(role="status")
    assert page.find(role="alert")


# --- progress, cancelling, errors


def test_a_long_job_shows_progress_and_can_be_cancelled(reader: Page) -> None:
    reader.page.evaluate(
        "new MutationObserver(() => (window.seen ??= []).push(document.querySelector('[data-try=progress]').value))"
        ".observe(document.querySelector('[data-try=progress]'), {attributes: true})"
    )
    reader.open(png(natural(260, 380)))
    status = reader.part("status")
    reader.page.wait_for_function(
        "document.querySelector('[data-try=status]').textContent.startsWith('Enlarging with')"
    )
    assert reader.part("progress").is_visible()
    # The page itself stays awake: its timers fire.
    waited = "new Promise(ok => { const from = performance.now(); setTimeout(() => ok(performance.now() - from)) })"
    assert reader.page.evaluate(waited) < 2000
    reader.part("cancel").click()
    reader.page.wait_for_function("document.querySelector('[data-try=status]').textContent === 'Cancelled.'")
    assert status.inner_text() == "Cancelled."
    assert reader.part("progress").is_hidden()
    assert len(set(reader.page.evaluate("window.seen"))) > 2
    reader.open(png(natural(20, 20)))
    reader.done()
    assert reader.png(OURS).size == (60, 60)


def huge() -> bytes:
    content = bytearray(png(noise(2, 2, 3)))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(content)


def test_bad_images_get_one_sentence_and_the_page_goes_on(reader: Page) -> None:
    for content, said in (
        (b"no image at all", "not an image"),
        (b"", "not an image"),
        (png(natural(60, 60))[:2000], "broken"),
        (png(natural(60, 60))[:20], "broken"),
        (b"\xff\xd8\xff\xe0 and then nothing", "broken"),
        (huge(), "3600 million pixels"),
    ):
        reader.open(content)
        sentence = reader.error()
        assert said in sentence
        assert sentence.rstrip(".").count(". ") == 0, "one sentence"
        assert sentence.endswith(".")
    reader.open(png(natural(9, 9)))
    reader.done()
    assert reader.png("Bicubic").size == (27, 27)


def test_after_a_bad_image_the_one_before_stays_and_is_named(reader: Page) -> None:
    pixels = natural(14, 17)
    reader.open(png(pixels), "good.png")
    reader.done()
    reader.open(b"no image at all", "bad.png")
    assert reader.error().startswith("bad.png: This file is not an image")
    assert reader.part("status").inner_text() == "Below is still good.png."
    assert reader.part("facts").inner_text().startswith("good.png: ")
    assert np.array_equal(np.asarray(reader.png(OURS)), by_library("abpn32", Image.fromarray(pixels)))


def test_what_a_dead_worker_held_is_no_longer_shown(reader: Page) -> None:
    reader.open(png(natural(14, 17)), "good.png")
    reader.done()
    worker = reader.page.workers[-1]
    worker.evaluate("setTimeout(() => { throw new Error('out of memory'); })")
    reader.page.wait_for_function("document.querySelector('[data-try=result]').hidden")
    assert "holds nothing any more" in reader.error()
    reader.open(png(natural(9, 9)))
    reader.done()


@pytest.mark.parametrize("missing", ["manifest.json", "work.js", ".wasm.gz", "core.js", "/models/"])
def test_a_failed_load_gets_one_sentence_and_can_be_tried_again(
    missing: str, reader: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Handler, "broken", missing)
    reader.open(png(natural(9, 9)))
    sentence = reader.error()
    assert sentence.endswith(".")
    assert "try" in sentence
    monkeypatch.setattr(_Handler, "broken", "")
    reader.open(png(natural(9, 9)))
    reader.done()


def test_a_changed_model_is_refused(reader: Page, gathered: Path) -> None:
    reader.page.route("**/models/*", lambda route: route.fulfill(body=b"TFL3 and something else"))
    reader.open(png(natural(9, 9)))
    assert "not the file that this page was built with" in reader.error()


def test_without_webassembly_the_page_says_so(reader: Page) -> None:
    # Chromium has no switch that takes it away everywhere, so the worker starts by forgetting it.
    worker = "delete globalThis.WebAssembly;" + (SOURCE / "worker.js").read_text()
    reader.page.route("**/worker.js", lambda route: route.fulfill(body=worker, content_type="text/javascript"))
    reader.open(png(natural(9, 9)))
    assert reader.error() == "This browser has no WebAssembly, which the models need: try another browser."


def test_without_javascript_the_page_says_so(chromium: Any, address: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert "This page needs JavaScript" in page.locator("main").inner_text()
    context.close()


# --- measuring


def measured(reader: Page, folder: Path) -> Path:
    reader.part("measure").click()
    reader.done("measure-")
    with reader.page.expect_download() as download:
        reader.part("save-record").click()
    path = folder / "abpn-browser.json"
    download.value.save_as(path)
    return path


def test_the_record_of_a_measurement_is_read_by_the_ledger(reader: Page, tmp_path: Path) -> None:
    path = measured(reader, tmp_path)
    records = results.load(path, "measured")
    assert {record.subject for record in records} == {
        "abpn-int8-ptq", "fsrcnn-int8-ptq", *(f"node-{node}" for node in paper.META_NODES)
    }
    for record in records:
        low, high = record.spread or (0, 0)
        # The nodes are tiny here, and a browser's clock is coarse.
        assert 0 <= low <= record.value <= high
        assert record.count == 6
        assert record.context.device.startswith("browser: Mozilla")
    assert "“235.0 ms”" in reader.part("table3").inner_text()
    assert "“75.4 ms”" in reader.part("table1").inner_text()
    assert "■" in reader.part("table1").inner_text()
    command = [sys.executable, "-m", "abpn_lib.cli", "claims", "--json", "--add", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == len(claims.claims())


def test_several_threads_where_the_reader_allows_them(reader: Page, tmp_path: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core")
    assert not reader.page.evaluate("crossOriginIsolated")
    with reader.page.expect_navigation():
        reader.part("threads").click()
    reader.page.wait_for_selector("html[data-try-ready=yes]")
    assert reader.page.evaluate("crossOriginIsolated")
    assert reader.part("threads").is_hidden()
    records = results.load(measured(reader, tmp_path))
    assert {record.get("threads") for record in records} == {1, min(os.cpu_count() or 1, 8)}


# --- the gathered folder, the page's source, its own unit tests


def test_the_manifest_describes_what_is_there(gathered: Path) -> None:
    manifest = json.loads((gathered / "manifest.json").read_text())
    from abpn_lib.files import sha256

    described: list[dict[str, Any]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            described.extend([value] if "sha256" in value else [])
            value = list(value.values())
        for inner in value if isinstance(value, list) else ():
            walk(inner)

    walk(manifest)
    # LiteRT, the models with their twins (FSRCNN has none), what is timed, the images.
    assert len(described) == 2 + (2 * len(browser.MODELS) - 1) + 2 + 12 + 2
    for entry in described:
        path = gathered / entry["file"]
        assert (path.stat().st_size, sha256(path)) == (entry["bytes"], entry["sha256"])
    for method, name in browser.MODELS.items():
        assert manifest["models"][method]["sha256"] == sha256(models.find(name))
        assert manifest["models"][method]["label"] in markup()
    examples = set(re.findall(r'data-example="(\w+)"', markup()))
    assert examples == {example["name"] for example in manifest["examples"]}


def test_nothing_of_the_page_comes_from_elsewhere(gathered: Path) -> None:
    for path in [*SOURCE.glob("*.js"), *SOURCE.glob("*.css")]:
        assert not re.search(r"https?://|[\"']//", path.read_text()), path.name
    assert not re.search(r"(src|href)=\"(https?:)?//", markup())
    core = next(gathered.glob("litert-*/core.js")).read_text()
    assert re.findall(r'^import .* from "([^"]+)"', core, re.M) == ["./wasm-utils.js"]
    assert not list(gathered.rglob("*.map"))


def test_the_lock_pins_every_package_and_names_no_server() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    wanted = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        entry = lock["packages"][f"node_modules/{name}"]
        assert entry["version"] == version
        assert entry["integrity"].startswith("sha512-")
    assert "http" not in json.dumps(lock)


def readings() -> Iterator[dict[str, Any]]:
    """What the library's scorer gives a model for every grey, and reads from what the model gives."""
    stranger = score.Stranger.__new__(score.Stranger)
    greys = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    rng = np.random.default_rng(2)
    for dtype, scale, zero in (
        ("uint8", 1.0, 0), ("uint8", 1 / 255, 3), ("int8", 0.0078, -7), ("int8", 0.0, 0), ("float32", 0.0, 0)
    ):
        tensor = {"dtype": np.dtype(dtype).type, "quantization": (float(np.float32(scale)), zero)}
        stranger._input = stranger._output = tensor
        values = np.arange(256, dtype=np.uint8).view(np.int8) if dtype == "int8" else np.arange(256, dtype=np.uint8)
        for stranger.range, (low, high) in score.RANGES.items():
            outputs = rng.uniform(low - 1, high + 1, 256).astype(np.float32) if dtype == "float32" else values
            given = []
            stranger._invoke = lambda image, given=given, outputs=outputs: given.append(image) or outputs
            pixels = stranger._run(greys)
            yield {
                "image": {"dtype": dtype, "height": -1, "width": -1, "scale": tensor["quantization"][0], "zero": zero},
                "range": stranger.range, "values": given[0].ravel().tolist(),
                "outputs": outputs.tolist(), "pixels": pixels.ravel().tolist(),
            }


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the library computes, for the page's unit tests."""
    rng = np.random.default_rng(1)

    def image(height: int, width: int) -> NDArray[np.uint8]:
        return rng.integers(0, 256, (height, width, 4), dtype=np.uint8)

    bicubic = []
    for height, width in ((1, 1), (2, 5), (9, 12), (17, 31), (30, 27), (24, 12)):
        pixels = image(height, width)
        cases: list[tuple[int, Callable[[NDArray, int], NDArray]]] = [(3, degradation.bicubic_up)]
        cases += [(-by, degradation.bicubic_down) for by in (2, 3, 4) if height % by == width % by == 0]
        for scale, resize in cases:
            bicubic.append({
                "width": width, "height": height, "scale": scale, "pixels": pixels.ravel().tolist(),
                "expected": resize(pixels, abs(scale)).ravel().tolist(),
            })
    whole = natural(90, 120)
    rgba = np.dstack([whole, np.full(whole.shape[:2], 255, np.uint8)])
    bicubic.append({
        "width": 120, "height": 90, "scale": 3, "pixels": rgba.ravel().tolist(),
        "expected": degradation.bicubic_up(rgba, 3).ravel().tolist(),
    })
    scores = []
    for height, width in ((13, 13), (20, 33), (40, 40)):
        truth = image(height, width)
        other = np.clip(truth.astype(int) + rng.integers(-20, 21, truth.shape), 0, 255).astype(np.uint8)
        scores.append({
            "width": width, "height": height, "truth": truth.ravel().tolist(), "other": other.ravel().tolist(),
            "psnr": metrics.psnr(truth[..., :3], other[..., :3]),
            "luma": metrics.psnr(truth[..., :3], other[..., :3], metrics.Y_BORDER3),
            "ssim": metrics.ssim(truth[..., :3], other[..., :3]),
        })
    cuts = [
        {"length": length, "tile": tile, "halo": halo,
         "expected": [[read.start, read.stop, kept.start, kept.stop] for read, kept, _ in spans(length, tile, halo)]}
        for length, tile, halo in ((1, 128, 7), (128, 128, 7), (129, 128, 7), (300, 64, 8), (37, 5, 2))
    ]
    from abpn_lib.timing.rounds import median_interval

    intervals = [
        {"samples": samples, "expected": median_interval(samples)}
        for samples in (rng.uniform(1, 9, count).tolist() for count in (1, 2, 5, 6, 7, 15, 25))
    ]
    points = [{"psnr": db, "ms": ms, "expected": paper.score(db, ms)} for db, ms in ((24.0, 1.0), (31.4, 12.5))]
    path = tmp_path_factory.mktemp("vectors") / "vectors.json"
    named = {name: str(models.find(model)) for name, model in browser.MODELS.items()}
    path.write_text(json.dumps(
        {"bicubic": bicubic, "scores": scores, "spans": cuts, "intervals": intervals, "models": named,
         "readings": list(readings()), "points": points}
    ))
    return path


def test_unit_tests_in_node(vectors: Path, tmp_path: Path) -> None:
    try:
        command = browser.node("node")
    except browser.BuildError as error:
        pytest.skip(str(error))
    files = sorted(map(str, (SOURCE / "tests").glob("*.test.js")))
    assert files
    done = subprocess.run(
        [*command, "--test", *files], capture_output=True, text=True,
        env={**os.environ, "VECTORS": str(vectors), "PATCHED": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # What the page gives LiteRT for another size is what LiteRT's own resizing makes of the model.
    from ai_edge_litert.interpreter import Interpreter

    pixels = natural(9, 14)
    for method in browser.MODELS:
        interpreter = Interpreter(model_path=str(tmp_path / f"{method}.tflite"))
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        assert np.array_equal(output, by_library(method, Image.fromarray(pixels)))
