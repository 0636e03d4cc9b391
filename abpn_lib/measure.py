"""A model over a data set: HR -> LR -> model -> PSNR and SSIM against HR, image by image.

Section 4.1 of the paper scores networks on the bicubic x3 images of a data set; the protocol is the
authors' unless another is asked for (`abpn_lib.metrics`). Means are over images, not over pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abpn_lib import degradation, metrics
from abpn_lib.files import DataError, ModelError
from abpn_lib.models import Model
from abpn_lib.results import Context, Record

__all__ = [
    "ImageScore", "Summary", "bicubic_upscaler", "evaluate", "evaluate_all", "records_of", "records_of_images",
    "records_of_models", "summary",
]

Rgb = NDArray[np.uint8]
Upscale = Callable[[Rgb], Rgb]


@dataclass(frozen=True)
class ImageScore:
    """One image's PSNR in dB (inf where the images are equal) and SSIM (at most 1; None: not asked for)."""

    name: str
    psnr: float
    ssim: float | None


@dataclass(frozen=True)
class Summary:
    """The mean over `images` images: PSNR in dB, and SSIM (None where an image has none)."""

    psnr: float
    ssim: float | None
    images: int


def bicubic_upscaler(scale: int = 3) -> Upscale:
    """The classical baseline: MATLAB-style bicubic enlargement of (H, W, 3) uint8 images."""
    return lambda lr: degradation.bicubic_up(lr, scale)


def evaluate(
    upscale: Upscale,
    images: Iterable[tuple[str, Rgb]],
    *,
    scale: int = 3,
    protocol: metrics.Protocol = metrics.AUTHORS,
    with_ssim: bool = True,
    workers: int = 1,
) -> list[ImageScore]:
    """Score `upscale` on every (name, HR image); the scores come in the images' order.

    HR images are (H, W, 3) uint8 with sides that `scale` divides, as `datasets.images` yields them. They
    are read one by one, so a large set needs little memory. `upscale` is only ever called by the
    calling thread: an interpreter may stand behind it. With two `workers` or more that many threads
    score finished images meanwhile; the scores do not depend on how many.

    Raises
    ------
    ModelError
        If `upscale` does not return uint8 images of the HR size, such as a model of another scale.
    DataError
        If there are no images, or one cannot be scored: its sides do not divide by `scale`, or it is too
        small for SSIM.
    ValueError
        If `workers` is under 1.
    """
    return evaluate_all({"": upscale}, images, scale=scale, protocol=protocol, with_ssim=with_ssim, workers=workers)[""]


def evaluate_all(
    upscalers: Mapping[str, Upscale],
    images: Iterable[tuple[str, Rgb]],
    *,
    scale: int = 3,
    protocol: metrics.Protocol = metrics.AUTHORS,
    with_ssim: bool = True,
    workers: int = 1,
) -> dict[str, list[ImageScore]]:
    """`evaluate` for several models by their names: each image is read and made smaller once for all of them."""
    if workers < 1:
        raise ValueError(f"at least one worker is needed, not {workers}")
    triples = _enlarged(upscalers, images, scale)
    scores: dict[str, list[ImageScore]] = {name: [] for name in upscalers}
    scored: Iterator[tuple[str, ImageScore]] = _score_in_threads(triples, protocol, with_ssim, workers)
    if workers == 1:
        scored = ((model, _score(name, hr, sr, protocol, with_ssim)) for model, name, hr, sr in triples)
    for model, score in scored:
        scores[model].append(score)
    if not all(scores.values()):
        raise DataError("there are no images to evaluate on")
    return scores


def summary(scores: Sequence[ImageScore]) -> Summary:
    """The means over images.

    Raises
    ------
    DataError
        If there are no scores.
    """
    if not scores:
        raise DataError("there are no scores to take a mean of")
    ssims = [score.ssim for score in scores if score.ssim is not None]
    mean_ssim = float(np.mean(ssims)) if len(ssims) == len(scores) else None
    return Summary(float(np.mean([score.psnr for score in scores])), mean_ssim, len(scores))


