from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from abpn_lib import datasets
from abpn_lib.datasets import Dataset, Entry
from abpn_lib.degradation import bicubic_down
from abpn_lib.files import DataError


def png(height: int = 14, width: int = 17, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for i, name in enumerate(names):
            zipped.writestr(f"DIV2K_small/{name}", png(seed=i))
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FILES = {"/one.png": png(seed=1), "/two.png": png(seed=2), "/small.zip": archive("0001.png", "0002.png")}


class Handler(BaseHTTPRequestHandler):
    """Serves FILES: whole; cut, with a Content-Length (/short) or without (/cut); or garbage (/wrong)."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        manner, _, name = self.path[1:].rpartition("/")
        content = FILES.get(f"/{name}")
        if content is None:
            self.send_error(404, "no such file")
            return
        self.send_response(200)
        if manner != "cut":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        sent = {"": content, "short": content[: len(content) // 2], "cut": content[:100], "wrong": bytes(len(content))}
        self.wfile.write(sent[manner])

    def log_message(self, *words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    asked: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def listing(address: str, *names: str, manner: str = "") -> Dataset:
    entries = tuple(Entry(f"set/{name}", digest(FILES[f"/{name}"]), f"{address}{manner}/{name}") for name in names)
    return Dataset("mine", entries)


def zipped_set(address: str, *members: str) -> Dataset:
    archive = Entry("DIV2K/small.zip", digest(FILES["/small.zip"]), f"{address}/small.zip")
    entries = tuple(Entry(f"DIV2K/small/{member}") for member in members or ("0001.png", "0002.png"))
    return Dataset("small", entries, archive)


def everything_below(root: Path) -> list[str]:
    """Files and empty folders, hidden ones too."""
    leaves = (path for path in root.rglob("*") if not path.is_dir() or not any(path.iterdir()))
    return sorted(str(path.relative_to(root)) for path in leaves)


def refusal(found: Dataset, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        datasets.fetch(found, root, progress=False)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_are_fetched_whole_and_read(server: Server, tmp_path: Path) -> None:
    found = listing(server.address, "one.png", "two.png")
    assert not datasets.available(found, tmp_path)
    paths = datasets.fetch(found, tmp_path, progress=False)
    assert [path.read_bytes() for path in paths] == [FILES["/one.png"], FILES["/two.png"]]
    assert everything_below(tmp_path) == ["set/one.png", "set/two.png"]
    assert datasets.available(found, tmp_path)
    assert datasets.verify(found, tmp_path) == 2
    shapes = {name: hr.shape for name, hr in datasets.images(found, tmp_path)}
    assert shapes == {"one": (12, 15, 3), "two": (12, 15, 3)}  # 14 x 17, cropped to a multiple of 3
    # The mode is the user's own, as for any file: a cache can be shared.
    (tmp_path / "plain").touch()
    assert paths[0].stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    found = listing(server.address, "one.png", "two.png")
    datasets.fetch(found, tmp_path, progress=False)
    (tmp_path / "set/one.png").unlink()
    datasets.fetch(found, tmp_path, progress=False)
    assert server.asked == ["/one.png", "/two.png", "/one.png"]


@pytest.mark.parametrize("manner", ["/short", "/cut"])
def test_a_truncated_download_leaves_nothing(server: Server, tmp_path: Path, manner: str) -> None:
    message = refusal(listing(server.address, "one.png", manner=manner), tmp_path)
    assert "one.png" in message
    assert everything_below(tmp_path) == ["set"]


def test_what_a_killed_download_left_is_removed_later(server: Server, tmp_path: Path) -> None:
    old, new = tmp_path / "set/.abpn-1-old.tmp", tmp_path / "set/.abpn-2-new.tmp"
    old.parent.mkdir()
    for scratch in (old, new):
        scratch.write_bytes(b"half")
    os.utime(old, (0, 0))
    datasets.fetch(listing(server.address, "one.png"), tmp_path, progress=False)
    # The new one may be another process's, at work.
    assert everything_below(tmp_path) == ["set/.abpn-2-new.tmp", "set/one.png"]


def test_a_download_of_another_hash_is_refused_with_both_hashes(server: Server, tmp_path: Path) -> None:
    message = refusal(listing(server.address, "one.png", manner="/wrong"), tmp_path)
    for part in ("one.png", digest(FILES["/one.png"]), digest(bytes(len(FILES["/one.png"])))):
        assert part in message
    assert everything_below(tmp_path) == ["set"]


def test_a_wrong_file_that_was_there_is_refused_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/one.png").write_bytes(b"somebody's work")
    found = listing(server.address, "one.png")
    message = refusal(found, tmp_path)
    for part in (str(tmp_path / "set/one.png"), digest(b"somebody's work"), digest(FILES["/one.png"]), "delete it"):
        assert part in message
    assert (tmp_path / "set/one.png").read_bytes() == b"somebody's work"
    assert server.asked == []
    with pytest.raises(DataError, match="sha256"):
        datasets.verify(found, tmp_path)
    with pytest.raises(DataError, match="sha256"):
        list(datasets.images(found, tmp_path))


def test_a_file_the_server_does_not_have(server: Server, tmp_path: Path) -> None:
    entry = Entry("set/gone.png", "0" * 64, f"{server.address}/gone.png")
    message = refusal(Dataset("mine", (entry,)), tmp_path)
    assert "404" in message
    assert f"{server.address}/gone.png" in message
    assert everything_below(tmp_path) == ["set"]


def test_an_address_that_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        message = refusal(listing(f"http://127.0.0.1:{closed.getsockname()[1]}", "one.png"), tmp_path)
    assert message.startswith("one.png could not be fetched: check the network and try again")
    assert everything_below(tmp_path) == ["set"]


def test_an_address_that_is_none(tmp_path: Path) -> None:
    assert "one.png could not be fetched" in refusal(listing("nonsense:", "one.png"), tmp_path)


def test_files_before_a_failing_one_are_kept(server: Server, tmp_path: Path) -> None:
    good, bad = listing(server.address, "one.png"), listing(server.address, "two.png", manner="/wrong")
    refusal(Dataset("mine", (*good.entries, *bad.entries)), tmp_path)
    assert everything_below(tmp_path) == ["set/one.png"]


def test_a_folder_that_cannot_be_made_is_an_os_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"a file where the folder should be")
    with pytest.raises(OSError, match="set"):
        datasets.fetch(listing(server.address, "one.png"), tmp_path, progress=False)


def test_progress_goes_to_standard_error_and_only_if_wanted(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.fetch(listing(server.address, "one.png"), tmp_path / "a")
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    datasets.fetch(listing(server.address, "one.png", "two.png"), tmp_path / "b")
    out, err = capsys.readouterr()
    assert out == ""
    assert "mine" in err
    assert "2/2" in err
    datasets.fetch(zipped_set(server.address), tmp_path / "c")
    assert "small" in capsys.readouterr().err
    datasets.fetch(listing(server.address, "one.png", "two.png"), tmp_path / "d", progress=False)
    datasets.fetch(zipped_set(server.address), tmp_path / "d", progress=False)
    assert capsys.readouterr() == ("", "")


def test_an_archive_is_fetched_and_unpacked(server: Server, tmp_path: Path) -> None:
    found = zipped_set(server.address)
    with pytest.raises(DataError, match="abpn data fetch small"):
        list(datasets.images(found, tmp_path))
    datasets.fetch(found, tmp_path, progress=False)
    assert everything_below(tmp_path) == ["DIV2K/small.zip", "DIV2K/small/0001.png", "DIV2K/small/0002.png"]
    assert [(name, hr.shape) for name, hr in datasets.images(found, tmp_path)] == [
        ("0001", (12, 15, 3)), ("0002", (12, 15, 3)),
    ]
    assert datasets.verify(found, tmp_path) == 1
    # Without the archive the images are still of use, and nothing is fetched; they cannot be verified.
    (tmp_path / "DIV2K/small.zip").unlink()
    assert datasets.available(found, tmp_path)
    assert datasets.fetch(found, tmp_path, progress=False) == []
    assert server.asked == ["/small.zip"]
    with pytest.raises(DataError, match="no hash can be checked"):
        datasets.verify(found, tmp_path)


def test_a_half_unpacked_archive_is_unpacked_again(server: Server, tmp_path: Path) -> None:
    found = zipped_set(server.address)
    datasets.fetch(found, tmp_path, progress=False)
    (tmp_path / "DIV2K/small/0002.png").unlink()
    (tmp_path / "DIV2K/small/0001.png").write_bytes(b"half")
    assert not datasets.available(found, tmp_path)
    datasets.fetch(found, tmp_path, progress=False)
    assert len(list(datasets.images(found, tmp_path))) == 2
    assert server.asked == ["/small.zip"]


def test_an_archive_without_its_images_is_refused(server: Server, tmp_path: Path) -> None:
    message = refusal(zipped_set(server.address, "0001.png", "0009.png"), tmp_path)
    assert message.endswith("does not hold 0009.png")
    assert everything_below(tmp_path) == ["DIV2K/small.zip"]


def test_the_cache_folder_is_the_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    assert datasets.data_root() == tmp_path
    assert not datasets.available("set5")
    with pytest.raises(DataError, match=r"img_001_SRF_3_HR\.png is missing: run `abpn data fetch set5`.*ABPN_DATA"):
        next(datasets.images("set5"))
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("ABPN_DATA")
        else:
            monkeypatch.setenv("ABPN_DATA", unset)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert datasets.data_root().name == "abpn"
        assert datasets.data_root() != tmp_path


@pytest.mark.parametrize("name", [name for name in datasets.DATASETS if not datasets.dataset(name).archive])
def test_every_registered_file_is_found_without_a_download(data_folder: Path, name: str) -> None:
    further = ("train-more", "train-all", "train-photos", "select", "div2k-valid-36")
    if name in further and not datasets.available(name, data_folder):
        pytest.skip(f"{name} is not in the data folder: abpn data fetch {name}")
    assert datasets.available(name, data_folder)
    assert datasets.verify(name, data_folder) == len(datasets.dataset(name).entries)


def test_the_registry_is_well_formed() -> None:
    rows = list(csv.DictReader((Path(datasets.__file__).parent / "registry.csv").read_text().splitlines()))
    assert len({row["path"] for row in rows}) == len(rows)
    for row in rows:
        assert row["dataset"].partition("/")[0] in datasets.DATASETS
        assert len(row["sha256"]) == 64
        assert int(row["sha256"], 16)
        assert row["halve"] in ("yes", "no")
        assert row["licence"]
        # A home at a pinned commit, never a branch that moves; DIV2K's archives have their official one.
        assert row["address"].startswith("https://")
        commits = [part for part in row["address"].split("/") if re.fullmatch("[0-9a-f]{40}", part)]
        assert commits or row["path"].endswith(".zip")
    unions = ("train-all", "train-photos")
    counts = {name: len(datasets.dataset(name).registered) for name in datasets.DATASETS if name not in unions}
    assert sum(counts.values()) == len(rows)
    assert len(datasets.dataset("train-all").entries) == counts["train"] + counts["train-more"]
    assert [counts[name] for name in (*datasets.BENCHMARKS, "authors")] == [5, 14, 100, 100, 4]


def test_graphics_are_the_images_with_flat_areas(data_folder: Path) -> None:
    if not datasets.available("train-all", data_folder):
        pytest.skip("train-all is not in the data folder: abpn data fetch train-all")
    photos = {Path(entry.path).stem for entry in datasets.dataset("train-photos").entries}
    for name, hr in datasets.images("train-all", data_folder):
        assert ((hr[:, 1:] == hr[:, :-1]).all(axis=-1).mean() <= 0.6) == (name in photos), name


def test_training_images_are_not_test_images() -> None:
    hashes = {name: {entry.sha256 for entry in datasets.dataset(name).registered} for name in datasets.DATASETS}
    for unseen in (*datasets.BENCHMARKS, "select", "div2k-valid-36"):
        assert not hashes["train-all"] & hashes[unseen]
    for test in (*datasets.BENCHMARKS, "div2k-valid-36"):
        assert not hashes["select"] & hashes[test]


def test_div2k_is_its_official_archives() -> None:
    for name, count, first in (
        ("div2k-train", 800, "0001.png"), ("div2k-valid", 100, "0801.png"),
        ("div2k-train-lr", 800, "0001x3.png"), ("div2k-valid-lr", 100, "0801x3.png"),
    ):
        found = datasets.dataset(name)
        assert found.archive is not None
        assert len(found.entries) == count
        assert found.entries[0].path == f"{found.archive.path.removesuffix('.zip')}/{first}"
        assert found.archive.address == f"https://data.vision.ee.ethz.ch/cvl/{found.archive.path}"


def test_the_fingerprint_follows_every_hash() -> None:
    prints = {datasets.fingerprint(name) for name in datasets.DATASETS}
    assert len(prints) == len(datasets.DATASETS)
    found = datasets.dataset("set5")
    first = found.entries[0]
    changed = Dataset("set5", (Entry(first.path, "0" * 64, first.address), *found.entries[1:]))
    assert datasets.fingerprint(changed) != datasets.fingerprint("set5")
    assert datasets.fingerprint(found) == datasets.fingerprint("set5")


def test_embedded_images_need_no_download(tmp_path: Path) -> None:
    shipped = {path.stem for path in (Path(skimage.__file__).parent / "data").iterdir()}
    names = {"motorcycle": "motorcycle_left", "hubble": "hubble_deep_field"}
    assert {names.get(name, name) for name in datasets.EMBEDDED} <= shipped
    found = dict(datasets.images("embedded", tmp_path))
    assert tuple(found) == datasets.EMBEDDED
    for hr in found.values():
        assert hr.dtype == np.uint8
        assert hr.shape[2] == 3
        assert hr.shape[0] % 3 == hr.shape[1] % 3 == 0
    assert datasets.available("embedded", tmp_path)
    assert datasets.fetch("embedded", tmp_path) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("scale", [2, 4])
def test_images_are_cropped_to_the_scale_asked_for(tmp_path: Path, scale: int) -> None:
    for _, hr in datasets.images("embedded", tmp_path, scale=scale):
        assert hr.shape[0] % scale == hr.shape[1] % scale == 0


def test_gray_images_become_rgb_and_camera_images_are_halved(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (25, 31), np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    entry = Entry("gray.png", digest((tmp_path / "gray.png").read_bytes()), "https://nowhere.invalid/gray.png")
    halved = Entry(entry.path, entry.sha256, entry.address, halve=True)
    [(_, whole)] = datasets.images(Dataset("g", (entry,)), tmp_path)
    np.testing.assert_array_equal(whole, np.repeat(gray[:24, :30, None], 3, axis=2))
    [(_, half)] = datasets.images(Dataset("g", (halved,)), tmp_path)
    np.testing.assert_array_equal(half, np.repeat(bicubic_down(gray[:24, :30], 2)[:12, :15, None], 3, axis=2))


@pytest.mark.parametrize("content", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n", png()[:60], png()[:-40]])
def test_damaged_images_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png is not an image that can be read") as caught:
        datasets.read_image(tmp_path / "bad.png")
    assert "\n" not in str(caught.value)


def test_unknown_names_are_answered_with_the_known() -> None:
    calls = (datasets.dataset, datasets.available, datasets.fetch, datasets.verify, datasets.fingerprint)
    for call in (*calls, lambda name: next(datasets.images(name))):
        with pytest.raises(DataError, match="'set55'; there are embedded, set5"):
            call("set55")
    with pytest.raises(DataError, match="models, not images"):
        next(datasets.images("authors"))
    with pytest.raises(DataError, match="published no model 'x'; there are "):
        datasets.official_model("x")


def test_the_authors_models_are_found_and_checked(data_folder: Path, tmp_path: Path) -> None:
    for entry in datasets.dataset("authors").entries:
        assert datasets.official_model(Path(entry.path).stem, data_folder) == data_folder / entry.path
    with pytest.raises(DataError, match="abpn data fetch authors"):
        datasets.official_model(Path(entry.path).stem, tmp_path)


def test_the_authors_models_are_what_their_names_say(data_folder: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    assert len(datasets.OFFICIAL) == len(datasets.dataset("authors").entries)
    for name in datasets.OFFICIAL:
        details = Interpreter(model_path=str(datasets.official_model(name, data_folder))).get_input_details()[0]
        assert ("int8" in name) == (details["dtype"] is np.uint8), name
