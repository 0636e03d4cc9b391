"""The command line as its user meets it: real files, bad input of every kind; three real processes, the rest in one."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import skimage.data
from PIL import Image

from abpn_lib import claims, cli, models, paper, results
from abpn_lib.tflite import graph
from abpn_lib.train import recipe
from tools import catalogue

MODEL = "abpn-int8-ptq"


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Abpn:
    """Runs a command in this process and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object, status: int = 0) -> Done:
        self.capsys.readouterr()
        try:
            found = cli.main([str(word) for word in words])
        except SystemExit as ended:  # argparse's own refusals
            found = int(ended.code or 0)
        printed = self.capsys.readouterr()
        assert found == status, printed.err
        return Done(found, printed.out, printed.err)

    def refused(self, *words: object, mentions: str) -> None:
        """The command ends with status 2 and one line that names the input."""
        done = self(*words, status=2)
        *usage, line = done.err.strip().splitlines()
        assert not usage or usage[0].startswith("usage: ")
        assert mentions in line, done.err
        assert done.out == ""


@pytest.fixture
def abpn(capsys: pytest.CaptureFixture[str]) -> Abpn:
    return Abpn(capsys)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(skimage.data.chelsea()[:40, :61]).save(path)
    return path


def process(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "abpn_lib.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_help_needs_no_tensorflow_nor_any_other_large_library() -> None:
    code = (
        "import sys; from abpn_lib import cli\n"
        "cli.main(['models'])\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'tensorflow', 'pandas', 'scipy', 'skimage', 'matplotlib', 'pooch', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    listed = done.stdout.replace("\n", "").replace(" ", "")
    assert all(name in listed for name in recipe.names())


def test_bad_input_and_a_closed_pipe_in_a_real_shell(tmp_path: Path, photo: Path) -> None:
    done = process("upscale", tmp_path / "none.png", "-o", tmp_path / "out.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    line = f"{shlex.quote(sys.executable)} -m abpn_lib.cli claims --json | head -c 1"
    piped = subprocess.run(["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert (piped.returncode, piped.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0, 0.05, 0.2, 0.5])
def test_an_interrupt_while_libraries_load_shows_no_traceback(seconds: float) -> None:
    code = "import sys; from abpn_lib.__main__ import main; print('here', flush=True); sys.exit(main())"
    command = [sys.executable, "-c", code, "models"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout
    assert started.stdout.readline() == "here\n"
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    error = started.communicate()[1]
    assert "Traceback" not in error
    assert started.returncode in (-signal.SIGINT, 130, 0), error


def test_a_result_in_a_real_shell_has_nothing_beside_it(tmp_path: Path, photo: Path) -> None:
    done = process("upscale", photo, "-o", tmp_path / "large.png", "--model", MODEL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_names_every_command(abpn: Abpn) -> None:
    top = abpn("--help").out
    for command in (
        "models", "upscale", "export", "train", "quantize", "average", "evaluate", "latency", "claims", "data",
    ):
        assert command in top
        assert "Example: abpn" in abpn(command, "--help").out


def test_models_as_json_and_as_records(abpn: Abpn, tmp_path: Path) -> None:
    assert catalogue.main(["--out", str(tmp_path / "r.json")]) == 0
    assert "abpn-int8-ptq" in abpn("models").out
    rows = json.loads(abpn("models", "--json").out)
    records = json.loads((tmp_path / "r.json").read_text())["records"]
    sizes = {f"{row['network']}-{row['form']}": row["value"] for row in records if row["quantity"] == "size"}
    assert sizes == {model.name: model.path.stat().st_size for model in models.catalogue()}
    assert {"name", "path", "kind", "sha256", "provenance"} <= set(rows[0])
    assert [row["name"] for row in rows] == [model.name for model in models.catalogue()]


def test_upscale_a_file_and_a_folder(abpn: Abpn, tmp_path: Path, photo: Path) -> None:
    abpn("upscale", photo, "-o", tmp_path / "large.png", "--model", MODEL)
    assert Image.open(tmp_path / "large.png").size == (183, 120)
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    Image.fromarray(skimage.data.camera()[:20, :30]).save(folder / "b.jpg")
    (folder / "notes.txt").write_text("not an image")
    done = abpn("upscale", folder, "-o", tmp_path / "out", "--model", models.find(MODEL), "--threads", 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "large.png").read_bytes()
    assert done.out.startswith("2 images in ")
    assert "a second" in done.out


def test_one_bad_image_does_not_stop_a_folder(abpn: Abpn, tmp_path: Path, photo: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_text("no image at all")
    shutil.copy(photo, folder / "b.png")
    (folder / "c.png").write_bytes(photo.read_bytes()[:200])
    done = abpn("upscale", folder, "-o", tmp_path / "out", "--model", MODEL, "--quiet", status=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    (line,) = done.err.splitlines()
    assert line.startswith("abpn: 2 of 3 images failed: ")
    assert "a.png" in line
    assert "c.png" in line


def test_upscale_refuses_bad_input(abpn: Abpn, tmp_path: Path, photo: Path) -> None:
    out = tmp_path / "out.png"
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "twins").mkdir()
    for suffix in ("png", "jpg"):
        Image.open(photo).save(tmp_path / "twins" / f"a.{suffix}")
    for words, mentions in (
        ((tmp_path / "none.png", "-o", out), "none.png"),
        ((tmp_path / "text.png", "-o", out), "text.png"),
        ((tmp_path / "script.png", "-o", out), "script.png"),
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
        ((photo, "-o", out, "--threads", "100000000000"), "--threads"),
    ):
        abpn.refused("upscale", *words, mentions=mentions)
    assert not out.exists()
    assert not (tmp_path / "o").exists()


def test_what_can_be_refused_before_the_enlargement_is(abpn: Abpn, tmp_path: Path) -> None:
    # The image is not even opened: it would be refused too.
    (tmp_path / "text.png").write_text("no image at all")
    abpn.refused("upscale", tmp_path / "text.png", "-o", tmp_path / "out.nonsense", mentions="nonsense")
    abpn.refused("upscale", tmp_path / "text.png", "-o", tmp_path / "no" / "out.png", mentions="does not exist")


def test_a_name_may_be_as_long_as_names_can_be(abpn: Abpn, tmp_path: Path, photo: Path) -> None:
    abpn("upscale", photo, "-o", tmp_path / f"{'x' * 251}.png", "--model", MODEL)
    abpn.refused("upscale", photo, "-o", tmp_path / f"{'x' * 252}.png", "--model", MODEL, mentions="name too long")
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", f"1{'0' * 30}"), ("scale", "50"), ("pairs", "2000"), ("batch", "1000000000000"), ("lr", "nan"),
     ("threads", "100000000000"), ("save-every", "²")],
)
def test_train_refuses_a_number_out_of_range_before_it_claims_a_folder(
    abpn: Abpn, tmp_path: Path, option: str, value: str
) -> None:
    words = ("train", "--data", "embedded", "--out", tmp_path / "run", f"--{option}", value)
    abpn.refused(*words, mentions=value[:20])
    assert not list(tmp_path.iterdir())


def test_each_model_of_several_has_a_command_of_its_own(abpn: Abpn, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    abpn("evaluate", "--model", "bicubic", "--model", MODEL, "--no-ssim", "--out", out, "--threads", 1)
    commands = {record.subject: record.context.command for record in results.load(out)}
    rest = f"--no-ssim --out {out} --threads 1"
    assert commands == {name: f"abpn evaluate --model {name} {rest}" for name in ("bicubic", MODEL)}


def test_evaluate_gives_records(abpn: Abpn, tmp_path: Path) -> None:
    done = abpn("evaluate", "--model", "bicubic", "--data", "embedded", "--json", "--out", tmp_path / "r.json")
    records = json.loads(done.out)
    assert {record["quantity"] for record in records} == {"psnr", "ssim"}
    assert all(record["count"] == 8 and record["command"].startswith("abpn evaluate") for record in records)
    assert len(json.loads((tmp_path / "r.json").read_text())["records"]) == 2


def test_evaluate_refuses_bad_input(abpn: Abpn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    for words, mentions in (
        (["bicubic", "--data", "nonsense"], "nonsense"), (["nonsense"], "nonsense"),
        (["bicubic", "--data", "authors"], "authors"), (["bicubic", "--data", "set5"], "abpn data fetch set5"),
        (["bicubic", "--out", tmp_path / "no" / "r.json"], "r.json"), ([MODEL, "--model", MODEL], MODEL),
    ):
        abpn.refused("evaluate", "--model", *words, mentions=mentions)


def test_latency_times_models_and_refuses_bad_input(abpn: Abpn, tmp_path: Path) -> None:
    (record,) = json.loads(abpn("latency", MODEL, "--size", "48x32", "--rounds", "3", "--json").out)
    assert (record["network"], record["form"]) == ("abpn", "int8-ptq")
    assert (record["quantity"], record["unit"]) == ("latency", "ms")
    assert record["value"] > 0
    assert record["size"] == "48x32"
    for words, mentions in (
        ([MODEL, "--size", "huge"], "huge"), ([MODEL, "--size", "²x3"], "²x3"), ([MODEL, "--size", "9" * 5000], "999"),
        (["nonsense"], "nonsense"), (["--rounds", "0"], "--rounds"), ([MODEL, "--threads", "1e11"], "--threads"),
        ([MODEL, "--out", tmp_path / "no" / "r.json"], "r.json"), ([MODEL, "--device", "toaster"], "toaster"),
    ):
        abpn.refused("latency", *words, mentions=mentions)


def test_latency_tells_models_of_one_stem_apart(abpn: Abpn, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(models.find(MODEL), tmp_path / folder / "m.tflite")
    both = (tmp_path / "a" / "m.tflite", tmp_path / "b" / "m.tflite")
    done = abpn("latency", *both, "--size", "48x32", "--rounds", "7")
    assert "b-m takes " in done.out
    assert " times as long as a-m" in done.out
    abpn.refused("latency", both[0], both[0], mentions="m.tflite")


def test_latency_estimates_the_time_on_an_npu(abpn: Abpn, tmp_path: Path) -> None:
    pytest.importorskip("ethosu.vela", reason="needs abpn-lib[npu]")
    npu = ("--device", "ethos-u65-512:384")
    time, refused = json.loads(abpn("latency", MODEL, *npu, "--size", "48x32", "--json").out)
    assert (time["quantity"], time["kind"], time["accelerator"], time["sram"]) == (
        "npu-latency", "estimated", "ethos-u65-512", 384
    )
    assert refused["refused"] == "DEPTH_TO_SPACE"
    done = abpn("latency", "--nodes", *npu, "--size", "48x36", "--out", tmp_path / "nodes.json")
    assert "estimated and not measured" in done.out
    assert re.search(r"node-bilinear +- +on the CPU, its time unknown: RESIZE_BILINEAR", done.out)
    assert {record.kind for record in results.load(tmp_path / "nodes.json")} == {"estimated"}
    for words, mentions in (
        ([MODEL, "--device", "ethos-u9"], "ethos-u9"), ([MODEL, *npu, "--threads", "2"], "--threads"),
        ([MODEL, "--device", "ethos-u55-128:9"], "9"),
    ):
        abpn.refused("latency", *words, mentions=mentions)


def test_latency_estimates_abpns_of_other_depths(abpn: Abpn) -> None:
    pytest.importorskip("tensorflow_model_optimization", reason="INT8 export needs abpn-lib[quantize]")
    pytest.importorskip("ethosu.vela", reason="needs abpn-lib[npu]")
    npu = ("--device", "ethos-u85-256", "--size", "48x32")
    short, long = (json.loads(abpn("latency", "--pairs", n, *npu, "--json").out)[0] for n in (1, 2))
    assert (short["network"], short["form"]) == ("abpn", "int8-pairs1")
    assert short["value"] < long["value"]
    abpn.refused("latency", "--pairs", "-1", mentions="--pairs")
    abpn.refused("latency", "--pairs", "1", mentions="--device")


def test_export_writes_what_an_npu_wants(abpn: Abpn, tmp_path: Path) -> None:
    pytest.importorskip("ethosu.vela", reason="needs abpn-lib[npu]")
    out, npu = tmp_path / "npu.tflite", ("--device", "ethos-u85-256")
    abpn("export", MODEL, *npu, "--size", "48x32", "-o", out)
    assert graph.operator_names(out.read_bytes())[0] == "CONV_2D", "int8 in: nothing to convert first"
    abpn("export", MODEL, *npu, "--size", "48x32", "--compile", "-o", out)
    good = out.read_bytes()
    assert graph.operator_names(good) == ["CUSTOM"], "all of it on the NPU, the pixel shuffle too"
    for words, mentions in (
        ([MODEL, "--compile"], "--device"), ([MODEL, "--device", "ethos-u9"], "ethos-u9"),
        (["abpn-fp32", *npu, "--compile"], "INT8"), ([MODEL, *npu, "--batch", "2", "--size", "9x9"], "--batch"),
        ([MODEL, "--device", "ethos-u55-128:9", "--compile"], "9"),
    ):
        abpn.refused("export", *words, "-o", out, mentions=mentions)
    assert out.read_bytes() == good


def test_export_writes_what_a_device_wants(abpn: Abpn, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    out = tmp_path / "phone.tflite"
    abpn("export", MODEL, "--size", "48x32", "--io", "int8", "--batch", "2", "-o", out)
    (image,) = Interpreter(model_path=str(out)).get_input_details()
    assert (image["shape_signature"].tolist(), image["dtype"]) == ([2, 32, 48, 3], np.int8)
    good = out.read_bytes()
    rng = np.random.default_rng(0)
    broken = tmp_path / "broken.tflite"
    for cut in (0, 7, 900, 20_000):
        content = bytearray(models.find(MODEL).read_bytes()[: cut or None])
        for place in rng.integers(8, len(content), 40) if cut == 0 else ():
            content[place] = rng.integers(256)
        broken.write_bytes(bytes(content))
        done = cli.main(["export", str(broken), "-o", str(out)])
        if done == 2:
            assert out.read_bytes() == good
        else:  # a change that no reader can see: the file is still a model
            good = out.read_bytes()
    other = tmp_path / "other.tflite"
    for words, mentions in (
        (["nonsense"], "nonsense"), (["abpn-fp32", "--io", "int8"], "uint8"), ([MODEL, "--batch", "2"], "--size"),
        ([MODEL, "--size", "0x9"], "0x9"), ([MODEL, "--size", "9x9", "--batch", "1000000000000"], "--batch"),
    ):
        abpn.refused("export", *words, "-o", other, mentions=mentions)
    assert not other.exists()


def test_claims_lists_every_claim_and_takes_records_of_another_device(abpn: Abpn, tmp_path: Path) -> None:
    assert len(json.loads(abpn("claims", "--json").out)) == len(claims.claims())
    path = tmp_path / "abpn-browser.json"
    context = {"command": "a page", "device": "browser: a phone", "versions": {}, "commit": "", "date": "2026-01-01"}
    shared = {
        "quantity": "latency", "unit": "ms", "count": 9, "spread": [1.0, 1.5], "size": "1920x1080", "threads": 1,
        "kernels": "xnnpack-wasm", "channels": 3, "context": 0,
    }
    nodes = [{**shared, "network": f"node-{node}", "value": 1.0 + n} for n, node in enumerate(paper.META_NODES)]
    path.write_text(json.dumps({"contexts": [context], "records": nodes}))
    ledger = {entry["id"]: entry for entry in json.loads(abpn("claims", "--json", "--add", path).out)}
    assert "a phone" in json.dumps(ledger["T1.add"])
    assert '"measured"' in json.dumps(ledger["T1.add"])
    path.write_text('{"contexts": [], "records": [{}]}')
    abpn.refused("claims", "--add", path, mentions=path.name)
    abpn.refused("claims", "--records", "nonsense.json", mentions="nonsense.json")


def test_data_refuses_bad_input(abpn: Abpn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABPN_DATA", str(tmp_path))
    abpn.refused("data", "fetch", "nonsense", mentions="nonsense")
    abpn.refused("data", "verify", "set5", mentions="abpn data fetch set5")
    assert not list(tmp_path.iterdir())


def test_train_then_quantize(abpn: Abpn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = tmp_path / "run", tmp_path / "models"
    abpn.refused("quantize", "--run", tmp_path / "none", "--out", out, mentions="none")
    tiny = ("--steps", "6", "--save-every", "3", "--no-validation", "--quiet", "--data", "embedded")
    abpn("train", "--batch", "2", "--patch", "16", *tiny, "--out", run)
    quantize = ("quantize", "--run", run, "--out", out, "--calibrate", "embedded", "--images", "2")
    abpn(*quantize, "--form", "int8-ptq")
    (path,) = out.glob("*.tflite")
    provenance = json.loads(path.with_suffix(".json").read_text())
    assert (path.stem, provenance["steps"]) == ("abpn-int8-ptq", 6)
    assert provenance["exported_by"]["command"].startswith("abpn quantize")
    assert provenance["ranges"]
    for words, mentions in (
        (["--name", "../x"], "../x"), (["--qat", "nosuch"], "nosuch"), (["--form", "int4"], "int4"),
    ):
        abpn.refused(*quantize, *words, mentions=mentions)
    # What was made can be used at once.
    image = tmp_path / "x.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(image)
    abpn("upscale", image, "-o", tmp_path / "y.png", "--model", path)
