"""What time is made of: a network's operators beside this machine's peaks, and the image files around a network."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from abpn_lib.results import Context, Record, columns_of
from abpn_lib.tflite import graph, images
from abpn_lib.tflite.upscaler import Upscaler
from abpn_lib.timing import nodes
from abpn_lib.timing.latency import columns, fixed_copy, time_operators
from abpn_lib.timing.rounds import measure

__all__ = ["bandwidth", "files", "operators"]


def operators(
    model: Path, subject: str, context: Context, *, size: str = "640x360", rounds: int = 15, **options: Any
) -> list[Record]:
    """The operators of a network, each timed alone (`latency.time_operators`, whose options it takes).

    Gives the "latency" of each, and where it has products their "rate" (GMAC/s: 1e9 multiply-accumulates a second)
    and "intensity" (for each byte it reads and writes); the "peak" of one large convolution in INT8 and in float32;
    and as "profile-share" what part of the network's CPU time (the steadier clock) the operators sum up to.
    """
    timed = time_operators(model, subject, context, size=size, rounds=rounds, **options)
    parts = [name for name in timed.timings if "#" in name]
    content = fixed_copy(model, size)
    whole, found = timed.records[subject].columns, [timed.records[part] for part in parts]
    where = {key: whole[key] for key in whole.keys() - columns_of(subject).keys()}
    record = functools.partial(context.record, where=where, count=rounds)

    def rate(products: int, name: str) -> float:
        return products / timed.timings[name].median_ms / 1e6

    for part, (products, moved) in zip(parts, graph.costs(content), strict=True):
        if products:
            found.append(record("rate", part, rate(products, part), "GMAC/s"))
            found.append(record("intensity", part, products / moved, "1/B"))
    for kind in ("int8", "fp32"):
        found.append(record("peak", f"conv3-{kind}", rate(nodes.PEAK_PRODUCTS, f"peak-{kind}"), "GMAC/s"))
    cpu = np.sum([timed.timings[part].cpu_samples for part in parts], axis=0)
    share = float(np.median(cpu / timed.timings[subject].cpu_samples))
    return [*found, record("profile-share", subject, share, "")]


def bandwidth(context: Context, *, rounds: int = 15) -> Record:
    """The "bandwidth" (GB/s) of copying an array of 64 MiB: bytes read and bytes written."""
    array = np.zeros(64 * 2**20, np.uint8)
    target = np.empty_like(array)
    taken = measure({"copy": lambda: np.copyto(target, array)}, rounds=rounds)["copy"]
    return context.record("bandwidth", "copy", 2 * array.size / taken.median_ms / 1e6, "GB/s", count=rounds)


def files(photograph: Image.Image, model: Path, context: Context, *, kernels: Any, rounds: int = 15) -> list[Record]:
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
    return [
        context.record(
            "latency", f"frame-{step}", timing.median_ms, "ms", where, count=rounds,
            spread=(timing.low_ms, timing.high_ms), spread_is=timing.spread_is,
        )
        for step, timing in taken.items()
    ]
