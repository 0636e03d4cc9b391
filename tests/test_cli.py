"""The command line as its user meets it: real files, bad input of every kind; in process but for three."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from abpn_lib import claims, cli, models, paper, results
from abpn_lib.train import recipe

MODEL = "abpn-int8-ptq"
COMMANDS = ("models", "upscale", "export", "train", "quantize", "average", "curves", "evaluate", "latency", "claims")

Abpn = Callable[..., str]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; its status, standard output and standard error, LiteRT's own lines included."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = cli.main(list(map(str, words)))
        except SystemExit as left:  # argparse ends so, for --help and for what it refuses
            status = int(left.code or 0)
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def abpn(run: Callable[..., tuple[int, str, str]]) -> Abpn:
    """Run a command that succeeds and has nothing to say on standard error; what it prints."""

    def abpn(*words: str | Path) -> str:
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        return out

    return abpn


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]]) -> Callable[..., None]:
    """Run a command that ends with status 2 and a last line that names the input."""

    def refused(*words: str | Path, mentions: str) -> None:
        status, out, err = run(*words)
        assert status == 2, (words, err)
        assert mentions in err.strip().splitlines()[-1], err
        assert out == ""

    return refused


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(skimage.data.chelsea()[:40, :61]).save(path)
    return path


# Three real processes


def process(*words: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "abpn_lib.cli"]
    return subprocess.run([sys.executable, *start, *map(str, words)], capture_output=True, text=True)


def test_help_and_models_load_no_heavy_library() -> None:
    done = process(code="""
import sys
from abpn_lib import cli
cli.main(["models"])
heavy = {"tensorflow", "tf_keras", "scipy", "skimage", "pandas", "matplotlib", "pooch", "requests"} & set(sys.modules)
try:
    cli.main(["--help"])
finally:
    print(sorted(heavy), file=sys.stderr)