def records_of(
    scores: Sequence[ImageScore],
    context: Context,
    subject: str,
    dataset: str,
    protocol: metrics.Protocol = metrics.AUTHORS,
    model_sha256: str = "",
) -> list[Record]:
    """The mean PSNR ("psnr", dB) and, where it was asked for, SSIM ("ssim") of a model on a data set.

    `subject` is the model's name ("bicubic" for none), `dataset` the set's; the spread is the least and
    the greatest image.

    Raises
    ------
    DataError
        If there are no scores.
    """
    mean = summary(scores)
    conditions = {"dataset": dataset, "protocol": protocol.name}

    def record(quantity: str, unit: str, value: float, values: list[float]) -> Record:
        return context.record(
            quantity, subject, value, unit, **conditions, count=mean.images,
            spread=(min(values), max(values)), spread_is="least and greatest image", model_sha256=model_sha256,
        )

    records = [record("psnr", "dB", mean.psnr, [score.psnr for score in scores])]
    if mean.ssim is not None:
        records.append(record("ssim", "", mean.ssim, [score.ssim for score in scores if score.ssim is not None]))
    return records


def records_of_images(
    scores: Iterable[ImageScore],
    names: Iterable[str],
    context: Context,
    subject: str,
    dataset: str,
    protocol: metrics.Protocol = metrics.AUTHORS,
    model_sha256: str = "",
) -> list[Record]:
    """The PSNR and SSIM of single images, named by the further condition "image" (Figure 3 shows two).

    Raises
    ------
    DataError
        If a name is not among the scores.
    """
    by_name = {score.name: score for score in scores}
    records = []
    for name in names:
        if name not in by_name:
            raise DataError(f"{dataset} has no scored image {name!r}; there are {', '.join(sorted(by_name))}")
        conditions = {"dataset": dataset, "protocol": protocol.name, "image": name}
        for quantity, value, unit in (("psnr", by_name[name].psnr, "dB"), ("ssim", by_name[name].ssim, "")):
            if value is not None:
                records.append(
                    context.record(quantity, subject, value, unit, **conditions, model_sha256=model_sha256)
                )
    return records


# A record's own network and seed are those of the model's name.
_RECIPE_COLUMNS = {"network": "architecture", "seed": "recipe_seed"}


def records_of_models(models: Iterable[Model], context: Context) -> list[Record]:
    """What a shipped model's file says of itself: its "size" in bytes, and the "training-steps" behind it.

    The conditions of the latter are the fields of its recipe, as text.
    """
    records = []
    for model in models:
        fields = model.provenance["recipe"].items()
        fields = [(key, str(value)) for key, value in fields if key not in ("steps", "halve_at")]
        recipe = {_RECIPE_COLUMNS.get(key, key): text for key, text in fields}
        size = model.path.stat().st_size
        records.append(context.record("size", model.name, size, "bytes", model_sha256=model.sha256))
        records.append(context.record(
            "training-steps", model.name, model.provenance["steps"], "", **recipe, model_sha256=model.sha256,
        ))
    return records


_Enlarged = tuple[str, str, Rgb, Rgb]
"""Model, image, HR and SR."""


def _enlarged(
    upscalers: Mapping[str, Upscale], images: Iterable[tuple[str, Rgb]], scale: int
) -> Iterator[_Enlarged]:
    for name, hr in images:
        try:
            lr = degradation.bicubic_down(hr, scale)
        except ValueError as error:
            raise DataError(f"image {name}: {error}") from error
        for model, upscale in upscalers.items():
            yield model, name, hr, _upscaled(upscale, lr, hr)


def _upscaled(upscale: Upscale, lr: Rgb, hr: Rgb) -> Rgb:
    sr = upscale(lr)
    if sr.shape != hr.shape or sr.dtype != np.uint8:
        raise ModelError(
            f"the model turns {lr.shape} into {sr.shape} {sr.dtype}, not into {hr.shape} uint8: "
            "evaluate it at its own scale"
        )
    return sr


