"""Scores against the metrics by hand, on real images; the verbs that measure shipped models."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from abpn_lib import datasets, degradation, measure, metrics, models, results
from abpn_lib.files import DataError, InputError, ModelError
from tools import catalogue


def evaluate(upscale, images, **options):
    """The scores of one model."""
    return measure.evaluate_all({"": upscale}, images, **options)[""]



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
    scores = evaluate(measure.bicubic_upscaler(3), crops, protocol=protocol)
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

    alone = evaluate(upscale, crops * 3, workers=1)
    for workers in (2, 5):
        assert evaluate(upscale, iter(crops * 3), workers=workers) == alone
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

    evaluate(upscale, images(), workers=2, with_ssim=False)
    assert most_ahead == 1


def test_another_scale(crops):
    even = [(name, degradation.crop_to_multiple(hr, 2)) for name, hr in crops]
    scores = evaluate(measure.bicubic_upscaler(2), even, scale=2)
    coarser = evaluate(measure.bicubic_upscaler(3), crops)
    assert measure.mean_of(scores).psnr > measure.mean_of(coarser).psnr


def test_without_ssim_there_is_none(crops, context):
    scores = evaluate(measure.bicubic_upscaler(3), crops, with_ssim=False)
    assert {score.ssim for score in scores} == {None}
    assert measure.mean_of(scores).ssim is None
    assert [record.quantity for record in measure.records_of(scores, context, "bicubic", "embedded")] == ["psnr"]


def test_records_are_complete(crops, context, tmp_path: Path):
    scores = evaluate(measure.bicubic_upscaler(3), crops)
    records = measure.records_of(scores, context, "bicubic", "embedded", metrics.AUTHORS, "f" * 64)
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
    assert {record.context.command for record in records} == {"abpn evaluate"}
    assert {record.kind for record in records} == {"measured"}
    results.save(tmp_path / "records.json", records)
    assert results.load(tmp_path / "records.json", "measured") == records


def test_records_of_single_images(crops, context):
    scores = evaluate(measure.bicubic_upscaler(3), crops)
    records = measure.records_of(scores, context, "bicubic", "embedded", images=["coffee", "retina"])
    assert [(r.quantity, r.get("image")) for r in records] == [
        (quantity, image) for quantity in ("psnr", "ssim") for image in (None, "coffee", "retina")
    ]
    assert records[1].value == next(score.psnr for score in scores if score.name == "coffee")
    with pytest.raises(DataError, match="img004"):
        measure.records_of(scores, context, "bicubic", "embedded", images=["img004"])


def test_equal_images_have_infinite_psnr():
    grey = np.full((36, 36, 3), 128, np.uint8)
    (score,) = evaluate(measure.bicubic_upscaler(3), [("grey", grey)])
    assert score.psnr == float("inf")
    assert score.ssim == pytest.approx(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_scored_is_named(crops, workers):
    bicubic = measure.bicubic_upscaler(3)
    with pytest.raises(DataError, match="no images"):
        evaluate(bicubic, [], workers=workers)
    with pytest.raises(DataError, match="image odd: 32x31"):
        evaluate(bicubic, [("odd", np.zeros((31, 32, 3), np.uint8))], workers=workers)
    with pytest.raises(DataError, match="image small: SSIM"):
        evaluate(bicubic, [*crops, ("small", np.zeros((12, 12, 3), np.uint8))], workers=workers)
    with pytest.raises(ModelError, match="at its own scale"):
        evaluate(measure.bicubic_upscaler(2), crops, workers=workers)
    with pytest.raises(ModelError, match="float32"):
        evaluate(lambda lr: bicubic(lr).astype(np.float32), crops, workers=workers)


@pytest.mark.skipif(not datasets.available("set5"), reason="Set5 is not there: set ABPN_DATA")
def test_bicubic_on_set5_gives_the_published_value():
    scores = evaluate(
        measure.bicubic_upscaler(3), datasets.images("set5"), protocol=metrics.Y_BORDER3, with_ssim=False
    )
    assert measure.mean_of(scores).psnr == pytest.approx(30.39, abs=0.03)


def test_models_are_scored_by_name_and_form(context):
    records = measure.psnr(["abpn"], ["int8-ptq"], "embedded", context=context)
    assert [record.id for record in records] == ["psnr/abpn-int8-ptq[dataset=embedded,protocol=rgb-border1]"]
    shipped = results.find("psnr", results.recorded(), network="abpn", form="int8-ptq", dataset="embedded")
    assert records[0].value == pytest.approx(shipped.value, abs=0.01)
    assert records[0].model_sha256 == shipped.model_sha256
    assert records[0].count == 8


def test_models_that_cannot_be_scored_together_are_refused():
    with pytest.raises(InputError, match="holds models, not images"):
        measure.score_models({"bicubic": "bicubic"}, "authors")
    with pytest.raises(ModelError, match="'abpn-fp16'"):
        measure.psnr(["abpn"], ["fp16"], "embedded", context=results.Context.here("x"))


def test_shipped_files_say_their_size_and_steps(context):
    found = catalogue.records(models.catalogue(), context)
    sizes = {record.subject: record.value for record in found if record.quantity == "size"}
    assert sizes == {model.name: model.path.stat().st_size for model in models.catalogue()}
    (steps,) = results.select("training-steps", found, network="abpn-long", form="int8-ptq")
    assert steps.value == 12_000
    assert steps.columns["architecture"] == "abpn"


def test_parameters_are_counted(context):
    (record,) = measure.parameters(["abpn"], context=context)
    assert (record.id, record.value) == ("parameters/abpn", 42539)


def test_int8_costs_the_baseline_more_pixels_than_abpn():
    crop = datasets.crops()["img_091_SRF_4_HR"]
    errors = {network: measure.int8_error(network, "int8-ptq", crop) for network in ("baseline", "abpn")}
    assert {error.shape for error in errors.values()} == {crop.hr.shape[:2]}
    assert 0 < errors["abpn"].mean() < errors["baseline"].mean() < 20
    assert not measure.int8_error("abpn", "fp32", crop).any()


def test_the_ranges_of_an_int8_file_are_those_of_its_scales(context):
    found = measure.ranges(["abpn-int8-ptq", "baseline-int8-ptq"], context=context)
    assert {record.unit for record in found if record.quantity == "activation-range"} == {"levels"}
    for network in ("abpn", "baseline"):
        layers = [record.get("layer") for record in found if record.get("network") == network]
        assert layers == [layer for layer in range(1, 8) for _ in range(2)], "ABPN's frozen 1x1 anchors are no layer"
    last = {record.get("network"): record.value for record in found
            if (record.quantity, record.get("layer")) == ("activation-range", 7)}
    assert last["baseline"] == pytest.approx(255), "the image itself, at one level a step"
    weights = np.load(models.find("abpn-fp32").with_name("abpn.npz"))
    largest = [record.value for record in found
               if (record.subject, record.quantity) == ("abpn-int8-ptq", "largest-weight")]
    assert largest[-1] == pytest.approx(max(np.abs(weights[key]).max() for key in weights if "transition" in key
                                            and weights[key].ndim == 4), rel=0.05)


def test_shipped_networks_are_timed_side_by_side(context):
    one, other, ratio = measure.latency(
        ["abpn", "fsrcnn"], "fp32", context=context, size="32x24", rounds=3, ratios=[("fsrcnn", "abpn")]
    )
    assert (one.subject, other.subject, ratio.subject) == ("abpn-fp32", "fsrcnn-fp32", "fsrcnn-fp32/abpn-fp32")
    assert min(one.value, other.value, ratio.value) > 0
    assert one.columns["size"] == "32x24"
