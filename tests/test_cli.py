"""The command line as its user meets it: real processes, real files, bad input of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from abpn_lib import models

MODEL = "abpn-int8-ptq"


def abpn(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "abpn_lib.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def refused(*words: str | Path, mentions: str, **environment: str) -> None:
    """The command ends with status 2 and one line that names the input."""
    done = abpn(*words, **environment)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert mentions in lines[-1], done.stderr
    assert done.stdout == ""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(skimage.data.chelsea()[:40, :61]).save(path)
    return path


def test_help_names_every_command_and_works_without_tensorflow() -> None:
    top = abpn("--help")
    assert top.returncode == 0
    for command in (
        "models", "upscale", "export", "train", "quantize", "evaluate", "latency", "throughput", "arm64", "claims",
        "data",
    ):
        assert command in top.stdout
        assert "Example: abpn" in abpn(command, *(["fetch"] if command == "data" else []), "--help").stdout


def test_models_as_json_and_as_records(tmp_path: Path) -> None:
    rows = json.loads(abpn("models", "--json", "--out", tmp_path / "r.json").stdout)
    records = json.loads((tmp_path / "r.json").read_text())
    sizes = {record["subject"]: record["value"] for record in records if record["quantity"] == "size"}
    assert sizes == {model.name: model.path.stat().st_size for model in models.catalogue()}
    assert {"name", "path", "kind", "sha256", "provenance"} <= set(rows[0])
    assert [row["name"] for row in rows] == [model.name for model in models.catalogue()]


def test_upscale_a_file_and_a_folder(tmp_path: Path, photo: Path) -> None:
    assert abpn("upscale", photo, "-o", tmp_path / "large.png", "--model", MODEL).returncode == 0
    assert Image.open(tmp_path / "large.png").size == (183, 120)
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    Image.fromarray(skimage.data.camera()[:20, :30]).save(folder / "b.jpg")
    (folder / "notes.txt").write_text("not an image")
    done = abpn("upscale", folder, "-o", tmp_path / "out", "--model", models.find(MODEL))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "large.png").read_bytes()
    assert done.stdout.startswith("2 images in ")
    assert "a second" in done.stdout


def test_upscale_refuses_bad_input(tmp_path: Path, photo: Path) -> None:
    out = tmp_path / "out.png"
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "twins").mkdir()
    for suffix in ("png", "jpg"):
        Image.open(photo).save(tmp_path / "twins" / f"a.{suffix}")
    for words, mentions in (
        ((tmp_path / "none.png", "-o", out), "none.png"),
        ((tmp_path / "text.png", "-o", out), "text.png"),
        ((tmp_path / "cut.png", "-o", out), "cut.png"),
        ((tmp_path / "empty", "-o", tmp_path / "o"), "empty"),
        ((tmp_path / "twins", "-o", tmp_path / "o"), "rename"),
        ((photo, "-o", tmp_path), "folder"),
        ((tmp_path / "twins", "-o", photo), "photo.png"),
        ((photo, "-o", photo), "overwritten"),
        ((photo, "-o", tmp_path / "out.nonsense"), "nonsense"),
        ((photo, "-o", tmp_path / "no" / "such" / "out.png"), "such"),
        ((photo, "-o", out, "--model", "nonsense"), "nonsense"),
        ((photo, "-o", out, "--model", photo), "photo.png"),
        ((photo, "-o", out, "--tile", "0"), "--tile"),
    ):
        refused("upscale", *words, mentions=mentions)
    assert not out.exists()
    assert not (tmp_path / "o").exists()


def test_evaluate_gives_records(tmp_path: Path) -> None:
    done = abpn("evaluate", "--model", "bicubic", "--data", "embedded", "--json", "--out", tmp_path / "r.json")
    records = json.loads(done.stdout)
    assert {record["quantity"] for record in records} == {"psnr", "ssim"}
    assert all(record["count"] == 8 and record["command"].startswith("abpn evaluate") for record in records)
    assert len(json.loads((tmp_path / "r.json").read_text())) == 2


def test_evaluate_refuses_bad_input(tmp_path: Path) -> None:
    refused("evaluate", "--model", "bicubic", "--data", "nonsense", mentions="nonsense")
    refused("evaluate", "--model", "nonsense", mentions="nonsense")
    refused("evaluate", "--model", "bicubic", "--data", "authors", mentions="authors")
    refused(
        "evaluate", "--model", "bicubic", "--data", "set5", mentions="abpn data fetch set5", ABPN_DATA=str(tmp_path)
    )


def test_latency_times_models_and_refuses_bad_input() -> None:
    records = json.loads(abpn("latency", MODEL, "--size", "48x32", "--rounds", "3", "--json").stdout)
    assert [(record["subject"], record["quantity"], record["unit"]) for record in records] == [(MODEL, "latency", "ms")]
    assert records[0]["value"] > 0
    assert records[0]["conditions"]["size"] == "48x32"
    refused("latency", MODEL, "--size", "huge", mentions="huge")
    refused("latency", "nonsense", mentions="nonsense")
    refused("latency", "--rounds", "0", mentions="--rounds")


def test_latency_compares_with_the_first() -> None:
    done = abpn("latency", "abpn-int8-ptq", "fsrcnn-int8-ptq", "--size", "48x32", "--rounds", "7")
    assert done.returncode == 0, done.stderr
    assert "fsrcnn-int8-ptq takes " in done.stdout
    assert " times as long as abpn-int8-ptq" in done.stdout


def test_export_writes_what_a_device_wants(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    out = tmp_path / "phone.tflite"
    done = abpn("export", MODEL, "--size", "48x32", "--io", "int8", "--batch", "2", "-o", out)
    assert done.returncode == 0, done.stderr
    (image,) = Interpreter(model_path=str(out)).get_input_details()
    assert (image["shape_signature"].tolist(), image["dtype"]) == ([2, 32, 48, 3], np.int8)
    other = tmp_path / "other.tflite"
    refused("export", "nonsense", "-o", other, mentions="nonsense")
    refused("export", "abpn-fp32", "--io", "int8", "-o", other, mentions="uint8")
    refused("export", MODEL, "--batch", "2", "-o", other, mentions="--size")
    refused("export", MODEL, "--size", "0x9", "-o", other, mentions="0x9")
    assert not other.exists()


def test_claims_lists_every_claim() -> None:
    from abpn_lib.claims.ledger import ledger as claims

    printed = json.loads(abpn("claims", "--json").stdout)
    assert len(printed if isinstance(printed, list) else printed["claims"]) == len(claims.CLAIMS)
    refused("claims", "--records", "nonsense.json", mentions="nonsense.json")


def test_claims_takes_records_of_another_device(tmp_path: Path) -> None:
    from abpn_lib import paper

    path = tmp_path / "abpn-browser.json"
    row = {
        "quantity": "latency", "unit": "ms", "command": "a page", "device": "browser: a phone", "versions": {},
        "commit": "", "date": "2026-01-01", "count": 9, "spread": [1.0, 1.5], "spread_is": "",
        "conditions": {"size": "1920x1080", "threads": "1", "kernels": "xnnpack-wasm", "channels": "3"},
    }
    nodes = [{**row, "subject": f"node-{node}", "value": 1.0 + n} for n, node in enumerate(paper.META_NODES)]
    path.write_text(json.dumps(nodes))
    ledger = {entry["id"]: entry for entry in json.loads(abpn("claims", "--json", "--add", path).stdout)}
    assert "a phone" in json.dumps(ledger["T1.add"])
    assert '"measured"' in json.dumps(ledger["T1.add"])
    for bad in (
        "no JSON", "{}x", "7", '["text"]', json.dumps([{}]), json.dumps([{**nodes[0], "value": None}]),
        json.dumps([{**nodes[0], "value": float("nan")}]), json.dumps([{**nodes[0], "conditions": ["size"]}]),
        json.dumps([{**nodes[0], "conditions": {"size": 3}}]), json.dumps([{**nodes[0], "device": None}]),
        json.dumps([{**nodes[0], "count": "many"}]), json.dumps([{**nodes[0], "spread": [1, 2, 3]}]),
        json.dumps([{**nodes[0], "surprise": 1}]),
    ):
        path.write_text(bad)
        refused("claims", "--add", path, mentions=path.name)


def test_data_refuses_bad_input(tmp_path: Path) -> None:
    refused("data", "fetch", "nonsense", mentions="nonsense", ABPN_DATA=str(tmp_path))
    refused("data", "verify", "set5", mentions="abpn data fetch set5", ABPN_DATA=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_train_and_quantize_refuse_bad_input(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused("train", "--data", "set5", "--out", out, mentions="set5", ABPN_DATA=str(tmp_path))
    refused("quantize", "--run", tmp_path / "none", "--out", tmp_path / "models", mentions="none")
    assert not list(tmp_path.iterdir())


def test_train_then_quantize(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "models"
    tiny = ("--steps", "6", "--save-every", "3", "--no-validation", "--quiet")
    done = abpn("train", "--data", "embedded", "--batch", "2", "--patch", "16", *tiny, "--out", run)
    assert done.returncode == 0, done.stderr
    done = abpn(
        "quantize",
        "--run",
        run,
        "--out",
        out,
        "--calibrate",
        "embedded",
        "--images",
        "2",
        "--qat",
        "qat-table2",
        "--data",
        "embedded",
        *tiny,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.tflite")) == [
        "abpn-fp32.tflite",
        "abpn-int8-ptq.tflite",
        "abpn-int8-qat.tflite",
    ]
    provenance = json.loads((out / "abpn-int8-qat.json").read_text())
    assert provenance["steps"] == 6
    assert provenance["command"].startswith("abpn quantize")
    assert provenance["ranges"]
    # What was made can be used at once.
    image = tmp_path / "x.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(image)
    assert abpn("upscale", image, "-o", tmp_path / "y.png", "--model", out / "abpn-int8-qat.tflite").returncode == 0