def _score(name: str, hr: Rgb, sr: Rgb, protocol: metrics.Protocol, with_ssim: bool) -> ImageScore:
    try:
        return ImageScore(name, metrics.psnr(hr, sr, protocol), metrics.ssim(hr, sr, protocol) if with_ssim else None)
    except ValueError as error:
        raise DataError(f"image {name}: {error}") from error


def _score_in_threads(
    triples: Iterable[_Enlarged], protocol: metrics.Protocol, with_ssim: bool, workers: int
) -> Iterator[tuple[str, ImageScore]]:
    # Threads do: SSIM spends its time in scipy.ndimage, which lets go of the interpreter lock.
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[str, Future[ImageScore]]] = deque()

        def next_one() -> tuple[str, ImageScore]:
            model, future = waiting.popleft()
            return model, future.result()

        for model, name, hr, sr in triples:
            waiting.append((model, pool.submit(_score, name, hr, sr, protocol, with_ssim)))
            # A bounded queue bounds the memory.
            if len(waiting) > 2 * workers:
                yield next_one()
        while waiting:
            yield next_one()


# Interim, until the branch that owns this module is merged.


def psnr(networks, forms, dataset, *, context, kernels="xnnpack", threads=1):  # type: ignore[no-untyped-def]
    """The mean PSNR of shipped files on a data set."""
    from abpn_lib import datasets, models
    from abpn_lib.files import sha256
    from abpn_lib.tflite.runtime import Upscaler

    names = [f"{network}-{form}" for network in networks for form in forms]
    paths = {name: models.find(name) for name in names}
    upscalers = {name: Upscaler(path, kernels=kernels, threads=threads).upscale for name, path in paths.items()}
    scores = evaluate_all(upscalers, datasets.images(dataset), with_ssim=False)
    return [record for name in names
            for record in records_of(scores[name], context, name, dataset, model_sha256=sha256(paths[name]))]


def parameters(names, *, context):  # type: ignore[no-untyped-def]
    """The trainable parameters of networks at x3."""
    from abpn_lib import networks

    return [context.record("parameters", name, networks.parameter_count(networks.build(name)), "") for name in names]


def latency(networks, form, *, size, context, depths=(), ratios=(), rounds=9, threads=1, kernels="xnnpack"):  # type: ignore[no-untyped-def]
    """Networks exported for one size, and ABPNs of other depths, timed in turn; and ratios of the networks' times."""
    import importlib.util
    import tempfile
    from pathlib import Path

    from abpn_lib import models
    from abpn_lib.timing import latency

    width, height = map(int, size.split("x"))
    setting = latency.conditions(height, width, threads=threads, kernels=kernels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if importlib.util.find_spec("tensorflow_model_optimization"):
            built = latency.networks_for_latency(folder, list(networks), height=height, width=width)
            paths = {f"{network}-{form}": path for network, path in built.items()}
            paths |= {f"abpn-int8-pairs{n}": path for n, path in
                      latency.build_depths(folder, depths, height=height, width=width).items()}
        else:
            paths = {f"{network}-{form}": models.find(f"{network}-{form}") for network in networks}
        calls = {name: latency.invoker(path, height, width, threads=threads, kernels=kernels)
                 for name, path in paths.items()}
        timings = latency.measure(calls, rounds=rounds)
        records = latency.timing_records(timings, context, conditions=setting, models=paths)
    for a, b in ratios:
        value, low, high = latency.paired_ratio(timings[f"{a}-{form}"], timings[f"{b}-{form}"])
        records.append(context.record(
            "latency-ratio", f"{a}-{form}/{b}-{form}", value, "", **setting, count=rounds, spread=(low, high),
            spread_is="95 % interval of the paired ratio",
        ))
    return records
