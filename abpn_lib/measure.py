"""What is measured of models and networks, as records: scores over data sets, times, parameters, file sizes.

Section 4.1 of the paper scores networks on the bicubic x3 images of a data set (HR -> LR -> model -> PSNR and SSIM
against HR, image by image); the protocol is the authors' unless another is asked for (`abpn_lib.metrics`). Means are
over images, not over pixels.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abpn_lib import datasets, degradation, metrics, models
from abpn_lib.files import DataError, InputError, ModelError, sha256
from abpn_lib.results import Context, Record

if TYPE_CHECKING:
    from abpn_lib.tflite.interpreter import Kernels

Rgb = NDArray[np.uint8]
Upscale = Callable[[Rgb], Rgb]


@dataclass(frozen=True)
class ImageScore:
    """One image's PSNR in dB (inf where the images are equal) and SSIM (at most 1; None: not asked for)."""

    name: str
    psnr: float
    ssim: float | None


def bicubic_upscaler(scale: int = 3) -> Upscale:
    """The classical baseline: MATLAB-style bicubic enlargement of (H, W, 3) uint8 images."""
    return lambda lr: degradation.bicubic_up(lr, scale)


def evaluate_all(
    upscalers: Mapping[str, Upscale], images: Iterable[tuple[str, Rgb]], *, scale: int = 3,
    protocol: metrics.Protocol = metrics.AUTHORS, with_ssim: bool = True, workers: int = 1,
) -> dict[str, list[ImageScore]]:
    """Score models, by their names, on every (name, HR image); the scores come in the images' order.

    HR images are (H, W, 3) uint8 with sides that `scale` divides, as `datasets.images` yields them. They are read one
    by one, and made smaller once for all models. Models are only ever called by the calling thread: an interpreter may
    stand behind them. Meanwhile `workers` threads score finished images; the scores do not depend on how many.

    Raises `ModelError` if a model does not return uint8 images of the HR size, such as one of another scale, and
    `DataError` if there are no images, or one cannot be scored: its sides do not divide by `scale`, or it is too small
    for SSIM.
    """
    scores: dict[str, list[ImageScore]] = {name: [] for name in upscalers}

    def score(found: tuple[str, str, Rgb, Rgb]) -> tuple[str, ImageScore]:
        model, name, hr, sr = found
        try:
            ssim = metrics.ssim(hr, sr, protocol) if with_ssim else None
            return model, ImageScore(name, metrics.psnr(hr, sr, protocol), ssim)
        except ValueError as error:
            raise DataError(f"image {name}: {error}") from error

    # Threads do: SSIM spends its time in scipy.ndimage, which lets go of the interpreter lock.
    with ThreadPoolExecutor(workers) as pool:
        found = _enlarged(upscalers, images, scale)
        # A few at a time: that bounds the memory.
        while some := list(itertools.islice(found, 2 * workers)):
            for model, scored in pool.map(score, some):
                scores[model].append(scored)
    if not all(scores.values()):
        raise DataError("there are no images to evaluate on")
    return scores


def mean_of(scores: Sequence[ImageScore]) -> ImageScore:
    """The mean over images, of their PSNRs and, where all have one, of their SSIMs."""
    ssims = [score.ssim for score in scores if score.ssim is not None]
    mean_ssim = float(np.mean(ssims)) if len(ssims) == len(scores) else None
    return ImageScore(f"mean of {len(scores)}", float(np.mean([score.psnr for score in scores])), mean_ssim)


def lines_of(subject: str, scores: Sequence[ImageScore]) -> list[str]:
    """A model's scores, image by image and in the mean, for a terminal."""
    rows = [*scores, mean_of(scores)]
    ssims = ["" if row.ssim is None else f"  {row.ssim:.4f}" for row in rows]
    return [subject, *(f"  {row.name:24} {row.psnr:8.3f} dB{ssim}" for row, ssim in zip(rows, ssims, strict=True))]


