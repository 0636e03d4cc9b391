"""What time is made of: a network's operators beside this machine's peaks, and the image files around a network."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from abpn_lib.results import Context, Record
from abpn_lib.tflite import graph, images
from abpn_lib.tflite.interpreter import Kernels
from abpn_lib.tflite.upscaler import Upscaler
from abpn_lib.timing import nodes
from abpn_lib.timing.latency import Runner, columns, fixed_copy
from abpn_lib.timing.rounds import measure

# A 3x3 convolution that keeps a core as busy as it gets: large enough for the fastest kernels, small enough for the
# cache. What it reaches is this machine's peak in practice, against which a network's operators are held.
_PEAK = {"height": 48, "width": 48, "channels": 256}


def operators(
    model: Path, subject: str, context: Context, *, size: str = "640x360", threads: int = 1,
    kernels: Kernels = "xnnpack", rounds: int = 15, warmup: int = 2,
) -> list[Record]:
    """A network's operators, each timed alone, in the same rounds as the network and the peaks.

    Gives the "latency" of each, and where it has products their "rate" (GMAC/s: 1e9 multiply-accumulates a second)
    and "intensity" (for each byte it reads and writes); the "peak" of one large convolution in INT8 and in float32;
    and as "profile-share" what part of the network's CPU time (the steadier clock) the operators sum up to: all of it,
    but for what each gains from finding its input cached. The operators' subjects are "abpn-int8-ptq#0 CONV_2D" and so
    on. Raises as `latency.Runner`.
    """
    options: dict[str, Any] = {"threads": threads, "kernels": kernels}
    content, where = fixed_copy(model, size), columns(size, threads, kernels)
    kinds = get_args(nodes.Precision)
    parts = [f"{subject}#{position} {name}" for position, name in enumerate(graph.operator_names(content))]
    with tempfile.TemporaryDirectory() as scratch:
        files = {kind: nodes.build(Path(scratch), ["conv3"], precision=kind, **_PEAK)["conv3"] for kind in kinds}
        peaks = {kind: graph.costs(files[kind].read_bytes())[0][0] for kind in kinds}
        for position, part in enumerate(parts):
            files[part] = Path(scratch) / f"{position}.tflite"
            files[part].write_bytes(graph.operator_alone(content, position))
        runners = {name: Runner(path, size, fit=False, **options) for name, path in files.items()}
    runners[subject] = Runner(model, size, **options)
    timed = measure({name: runner.run for name, runner in runners.items()}, rounds=rounds, warmup=warmup)
    found = [timed[part].record(context, part, where, runners[part].sha256) for part in parts]
    record = functools.partial(context.record, where=where, count=rounds)

    def rate(products: int, name: str) -> float:
        return products / timed[name].median_ms / 1e6

    for part, (products, moved) in zip(parts, graph.costs(content), strict=True):
        if products:
            found.append(record("rate", part, rate(products, part), "GMAC/s"))
            found.append(record("intensity", part, products / moved, "1/B"))
    found += [record("peak", f"conv3-{kind}", rate(peaks[kind], kind), "GMAC/s") for kind in kinds]
    cpu = np.sum([timed[part].cpu_samples for part in parts], axis=0)
    share = float(np.median(cpu / timed[subject].cpu_samples))
    return [*found, record("profile-share", subject, share, "")]


def bandwidth(context: Context, *, rounds: int = 15) -> Record:
    """The "bandwidth" (GB/s) of copying an array of 64 MiB: bytes read and bytes written."""
    array = np.zeros(64 * 2**20, np.uint8)
    target = np.empty_like(array)
    taken = measure({"copy": lambda: np.copyto(target, array)}, rounds=rounds)["copy"]
    return context.record("bandwidth", "copy", 2 * array.size / taken.median_ms / 1e6, "GB/s", count=rounds)


def files(
    photograph: Image.Image, model: Path, context: Context, *, kernels: Kernels, rounds: int = 15
) -> list[Record]:
    """The "latency" of the steps of a film's frame: to read it from a file, to enlarge it, to write it; PNG and JPEG.

    The subjects are "frame-enlarge", "frame-read-.png", and so on. One thread.
    """
    upscaler = Upscaler(model, kernels=kernels)
    enlarged = images.upscale_image(upscaler, photograph)
    steps: dict[str, Callable[[], object]] = {"enlarge": lambda: images.upscale_image(upscaler, photograph)}
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in (".png", ".jpg"):
            small, large = (Path(scratch) / f"{side}{suffix}" for side in ("small", "large"))
            images.save_image(photograph, small)
            steps[f"read-{suffix}"] = functools.partial(images.open_image, small)
            steps[f"write-{suffix}"] = functools.partial(images.save_image, enlarged, large)
        taken = measure(steps, rounds=rounds, warmup=1)
    where = columns(f"{photograph.width}x{photograph.height}", kernels=kernels)
    return [timing.record(context, f"frame-{step}", where) for step, timing in taken.items()]
