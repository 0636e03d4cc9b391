"""Where somebody's .tflite stands: its scores, and its time beside ABPN's, under one protocol.

A stranger's file is data: `isolated` touches it in a child process with bounded memory, where a crash is one line.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abpn_lib import datasets, degradation, measure, metrics, models, paper
from abpn_lib.files import InputError, ModelError, sha256
from abpn_lib.results import Context, Record
from abpn_lib.tflite import graph
from abpn_lib.tflite.interpreter import first_line, interpreter, read_model
from abpn_lib.tflite.upscaler import UNTILED_PIXELS, spans
from abpn_lib.timing import latency, rounds

Rgb = NDArray[np.uint8]
RANGES: Mapping[str, tuple[float, float]] = {"0..255": (0, 255), "0..1": (0, 1), "-1..1": (-1, 1)}
"""What black and white are in a model, by the range's name."""

SETS = (*datasets.BENCHMARKS, "div2k-valid-36")
"""What a board's row is scored on."""

_MOST_BYTES, _MOST_MEMORY, _DTYPES = 256 * 2**20, 8 * 2**30, (np.uint8, np.int8, np.float32)


class Stranger:
    """A .tflite that enlarges images by 2, 3 or 4: uint8, int8 or float32, NHWC, RGB or Y, of any size or of one.

    `range` (of `RANGES`) and `colour` ("rgb", "bgr", "y": then Cb and Cr are enlarged bicubically) are found out by
    trying where they are not given: `found` says how. Networks hardly tell RGB from BGR: RGB is taken unless BGR is
    0.2 dB ahead. `size` is its one LR (width, height), or None; such a model, and any on more than `UNTILED_PIXELS`,
    runs in tiles that overlap by up to 16 LR pixels. An integer without a scale is the pixel itself (int8 less 128).
    Raises `ModelError` if it is no such model.
    """

    size: tuple[int, int] | None = None
    _shape: tuple[int, ...] = ()

    def __init__(self, path: Path, *, range: str | None = None, colour: str | None = None, threads: int = 1) -> None:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path}: more than {_MOST_BYTES >> 20} MiB")
        self._content, self._threads = read_model(path), threads
        try:
            graph.read(self._content)
            self._input, self._output = self._open()
            self.scale = self._scale()
            self.found = self._try(range, colour)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def upscale(self, lr: Rgb) -> Rgb:
        """Enlarge an LR (H, W, 3) uint8 image to (sH, sW, 3) uint8."""
        if self.colour == "y":
            coded = np.asarray(Image.fromarray(lr).convert("YCbCr"))
            large = degradation.bicubic_up(coded, self.scale)
            large[..., :1] = self._planes(coded[..., :1])
            return np.asarray(Image.fromarray(large, "YCbCr").convert("RGB"))
        return self._planes(lr[..., ::-1])[..., ::-1] if self.colour == "bgr" else self._planes(lr)

    def _planes(self, lr: Rgb) -> Rgb:
        height, width = lr.shape[:2]
        if self.size is None and height * width <= UNTILED_PIXELS:
            return self._run(lr)
        wide, high = self.size or (512, 512)
        padded = np.pad(lr, ((0, max(high - height, 0)), (0, max(wide - width, 0)), (0, 0)), "edge")
        large = np.empty((padded.shape[0] * self.scale, padded.shape[1] * self.scale, lr.shape[2]), np.uint8)
        sides = [(side, own, min(16, own // 4)) for side, own in zip(padded.shape, (high, wide), strict=False)]
        rows, columns = (spans(side, own - 2 * halo, halo, self.scale) for side, own, halo in sides)
        for (row, kept_row, cut_row), (column, kept_column, cut_column) in product(rows, columns):
            large[kept_row, kept_column] = self._run(padded[row, column])[cut_row, cut_column]
        return large[: height * self.scale, : width * self.scale]

    def _run(self, patch: Rgb) -> Rgb:
        (low, high), dtype, (scale, zero) = RANGES[self.range], self._input["dtype"], _quantization(self._input)
        values = (patch * np.float32((high - low) / 255) + np.float32(low)) / np.float32(scale) + zero
        if dtype != np.float32:
            values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
        scale, zero = _quantization(self._output)
        pixels = ((self._invoke(values.astype(dtype)) - np.float64(zero)) * scale - low) * (255 / (high - low))
        return np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8)

    def _invoke(self, image: NDArray) -> NDArray:
        try:
            if self._shape != image.shape:
                self._network.resize_tensor_input(self._input["index"], (1, *image.shape))
                self._network.allocate_tensors()
                self._shape = image.shape
            self._network.set_tensor(self._input["index"], image[None])
            self._network.invoke()
            return self._network.get_tensor(self._output["index"])[0]
        except (RuntimeError, ValueError, MemoryError) as error:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise ModelError(f"LiteRT cannot run it on {size} pixels ({first_line(error)})") from error

    def _open(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._network, self._shape = interpreter(self._content, self._threads), ()
        tensors = [*self._network.get_input_details(), *self._network.get_output_details()]
        for shape, dtype in ((tensor["shape"].tolist(), np.dtype(tensor["dtype"])) for tensor in tensors):
            channels = (1, 3) if len(tensors) == 2 and tensors[0]["shape"][-1] == tensors[1]["shape"][-1] else ()
            if len(shape) != 4 or shape[0] != 1 or shape[3] not in channels or dtype not in _DTYPES:
                raise ModelError(f"{dtype} {shape} is not its one image, in or out: (1, H, W, 3), or (1, H, W, 1) for "
                                 "Y, in uint8, int8 or float32")
        return tensors[0], tensors[1]

    def _scale(self) -> int:
        """Try whether it takes any size; where not, it keeps its own."""
        channels, own = int(self._input["shape"][3]), self._input["shape"][1:3].tolist()
        for side in ((24, 36), tuple(own)):
            with contextlib.suppress(ModelError):
                height, width = self._invoke(np.zeros((*side, channels), self._input["dtype"])).shape[:2]
                if height * side[1] == width * side[0] and height % side[0] == 0 and 2 <= height // side[0] <= 4:
                    return int(height // side[0])
            (self._input, self._output), self.size = self._open(), (own[1], own[0])
            if -1 in self._input["shape_signature"]:
                break
        raise ModelError("it does not run, or does not enlarge an image by 2, 3 or 4")

    def _try(self, range: str | None, colour: str | None) -> str:
        """Keep the reading that gives the best picture of one image, RGB if BGR is near it; say what was tried."""
        hr = next(datasets.images("embedded", scale=12))[1][:384, :384]
        lr, scores = degradation.bicubic_down(hr, self.scale), {}
        colours = ("y",) if self._input["shape"][3] == 1 else ("rgb", "bgr")
        if (colour or colours[0]) not in colours:
            raise ModelError(f"its images are {' or '.join(colours)}, not {colour}")
        for self.range, self.colour in product([range] if range else RANGES, [colour] if colour else colours):
            scores[self.range, self.colour] = metrics.psnr(hr, self.upscale(lr))
        self.range, self.colour = max(scores, key=lambda reading: scores[reading] - 0.2 * (reading[1] == "bgr"))
        tried = ", ".join(f"{span} {way} {db:.2f}" for (span, way), db in scores.items())
        return f"values in {self.range}, {self.colour}, of those tried (PSNR in dB): {tried}"


def _quantization(tensor: Mapping[str, Any]) -> tuple[float, int]:
    if tensor["dtype"] == np.float32 or tensor["quantization"][0] > 0:
        return tensor["quantization"] if tensor["dtype"] != np.float32 else (1.0, 0)
    return 1.0, int(np.iinfo(tensor["dtype"]).min)


def times(
    files: Mapping[str, tuple[Path, str]], over: str, context: Context, *, count: int = 15, threads: int = 1
) -> list[Record]:
    """The "cpu-time" (ms) of models, each at its LR size, in the same rounds, and its ratio to that of `over`.

    CPU time, since wall time tells little where other programs run beside.
    """
    runners = {name: latency.Runner(path, size, threads=threads) for name, (path, size) in files.items()}
    timings = rounds.measure({name: runner.run for name, runner in runners.items()}, rounds=count)
    made = []
    for name, timing in timings.items():
        how: dict[str, Any] = {"count": count, "model_sha256": runners[name].sha256, **runners[name].columns}
        for quantity, subject, unit, (middle, low, high) in (
            ("cpu-time", name, "ms", rounds.median_interval(timing.cpu_samples)),
            ("cpu-time-ratio", f"{name}/{over}", "", rounds.paired_ratio(timing, timings[over], clock="cpu")),
        ):
            how |= {"spread": (low, high), "spread_is": "95 % interval of the median"}
            made.append(context.record(quantity, subject, middle, unit, **how))
    return made


def score(
    path: Path, context: Context, *, twin: Path | None = None, sets: Sequence[str] = (), count: int = 15,
    threads: int = 1, **reading: str | None,
) -> tuple[list[Record], str]:
    """What a row says of a file, as records under its stem, and how its values were read (`reading`: as `Stranger`).

    `twin` is the same network in float32, under the stem with "-float". `sets` are those at hand of `SETS`, or else the
    embedded images, unless named. Time is that of 1920x1080 pixels (or of the one size that it makes), beside
    `models.DEFAULT`, which makes as many.
    """
    name, files = path.stem, {path.stem: path, **({f"{path.stem}-float": twin} if twin else {})}
    made = {key: Stranger(file, threads=threads, **(reading if file == path else {})) for key, file in files.items()}
    scale, size = made[name].scale, made[name].size
    if len({stranger.scale for stranger in made.values()}) > 1:
        raise InputError(f"{twin} does not enlarge by {scale} as {path} does")
    width, height = size or (1920 // scale, 1080 // scale)
    timed = {models.DEFAULT: (models.find(models.DEFAULT), f"{width * scale // 3}x{height * scale // 3}")}
    records = times({**timed, name: (path, f"{width}x{height}")}, models.DEFAULT, context, count=count, threads=threads)
    upscalers = {key: stranger.upscale for key, stranger in made.items()}
    for dataset in sets or [known for known in SETS if datasets.available(known)] or ["embedded"]:
        datasets.require(dataset)
        for protocol in (metrics.AUTHORS, metrics.Protocol("y", scale)):
            images = datasets.images(dataset, scale=scale)
            scored = measure.evaluate_all(upscalers, images, scale=scale, protocol=protocol, with_ssim=False)
            for key, scores in scored.items():
                records += measure.records_of(scores, context, key, dataset, protocol, sha256(files[key]))
    return records, made[name].found


def isolated(path: Path, *words: Any, **options: Any) -> tuple[list[Record], str]:
    """`score` in a child process with bounded memory. Raises `ModelError` too if the child dies of the file."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_confine) as pool:
        try:
            return pool.submit(score, path, *words, **options).result()
        except BrokenProcessPool as error:
            raise ModelError(f"{path}: it crashes the interpreter: nothing can be said of it") from error


def _confine() -> None:
    with contextlib.suppress(ImportError, ValueError):  # not on Windows; or already less
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what dies here speaks through its parent


def summary(name: str, records: Iterable[Record]) -> dict[str, str]:
    """The cells of a row by their headings, from what `score` gave."""
    one = {(r.quantity, r.subject.partition("/")[0], r.get("dataset"), r.get("protocol")): r for r in records}
    cpu, ratio = one["cpu-time", name, None, None], one["cpu-time-ratio", name, None, None]
    row, last = {"Model": name}, ("", 0.0)
    for (quantity, subject, dataset, protocol), record in one.items():
        if quantity == "psnr" and subject == name:
            twin = one.get((quantity, f"{name}-float", dataset, protocol))
            drop = f" ({record.value - twin.value:+.3f})" if twin else ""
            row[f"PSNR {dataset} {protocol}"] = f"{record.value:.3f}{drop}"
            last = (str(dataset), record.value) if protocol == metrics.AUTHORS.name else last
    row |= {f"CPU ms, {cpu.get('size')}": f"{cpu.value:.1f}", f"CPU time to {models.DEFAULT}": f"{ratio.value:.2f}"}
    return row | {f"2^(2*PSNR-48)/ms, PSNR on {last[0]}, CPU ms": f"{paper.score(last[1], cpu.value):.2f}"}


def markdown(row: Mapping[str, str]) -> str:
    """A row with its headings, as a table for a README or an issue."""
    lines = (row.keys(), ["---"] * len(row), row.values())
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