def records_of(
    scores: Sequence[ImageScore], context: Context, subject: str, dataset: str,
    protocol: metrics.Protocol = metrics.AUTHORS, model_sha256: str = "", images: Iterable[str] = (),
) -> list[Record]:
    """The mean PSNR ("psnr", dB) and, where it was asked for, SSIM ("ssim") of a model on a data set.

    `subject` is the model's name ("bicubic" for none); the spread is the least and the greatest image. Of each of
    `images` there are records of its own, with the further column "image" (Figure 3 shows two).

    Raises `DataError` if an image's name is not among the scores.
    """
    records, shown = [], list(images)
    by_name, where = {score.name: score for score in scores}, {"dataset": dataset, "protocol": protocol.name}
    if unknown := [name for name in shown if name not in by_name]:
        raise DataError(f"{dataset} has no scored image {unknown[0]!r}; there are {', '.join(sorted(by_name))}")
    for quantity, unit in (("psnr", "dB"), ("ssim", "")):
        mean, values = getattr(mean_of(scores), quantity), [getattr(score, quantity) for score in scores]
        if mean is not None:
            records.append(context.record(
                quantity, subject, mean, unit, where, count=len(scores), model_sha256=model_sha256,
                spread=(min(values), max(values)), spread_is="least and greatest image",
            ))
            records += [
                context.record(quantity, subject, getattr(by_name[name], quantity), unit, {**where, "image": name},
                               model_sha256=model_sha256)
                for name in shown
            ]
    return records


def model_path(name: str) -> Path:
    """The file of a shipped model, of one of the authors' (`datasets.OFFICIAL`), or at a path.

    Raises `DataError` or `ModelError` if there is none.
    """
    return datasets.official_model(name) if name in datasets.OFFICIAL else models.find(name)


def score_models(
    names: Mapping[str, str], dataset: str, *, protocol: metrics.Protocol = metrics.AUTHORS, with_ssim: bool = True,
    raw: bool = False, threads: int = 1, kernels: Kernels = "xnnpack", workers: int = 1,
) -> dict[str, tuple[list[ImageScore], str]]:
    """Score models on a data set at hand: by subject the scores of its images and the file's sha256.

    `names` maps subjects to what `model_path` takes, or to "bicubic", which has no file. `raw` reads integer output as
    pixels, without its scale.

    Raises `InputError` or `DataError` or `ModelError` if the models enlarge by different factors, or a model or image
    is missing or wrong.
    """
    from abpn_lib.tflite.upscaler import Upscaler

    if dataset in ("authors", "peers"):
        raise InputError(f"{dataset} holds models, not images")
    datasets.require(dataset)
    paths = {subject: model_path(name) for subject, name in names.items() if name != "bicubic"}
    made = {key: Upscaler(path, threads=threads, kernels=kernels, raw=raw) for key, path in paths.items()}
    upscalers = {key: made[key].upscale if key in made else bicubic_upscaler(3) for key in names}
    scales = {made[key].scale if key in made else 3 for key in names}
    if len(scales) > 1:
        factors = " and ".join(map(str, sorted(scales)))
        raise InputError(f"the models enlarge by {factors}: evaluate one scale at a time")
    (scale,) = scales
    images = datasets.images(dataset, scale=scale)
    scores = evaluate_all(upscalers, images, scale=scale, protocol=protocol, with_ssim=with_ssim, workers=workers)
    return {key: (found, sha256(paths[key]) if key in paths else "") for key, found in scores.items()}


def psnr(
    networks: Iterable[str], forms: Collection[str], dataset: str, *, context: Context, threads: int = 1,
    kernels: Kernels = "xnnpack",
) -> list[Record]:
    """The mean PSNR of shipped networks ("abpn", ...) in some forms ("fp32", "int8-ptq", ...) on a data set at hand."""
    names = {name: name for network in networks for form in forms for name in [f"{network}-{form}"]}
    scored = score_models(names, dataset, with_ssim=False, threads=threads, kernels=kernels)
    return [record for name, (scores, digest) in scored.items()
            for record in records_of(scores, context, name, dataset, model_sha256=digest)]