""")
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert all(command in done.stdout for command in (*COMMANDS, "data"))


def test_a_broken_pipe_is_no_error() -> None:
    command = f"'{sys.executable}' -m abpn_lib.cli models --json | head -c 9; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[\n {\n  \"n", "")


def test_bad_input_is_one_line_of_a_real_process(tmp_path: Path) -> None:
    done = process("upscale", tmp_path / "none.png", "-o", tmp_path / "out.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("abpn: ")
    assert "none.png" in done.stderr


# In process


@pytest.mark.parametrize("command", [*COMMANDS, "data fetch", "data verify"])
def test_every_command_shows_an_example(abpn: Abpn, command: str) -> None:
    assert "Example: abpn" in abpn(*command.split(), "--help")


def test_help_names_every_recipe(abpn: Abpn) -> None:
    text = " ".join(abpn("train", "--help").split())
    assert all(f" {name}" in text.replace("- ", "-") for name in recipe.names())


def test_models_as_json_and_as_records(abpn: Abpn, tmp_path: Path) -> None:
    rows = json.loads(abpn("models", "--json", "--out", tmp_path / "r.json"))
    sizes = {record.subject: record.value for record in results.load(tmp_path / "r.json") if record.quantity == "size"}
    assert sizes == {model.name: model.path.stat().st_size for model in models.catalogue()}
    assert {"name", "path", "kind", "sha256", "provenance"} <= set(rows[0])
    assert [row["name"] for row in rows] == list(sizes)


def test_upscale_a_file_and_a_folder(abpn: Abpn, tmp_path: Path, photo: Path) -> None:
    assert abpn("upscale", photo, "-o", tmp_path / "large.png", "--model", MODEL) == ""
    assert Image.open(tmp_path / "large.png").size == (183, 120)
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    Image.fromarray(skimage.data.camera()[:20, :30]).save(folder / "b.jpg")
    (folder / "notes.txt").write_text("not an image")
    words = ("upscale", folder, "-o", tmp_path / "out", "--model", models.find(MODEL))
    # The number of threads, all cores unless it is named, changes no bit.
    assert abpn(*words, "--quiet", "--threads", "1") == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "large.png").read_bytes()


def test_a_bad_image_does_not_stop_a_folder(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, photo: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    (folder / "b.png").write_text("no image")
    (folder / "c.png").write_bytes(photo.read_bytes()[:200])
    shutil.copy(photo, folder / "d.png")
    status, out, err = run("upscale", folder, "-o", tmp_path / "out", "--model", MODEL)
    assert status == 2
    assert out.startswith("2 images in ")
    assert all(name in err for name in ("2 of 4", "b.png", "c.png"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]


def test_a_name_may_be_as_long_as_names_can_be(
    abpn: Abpn, refused: Callable[..., None], tmp_path: Path, photo: Path
) -> None:
    abpn("upscale", photo, "-o", tmp_path / f"{'x' * 251}.png", "--model", MODEL)
    refused("upscale", photo, "-o", tmp_path / f"{'x' * 252}.png", "--model", MODEL, mentions="name too long")
    assert len(os.listdir(tmp_path)) == 2


def test_upscale_refuses_bad_input(refused: Callable[..., None], tmp_path: Path, photo: Path) -> None:
    out = tmp_path / "out.png"
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "twins").mkdir()
    for suffix in ("png", "jpg"):
        Image.open(photo).save(tmp_path / "twins" / f"a.{suffix}")
    for words, mentions in (
        ((tmp_path / "text.png", "-o", out), "text.png"),
        ((tmp_path / "cut.png", "-o", out), "cut.png"),
        ((tmp_path / "empty", "-o", tmp_path / "o"), "empty"),
        ((tmp_path / "twins", "-o", tmp_path / "o"), "rename"),
        ((photo, "-o", tmp_path), "folder"),
        ((tmp_path / "twins", "-o", photo), "photo.png"),
        ((photo, "-o", photo), "overwritten"),
        # What can be refused before the enlargement is: the image is not even opened.
        ((tmp_path / "text.png", "-o", tmp_path / "out.nonsense"), "nonsense"),
        ((tmp_path / "text.png", "-o", tmp_path / "no" / "such" / "out.png"), "such"),
        ((photo, "-o", out, "--model", "nonsense"), "nonsense"),
        ((photo, "-o", out, "--model", photo), "photo.png"),
        ((photo, "-o", out, "--tile", "0"), "--tile"),
    ):
        refused("upscale", *words, mentions=mentions)
    assert not out.exists()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("latency", MODEL, "--size", "²x3"), ("latency", MODEL, "--size", "9" * 5000 + "x3"),
        ("latency", MODEL, "--size", "huge"), ("latency", MODEL, "--threads", "100000000000"),
        ("latency", "--rounds", "0"), ("upscale", "x.png", "-o", "y.png", "--threads", "²"),
        ("evaluate", "--model", "bicubic", "--workers", "1" * 5000),
        ("export", MODEL, "-o", "y.tflite", "--size", "8x8", "--batch", "1000000000000"),
        ("export", MODEL, "-o", "y.tflite", "--size", "0x9"),
        ("train", "--out", "run", "--data", "embedded", "--steps", "1" + "0" * 30),
        ("train", "--out", "run", "--data", "embedded", "--scale", "50"),
        ("train", "--out", "run", "--data", "embedded", "--pairs", "2000"),
        ("train", "--out", "run", "--data", "embedded", "--lr", "nan"),
    ],
)
def test_a_number_out_of_range_is_named(
    refused: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(*words, mentions=words[-1][:20])
    assert not list(tmp_path.iterdir())


def test_evaluate_gives_records(abpn: Abpn, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    rows = json.loads(abpn("evaluate", "--model", "bicubic", "--model", MODEL, "--json", "--out", out, "--no-ssim"))
    assert [row["value"] for row in rows] == [record.value for record in results.load(out)]
    bicubic, ours = results.load(out)
    assert (bicubic.count, bicubic.quantity, bicubic.subject, ours.subject) == (8, "psnr", "bicubic", MODEL)
    # Each record's command measures it alone again.
    assert bicubic.context.command.startswith("abpn evaluate --model bicubic --json")


def test_evaluate_refuses_bad_input(
    refused: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    bicubic = ("evaluate", "--model", "bicubic")
    refused(*bicubic, "--data", "nonsense", mentions="nonsense")
    refused("evaluate", "--model", "nonsense", mentions="nonsense")
    refused(*bicubic, "--data", "authors", mentions="authors")
    refused(*bicubic, "--data", "set5", mentions="abpn data fetch set5")
    refused(*bicubic, "--out", tmp_path / "no" / "r.json", mentions="does not exist")
    refused(*bicubic, "--model", "bicubic", mentions="bicubic")
    twin = tmp_path / "a" / "a" / f"{MODEL}.tflite"
    twin.parent.mkdir(parents=True)
    shutil.copytree(twin.parent, tmp_path / "b" / "a")
    for folder in ("a", "b"):
        shutil.copy(models.find(MODEL), tmp_path / folder / "a" / twin.name)
    pair = (tmp_path / "a" / "a" / twin.name, tmp_path / "b" / "a" / twin.name)
    refused("evaluate", "--model", pair[0], "--model", pair[1], mentions="rename one")
    refused("latency", *pair, mentions="rename one")


def test_latency_times_models_and_compares_with_the_first(abpn: Abpn, tmp_path: Path) -> None:
    words = ("latency", MODEL, "fsrcnn-int8-ptq", "--size", "48x32", "--rounds", "7", "--out", tmp_path / "r.json")
    printed = abpn(*words)
    assert "fsrcnn-int8-ptq takes " in printed
    assert f" times as long as {MODEL}" in printed
    record = results.load(tmp_path / "r.json")[0]
    assert (record.subject, record.quantity, record.unit, record.count) == (MODEL, "latency", "ms", 7)
    assert record.value > 0
    assert (record.columns["size"], record.columns["threads"]) == ("48x32", 1)


def test_latency_refuses_bad_input(refused: Callable[..., None]) -> None:
    refused("latency", "nonsense", mentions="nonsense")
    refused("latency", MODEL, "--benchmark-sha256", "0" * 64, mentions="--device android")
    refused("latency", MODEL, "--device", "iphone", mentions="iphone")


def test_export_writes_what_a_device_wants(abpn: Abpn, refused: Callable[..., None], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    out = tmp_path / "phone.tflite"
    abpn("export", MODEL, "--size", "48x32", "--io", "int8", "--batch", "2", "-o", out)
    (image,) = Interpreter(model_path=str(out)).get_input_details()
    assert (image["shape_signature"].tolist(), image["dtype"]) == ([2, 32, 48, 3], np.int8)
    # A broken model is found before the good file is replaced.
    content = bytearray(models.find(MODEL).read_bytes())
    (tmp_path / "broken.tflite").write_bytes(content[: len(content) // 3])
    before = out.read_bytes()
    refused("export", tmp_path / "broken.tflite", "-o", out, mentions="broken")
    assert out.read_bytes() == before
    other = tmp_path / "other.tflite"
    refused("export", "nonsense", "-o", other, mentions="nonsense")
    refused("export", "abpn-fp32", "--io", "int8", "-o", other, mentions="uint8")
    refused("export", MODEL, "--batch", "2", "-o", other, mentions="--size")
    assert not other.exists()


def test_claims_takes_records_of_another_device(abpn: Abpn, refused: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "abpn-browser.json"
    here = results.Context("a page", "browser: a phone", {}, "", "2026-01-01")
    where = {"size": "1920x1080", "threads": 1, "kernels": "xnnpack-wasm", "channels": 3}
    results.save(path, [
        here.record("latency", f"node-{node}", 1.0 + n, "ms", count=9, spread=(0.5, 99), **where)
        for n, node in enumerate(paper.META_NODES)
    ])
    printed = abpn("claims", "--json", "--add", path)
    assert len(claims.from_json(printed)) == len(claims.claims())
    assert "a phone" in next(line for line in printed.splitlines() if "a phone" in line)
    path.write_text("no JSON")
    refused("claims", "--add", path, mentions=path.name)
    refused("claims", "--records", tmp_path / "none.json", mentions="none.json")


def test_data_refuses_bad_input(
    refused: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    refused("data", "fetch", "nonsense", mentions="nonsense")
    refused("data", "verify", "set5", mentions="abpn data fetch set5")
    assert not list(tmp_path.iterdir())


def test_train_then_quantize(
    abpn: Abpn, run: Callable[..., tuple[int, str, str]], refused: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = tmp_path / "run", tmp_path / "models"
    tiny = ("--steps", "6", "--save-every", "3", "--no-validation", "--quiet")
    with monkeypatch.context() as without:
        without.setenv("ABPN_DATA", str(tmp_path))
        refused("train", "--data", "set5", "--out", folder, mentions="set5")
    refused("quantize", "--run", tmp_path / "none", "--out", out, mentions="none")
    assert not list(tmp_path.iterdir())
    assert run("train", "--data", "embedded", "--batch", "2", "--patch", "16", *tiny, "--out", folder)[0] == 0
    quantize = ("quantize", "--run", folder, "--out", out, "--calibrate", "embedded", "--images", "2")
    for name in ("a/b", "../x"):
        assert run(*quantize, "--name", name)[0] == 2
    assert run(*quantize, "--qat", "nosuch")[0] == 2
    assert not out.exists()
    status, printed, _ = run(*quantize, "--qat", "qat-table2", "--data", "embedded", *tiny)
    assert status == 0
    made = [f"abpn-{form}.tflite" for form in ("fp32", "int8-ptq", "int8-qat")]
    assert [Path(line).name for line in printed.split()] == made
    assert sorted(path.name for path in out.glob("*.tflite")) == made
    provenance = json.loads((out / "abpn-int8-qat.json").read_text())
    assert provenance["steps"] == 6
    assert provenance["command"].startswith("abpn quantize")
    assert provenance["ranges"]
    # What was made can be used at once.
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "x.png")
    abpn("upscale", tmp_path / "x.png", "-o", tmp_path / "y.png", "--model", out / "abpn-int8-qat.tflite")
