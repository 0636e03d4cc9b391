"""Evaluation against the metrics by hand, on real images."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from abpn_lib import datasets, degradation, metrics, results
from abpn_lib import measure as evaluation


@pytest.fixture(scope="module")
def crops() -> list[tuple[str, np.ndarray]]:
    """Small crops of the embedded images, of several sizes."""
    found = []
    for i, (name, hr) in enumerate(datasets.images("embedded")):
        found.append((name, hr[210 : 258 + 3 * i, 300:372]))
    return found


@pytest.fixture(scope="module")
def context() -> results.Context:
    return results.Context("abpn evaluate", "a device", {"numpy": np.__version__}, "abc", "2026-01-01")


@pytest.mark.parametrize("protocol", [metrics.AUTHORS, metrics.Y_BORDER3], ids=lambda p: p.name)
def test_scores_are_the_metrics_by_hand(crops, protocol):
    scores = evaluation.evaluate(evaluation.bicubic_upscaler(3), crops, protocol=protocol)
    assert [score.name for score in scores] == [name for name, _ in crops]
    for score, (_, hr) in zip(scores, crops, strict=True):
        sr = degradation.bicubic_up(degradation.bicubic_down(hr, 3), 3)
        assert score.psnr == metrics.psnr(hr, sr, protocol)
        assert score.ssim == metrics.ssim(hr, sr, protocol)


def test_the_number_of_workers_changes_nothing_and_the_upscaler_stays_in_one_thread(crops):
    threads = set()

    def upscale(lr):
        threads.add(threading.get_ident())
        return degradation.bicubic_up(lr, 3)

    alone = evaluation.evaluate(upscale, crops * 3, workers=1)
    for workers in (2, 5):
        assert evaluation.evaluate(upscale, iter(crops * 3), workers=workers) == alone
    assert threads == {threading.get_ident()}


def test_images_are_read_as_they_are_needed(crops):
    read, most_ahead = 0, 0
    done = 0

    def images():
        nonlocal read, most_ahead
        for pair in crops * 4:
            read += 1
            most_ahead = max(most_ahead, read - done)
            yield pair

    def upscale(lr):
        nonlocal done
        done += 1
        return degradation.bicubic_up(lr, 3)

    evaluation.evaluate(upscale, images(), workers=2, with_ssim=False)
    assert most_ahead == 1


def test_another_scale(crops):
    even = [(name, degradation.crop_to_multiple(hr, 2)) for name, hr in crops]
    scores = evaluation.evaluate(evaluation.bicubic_upscaler(2), even, scale=2)
    coarser = evaluation.evaluate(evaluation.bicubic_upscaler(3), crops)
    assert evaluation.summary(scores).psnr > evaluation.summary(coarser).psnr


def test_without_ssim_there_is_none(crops, context):
    scores = evaluation.evaluate(evaluation.bicubic_upscaler(3), crops, with_ssim=False)
    assert {score.ssim for score in scores} == {None}
    assert evaluation.summary(scores).ssim is None
    assert [record.quantity for record in evaluation.records_of(scores, context, "bicubic", "embedded")] == ["psnr"]


def test_records_are_complete(crops, context, tmp_path: Path):
    scores = evaluation.evaluate(evaluation.bicubic_upscaler(3), crops)
    records = evaluation.records_of(scores, context, "bicubic", "embedded", metrics.AUTHORS, "f" * 64)
    psnr, ssim = records
    values = [score.psnr for score in scores]
    assert psnr.id == "psnr/bicubic[dataset=embedded,protocol=rgb-border1]"
    assert (psnr.unit, psnr.count, psnr.spread_is) == ("dB", len(crops), "least and greatest image")
    assert psnr.value == pytest.approx(np.mean(values))
    assert psnr.spread == (min(values), max(values))
    assert ssim.id == "ssim/bicubic[dataset=embedded,protocol=rgb-border1]"
    assert ssim.unit == ""
    assert ssim.value == pytest.approx(np.mean([score.ssim for score in scores]))
    assert {record.model_sha256 for record in records} == {"f" * 64}
    assert {record.command for record in records} == {"abpn evaluate"}
    assert {record.kind for record in records} == {"measured"}
    results.save(tmp_path / "records.json", records)
    assert json.loads((tmp_path / "records.json").read_text())[0]["value"] == psnr.value
    assert results.load(tmp_path / "records.json", "measured") == records


def test_records_of_single_images(crops, context):
    scores = evaluation.evaluate(evaluation.bicubic_upscaler(3), crops)
    records = evaluation.records_of_images(scores, ["coffee", "retina"], context, "bicubic", "embedded")
    assert [(r.quantity, r.conditions["image"]) for r in records] == [
        ("psnr", "coffee"), ("ssim", "coffee"), ("psnr", "retina"), ("ssim", "retina"),
    ]
    assert records[0].value == next(score.psnr for score in scores if score.name == "coffee")
    with pytest.raises(datasets.DataError, match="img004"):
        evaluation.records_of_images(scores, ["img004"], context, "bicubic", "embedded")


def test_equal_images_have_infinite_psnr():
    grey = np.full((36, 36, 3), 128, np.uint8)
    (score,) = evaluation.evaluate(evaluation.bicubic_upscaler(3), [("grey", grey)])
    assert score.psnr == float("inf")
    assert score.ssim == pytest.approx(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_scored_is_named(crops, workers):
    bicubic = evaluation.bicubic_upscaler(3)
    with pytest.raises(datasets.DataError, match="no images"):
        evaluation.evaluate(bicubic, [], workers=workers)
    with pytest.raises(datasets.DataError, match="image odd: 32x31"):
        evaluation.evaluate(bicubic, [("odd", np.zeros((31, 32, 3), np.uint8))], workers=workers)
    with pytest.raises(datasets.DataError, match="image small: SSIM"):
        evaluation.evaluate(bicubic, [*crops, ("small", np.zeros((12, 12, 3), np.uint8))], workers=workers)
    with pytest.raises(evaluation.ModelError, match="at its own scale"):
        evaluation.evaluate(evaluation.bicubic_upscaler(2), crops, workers=workers)
    with pytest.raises(evaluation.ModelError, match="float32"):
        evaluation.evaluate(lambda lr: bicubic(lr).astype(np.float32), crops, workers=workers)
    with pytest.raises(datasets.DataError, match="no scores"):
        evaluation.summary([])


def test_no_worker_at_all_is_refused(crops):
    with pytest.raises(ValueError, match="worker"):
        evaluation.evaluate(evaluation.bicubic_upscaler(3), crops, workers=0)


@pytest.mark.skipif(not datasets.available("set5"), reason="Set5 is not there: set ABPN_DATA")
def test_bicubic_on_set5_gives_the_published_value():
    scores = evaluation.evaluate(
        evaluation.bicubic_upscaler(3), datasets.images("set5"), protocol=metrics.Y_BORDER3, with_ssim=False
    )
    assert evaluation.summary(scores).psnr == pytest.approx(30.39, abs=0.03)