def parameters(names: Iterable[str], *, context: Context) -> list[Record]:
    """The trainable parameters of networks at x3."""
    from abpn_lib import networks

    return [context.record("parameters", name, networks.parameter_count(networks.build(name)), "") for name in names]


def int8_error(network: str, form: str, crop: datasets.Crop) -> NDArray[np.float64]:
    """How far a shipped network's pixels in a form ("int8-ptq") are from its float32 ones in a window.

    (H, W), the absolute differences' mean over the colours, in levels.
    """
    from abpn_lib.tflite.upscaler import Upscaler

    paths = (models.find(f"{network}-{kind}") for kind in (form, "fp32"))
    int8, fp32 = (Upscaler(path).upscale(crop.lr)[crop.cut].astype(np.float64) for path in paths)
    return np.abs(int8 - fp32).mean(axis=-1)


def ranges(names: Iterable[str], *, context: Context) -> list[Record]:
    """What eight bits must hold in shipped INT8 models, by their names ("abpn-int8-ptq"): for each 3x3 convolution, by
    its place in the column "layer", the "activation-range" of its output in grey levels and its "largest-weight".
    """
    from abpn_lib.tflite import graph

    made = []
    for name in names:
        model, layer = graph.read(models.find(name).read_bytes()), 0
        tensors = model.subgraphs[0].tensors
        for operator in model.subgraphs[0].operators:
            if graph.name_of(model, operator) == "CONV_2D" and tensors[operator.inputs[1]].shape[1] == 3:
                layer += 1
                kernel, output = (tensors[at].quantization.scale for at in (operator.inputs[1], operator.outputs[0]))
                made += [context.record("activation-range", name, 255 * output[0], "levels", layer=layer),
                         context.record("largest-weight", name, 127 * max(kernel), "", layer=layer)]
    return made


def latency(
    networks: Iterable[str], form: str, *, context: Context, size: str = "640x360", depths: Sequence[int] = (),
    ratios: Iterable[tuple[str, str]] = (), rounds: int = 9, threads: int = 1, kernels: Kernels = "xnnpack",
) -> list[Record]:
    """The times of networks in a form, in the same rounds, and the paired ratios of some of them.

    Each is exported for that size of input, or, without tensorflow-model-optimization, timed as its shipped file.
    `depths` are ABPNs with so many conv-ReLU pairs, in INT8 ("abpn-int8-pairs3").
    """
    from abpn_lib.timing import latency as timing

    names = list(networks)
    width, height = timing.sides(size)
    with tempfile.TemporaryDirectory() as scratch:
        if importlib.util.find_spec("tensorflow_model_optimization"):
            from abpn_lib.int8 import export

            made = functools.partial(export.export_for_latency, Path(scratch), height=height, width=width)
            precision: Any = "fp32" if form.startswith("fp32") else "int8"
            files = {f"{name}-{form}": made(name, kind=precision) for name in names}
            files |= {f"abpn-int8-pairs{pairs}": made("abpn", pairs=pairs) for pairs in depths}
        else:
            files = {f"{name}-{form}": models.find(f"{name}-{form}") for name in names}
        timed = timing.time_models(files, context, size=size, threads=threads, kernels=kernels, rounds=rounds)
    return [*timed.records.values(), *(timed.ratio(f"{of}-{form}", f"{over}-{form}") for of, over in ratios)]


def _enlarged(
    upscalers: Mapping[str, Upscale], images: Iterable[tuple[str, Rgb]], scale: int
) -> Iterator[tuple[str, str, Rgb, Rgb]]:
    """Model, image, HR and SR."""
    for name, hr in images:
        try:
            lr = degradation.bicubic_down(hr, scale)
        except ValueError as error:
            raise DataError(f"image {name}: {error}") from error
        for model, upscale in upscalers.items():
            sr = upscale(lr)
            if sr.shape != hr.shape or sr.dtype != np.uint8:
                raise ModelError(f"the model turns {lr.shape} into {sr.shape} {sr.dtype}, not into {hr.shape} uint8: "
                                 "evaluate it at its own scale")
            yield model, name, hr, sr
