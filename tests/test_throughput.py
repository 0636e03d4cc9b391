"""Throughput: every way really trains, or makes its batches, in a process of its own. Times are not judged here."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from abpn_lib import results
from abpn_lib.degradation import bicubic_down
from abpn_lib.train import batches
from tools import BuildError, throughput

TINY = throughput.Setting(batch=2, patch=8, rounds=2, steps=2)


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.chelsea()[:60, :90])


@pytest.fixture(scope="module")
def printed() -> list[dict]:
    words = ["--batch", "2", "--patch", "8", "--rounds", "2", "--steps", "2", "--json"]
    command = [sys.executable, "-m", "tools.throughput", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def subject(record: dict) -> str:
    return record["network"] + (f"/{record['over']}" if "over" in record else "")


@pytest.mark.slow
def test_the_command_measures_every_way_under_the_conditions_asked_for(printed: list[dict]) -> None:
    units = {subject(record): record["unit"] for record in printed if record["quantity"] == "throughput"}
    assert units == dict.fromkeys(throughput.WAYS, "1/s")
    assert [subject(record) for record in printed if record["quantity"] == "throughput-ratio"] == [
        "training-ours/training-plain", "training-ours/training-files", "pipeline-ours/training-ours",
    ]
    for record in printed:
        assert record["command"].startswith("python -m tools.throughput")
        assert record["count"] == 2
        setting = {key: record[key] for key in ("batch", "patch", "threads", "architecture", "dataset")}
        assert setting == {"batch": 2, "patch": 8, "threads": 1, "architecture": "abpn", "dataset": "embedded"}
        low, high = record["spread"]
        assert 0 < low <= record["value"] <= high < math.inf


def test_ratios_are_recorded_where_both_sides_were_measured() -> None:
    slow, fast = (throughput._rate([speed, 2 * speed, speed]) for speed in (1.0, 3.0))
    rates = {"training-ours": fast, "training-plain": slow}
    records = throughput.records(rates, results.Context("abpn", "a device", {}, "", "2026-01-01"), TINY, "embedded")
    assert [(record.subject, record.value) for record in records] == [
        ("training-ours", 3), ("training-plain", 1), ("training-ours/training-plain", 3),
    ]


@pytest.mark.slow
def test_a_choice_of_ways_is_measured_in_every_round(cat: np.ndarray) -> None:
    rates = throughput.measure([cat], TINY, ["pipeline-plain"])
    assert list(rates) == ["pipeline-plain"]
    assert len(rates["pipeline-plain"].samples) == TINY.rounds


def test_the_interval_leaves_the_outermost_rounds_out_where_there_are_enough() -> None:
    few, many = (throughput._rate([float(i) for i in range(1, n)]) for n in (4, 10))
    assert (few.median, few.low, few.high) == (2, 1, 3)
    assert (many.median, many.low, many.high) == (5, 2, 8)
    # Nine rounds in which one way is always twice as fast: the ratio has no spread, whatever the machine did.
    double = throughput._rate([2 * sample for sample in many.samples])
    assert throughput.paired_ratio(double, many) == (2, 2, 2)
    with pytest.raises(throughput.BuildError, match="3 and 9"):
        throughput.paired_ratio(few, many)


def test_the_plain_way_gives_pairs_like_ours_from_arrays_and_from_files(cat: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(cat).save(tmp_path / "cat.png")
    arrays = throughput.plain_batches([cat], 3, 8, 3, seed=5)
    files = throughput.plain_batches([tmp_path / "cat.png"], 3, 8, 3, seed=5)
    ours = batches.batch_at(batches.Patches([cat], TINY.recipe), 3, 0, 0)
    for plain, opened in itertools.islice(zip(arrays, files, strict=True), 3):
        assert [(a.shape, a.dtype) for a in plain] == [(a.shape, a.dtype) for a in ours]
        np.testing.assert_array_equal(plain[1], opened[1])
        np.testing.assert_array_equal(plain[0], opened[0])
        for small, large in zip(*plain, strict=True):
            np.testing.assert_allclose(small, bicubic_down(large, 3).clip(0, 1), atol=0.5 / 255 + 1e-6)


@pytest.mark.slow
def test_the_pipeline_gives_the_batches_of_batch_at_in_order_under_determinism() -> None:
    # In a process of its own: op determinism cannot be turned off again.
    script = """
import numpy as np, skimage.data, tensorflow as tf
from tools import BuildError
from abpn_lib.train import batches, loop
from abpn_lib.train.recipe import recipe
tf.config.experimental.enable_op_determinism()
patches = batches.Patches([skimage.data.chelsea()[:60, :90]], recipe("paper", patch=8))
recipe = recipe("paper", steps=12, batch=2, patch=8)
made = list(batches.batches(patches, recipe, 3))
assert len(made) == 9
for step, (lr, hr) in enumerate(made, start=3):
    expected = batches.batch_at(patches, 2, recipe.seed, step)
    assert (lr.numpy().tobytes(), hr.numpy().tobytes()) == tuple(array.tobytes() for array in expected)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_batches_are_made_beside_the_steps_under_determinism() -> None:
    # While one step is under way, the next batches come to be; without that this waits for ever, and is stopped.
    script = """
import threading
import skimage.data, tensorflow as tf
from tools import BuildError
from abpn_lib.train import batches, loop
from abpn_lib.train.recipe import recipe
tf.config.experimental.enable_op_determinism()
ahead, make = threading.Semaphore(0), batches.batch_at

def counted(*arguments):
    ahead.release()
    return make(*arguments)

batches.batch_at = counted
patches = batches.Patches([skimage.data.chelsea()[:60, :90]], recipe("paper", patch=8))
iterator = iter(batches.batches(patches, recipe("paper", steps=12, batch=2, patch=8), 0))
next(iterator)
assert all(ahead.acquire(timeout=30) for _ in range(4)), "only the batch that was asked for was made"
# An interpreter that ends while batches are still being made may never end.
for _ in iterator:
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("setting", "ways", "mentions"),
    [
        (TINY, ["nonsense"], "nonsense"),
        (TINY, [], "training-ours"),
        (throughput.Setting(rounds=0), None, "rounds"),
    ],
)
def test_bad_input_is_named(
    cat: np.ndarray, setting: throughput.Setting, ways: list[str] | None, mentions: str
) -> None:
    with pytest.raises(throughput.BuildError, match=mentions):
        throughput.measure([cat], setting, ways)


def test_images_smaller_than_a_patch_are_refused(cat: np.ndarray) -> None:
    with pytest.raises(BuildError, match="192 pixels"):
        throughput.measure([cat], throughput.Setting())


@pytest.mark.slow
def test_a_way_that_fails_says_why() -> None:
    # An image that no PNG can hold.
    with pytest.raises(throughput.BuildError, match="pipeline-files failed"):
        throughput.measure([np.zeros((60, 90, 5), np.uint8)], TINY, ["pipeline-files"])
