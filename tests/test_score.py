"""The scorer of strangers' files: how they are read, what is refused, and what a crash costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from abpn_lib import cli, datasets, models, networks, score
from abpn_lib.degradation import bicubic_down
from abpn_lib.files import ModelError
from abpn_lib.tflite import graph
from abpn_lib.tflite.upscaler import Upscaler
from abpn_lib.train import runs

LR = bicubic_down(next(datasets.images("embedded"))[1][:240, :300], 3)


def write(path: Path, function: Callable[[tf.Tensor], tf.Tensor], channels: int = 3) -> Path:
    signature = tf.TensorSpec((1, None, None, channels), tf.float32)
    concrete = tf.function(function, input_signature=[signature]).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def doubled(lr: tf.Tensor) -> tf.Tensor:
    return tf.nn.depth_to_space(tf.concat([lr] * 4, -1), 2)


@pytest.fixture(scope="module")
def in_0_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = networks.build("abpn")
    runs.load_weights(model, models.weights("abpn"))
    return write(tmp_path_factory.mktemp("models") / "unit.tflite", lambda lr: tf.clip_by_value(model(lr), 0, 1))


@pytest.mark.parametrize("name", ["abpn-int8-ptq", "fsrcnn-fp32"])
def test_a_shipped_model_is_read_as_the_library_reads_it(name: str) -> None:
    stranger = score.Stranger(models.find(name))
    assert (stranger.range, stranger.colour, stranger.scale, stranger.size) == ("0..255", "rgb", 3, None)
    np.testing.assert_array_equal(stranger.upscale(LR), Upscaler(models.find(name)).upscale(LR))


def test_a_range_is_found_out_and_can_be_told(in_0_1: Path) -> None:
    found = score.Stranger(in_0_1)
    assert found.range == "0..1"
    assert "0..1, rgb" in found.found
    plain = Upscaler(models.find("abpn-fp32")).upscale(LR).astype(int)
    assert np.abs(found.upscale(LR) - plain).max() <= 1
    told = score.Stranger(in_0_1, range="0..255", colour="bgr")
    assert np.abs(told.upscale(LR) - plain).max() > 50


def test_y_is_enlarged_alone(tmp_path: Path) -> None:
    stranger = score.Stranger(write(tmp_path / "y.tflite", doubled, channels=1))
    assert (stranger.colour, stranger.scale) == ("y", 2)
    grey = np.repeat(LR[..., :1], 3, -1)
    # Pillow's way to YCbCr and back may move a value by one.
    assert np.abs(stranger.upscale(grey).astype(int) - grey.repeat(2, 0).repeat(2, 1)).max() <= 1
    with pytest.raises(ModelError, match="y, not rgb"):
        score.Stranger(tmp_path / "y.tflite", colour="rgb")


@pytest.mark.parametrize("sides", [(64, 48), (96, 112)])
def test_a_model_of_one_size_is_tiled(tmp_path: Path, sides: tuple[int, int]) -> None:
    fixed = tmp_path / "fixed.tflite"
    # Its resize node has the size written into it.
    fixed.write_bytes(graph.fix_size(models.find("bilinear-fp32").read_bytes(), *sides))
    stranger = score.Stranger(fixed)
    assert stranger.size == sides[::-1]
    whole = Upscaler(models.find("bilinear-fp32")).upscale(LR).astype(int)
    inside = slice(30, -30)
    assert np.abs(stranger.upscale(LR) - whole)[inside, inside].max() <= 1


def without_its_head(content: bytes) -> bytes:
    return b"#!/bin/sh\n" + content


def with_a_node_that_cannot_run(content: bytes) -> bytes:
    model = graph.read(content)
    for operator in model.subgraphs[0].operators:
        if graph.name_of(model, operator) == "DEPTH_TO_SPACE":
            operator.builtinOptions.blockSize = -3
    return graph.write(model)


@pytest.mark.parametrize("change", [without_its_head, with_a_node_that_cannot_run, lambda content: content[:9000]])
def test_a_hostile_file_gets_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "hostile.tflite"
    path.write_bytes(change(models.find("abpn-int8-ptq").read_bytes()))
    assert cli.main(["score", str(path), "--data", "embedded"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"abpn: {path}: ")


def test_a_file_that_enlarges_by_five_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "five.tflite", lambda lr: tf.nn.depth_to_space(tf.concat([lr] * 25, -1), 5))
    with pytest.raises(ModelError, match="by 2, 3 or 4"):
        score.Stranger(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.tflite"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ModelError, match="more than 256 MiB"):
        score.Stranger(path)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_a_death_of_the_interpreter_is_one_line(in_0_1: Path) -> None:
    command = [sys.executable, "-m", "abpn_lib.cli", "score", str(in_0_1), "--rounds", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until = time.monotonic() + 120
        workers: list[str] = []
        while time.monotonic() < until and not workers:
            time.sleep(0.1)
            # Python's own resource tracker is a child too.
            workers = [pid for pid in children.read_text().split()
                       if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGSEGV)
        out, err = parent.communicate(timeout=120)
    assert parent.returncode == 2
    assert out == ""
    assert err.splitlines() == [f"abpn: {in_0_1}: it crashes the interpreter: nothing can be said of it"]


def test_a_row_names_its_protocol_and_what_int8_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "twice.tflite", doubled)
    words = ["score", str(path), "--data", "embedded", "--rounds", "1", "--float", str(path)]
    assert cli.main([*words, "--markdown"]) == 0
    heads, _, cells = capsys.readouterr().out.splitlines()
    row = dict(zip(heads.strip("| ").split(" | "), cells.strip("| ").split(" | "), strict=True))
    assert row["Model"] == "twice"
    assert "(+0.000)" in row["PSNR embedded y-border2"]
    assert "PSNR embedded rgb-border1" in row
    assert float(row[f"CPU time to {models.DEFAULT}"]) > 0
    assert cli.main([*words, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["quantity"] for record in records} == {"psnr", "cpu-time", "cpu-time-ratio"}
    assert {record["size"] for record in records if record["network"] == "twice" and "size" in record} == {"960x540"}
