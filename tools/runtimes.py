"""ONNX Runtime and OpenVINO beside LiteRT on this CPU: their times in the same rounds, and their pixels.

Each model is timed at one size, images copied in and out; its pixels are compared on the embedded photographs. OpenVINO
computes in float32 what is not in integers: else it would take bfloat16 where the CPU can, and be further off.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abpn_lib import cli, datasets, degradation, measure
from abpn_lib.files import sha256
from abpn_lib.results import Context, Record
from abpn_lib.tflite import graph
from abpn_lib.tflite.onnx_export import to_onnx
from abpn_lib.tflite.upscaler import Upscaler
from abpn_lib.timing import latency, rounds
from tools import BuildError

MODELS = ("abpn-long-int8-ptq", "abpn-long-int8-ptq-folded", "abpn-long-fp32")
Run = Callable[[NDArray], NDArray]


def runtimes(content: bytes, threads: int) -> dict[str, Run]:
    """A .tflite as each of the two runtimes runs it, from (1, H, W, 3) to (1, 3H, 3W, 3).

    Raises
    ------
    BuildError
        If a runtime is not installed.
    """
    try:
        import onnxruntime
        import openvino
    except ImportError as error:
        raise BuildError(f"{error}: install onnxruntime and openvino beside abpn-lib[onnx]") from error
    written, options, core = to_onnx(content), onnxruntime.SessionOptions(), openvino.Core()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(written, b""), "CPU", hints).create_infer_request()
    return {
        "ONNX Runtime": lambda images: session.run(["sr"], {"lr": images})[0],
        "OpenVINO": lambda images: request.infer({"lr": images})["sr"],
    }


def compare(
    model: str, context: Context, *, size: str = "640x360", threads: int = 1, count: int = 15
) -> list[Record]:
    """What the two runtimes make of a model, against LiteRT with XNNPACK.

    "runtime-ratio" is their CPU time over LiteRT's, which tells more than wall time where other programs run beside;
    "runtime-equal" the share of pixel values that are LiteRT's, "runtime-difference" the greatest difference.
    """
    path, (width, height) = measure.model_path(model), latency.sides(size)
    content = path.read_bytes()
    images = [degradation.bicubic_down(hr, 3) for _, hr in datasets.images("embedded")]
    apart = differences(path, images)
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "fixed.tflite"
        fixed.write_bytes(graph.fix_size(content, height, width))
        litert = latency.Runner(fixed, size, threads=threads)
        runs = runtimes(fixed.read_bytes(), threads)
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype(Upscaler(path).input_dtype)
    calls: dict[str, Callable[[], object]] = {"LiteRT": partial(litert.run, copy=True)}
    timings = rounds.measure(calls | {name: partial(run, image) for name, run in runs.items()}, rounds=count)
    records, digest = [], sha256(path)
    for name in runs:
        of = {"runtime": name, "reference": "LiteRT, XNNPACK"}
        ratio, low, high = rounds.paired_ratio(timings[name], timings["LiteRT"], clock="cpu")
        records.append(context.record(
            "runtime-ratio", model, ratio, "", of, clock="cpu", size=size, threads=threads, count=count,
            spread=(low, high), spread_is="95 % interval of the paired ratio", model_sha256=digest,
        ))
        for quantity, value, unit in (
            ("runtime-equal", 100 * float(np.mean(apart[name] == 0)), "%"),
            ("runtime-difference", float(apart[name].max()), "levels"),
        ):
            records.append(context.record(quantity, model, value, unit, of, count=len(images), model_sha256=digest))
    return records


def differences(model: Path, images: Sequence[NDArray]) -> dict[str, NDArray]:
    """By runtime: how many levels each value of these LR images' enlargements is from LiteRT's."""
    upscaler = Upscaler(model)
    expected = np.concatenate([upscaler.upscale(image, tile=None).ravel() for image in images]).astype(int)
    found = {}
    for name, run in runtimes(model.read_bytes(), 1).items():
        made = [run(image[None].astype(upscaler.input_dtype)).ravel() for image in images]
        found[name] = np.abs(np.clip(np.rint(np.concatenate(made)), 0, 255) - expected)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Compare ONNX Runtime and OpenVINO with LiteRT here.")
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help=f"again for more ({', '.join(MODELS)})")
    parser.add_argument("--size", default="640x360", help="LR width x height that is timed (640x360)")
    parser.add_argument("--threads", type=int, default=1, help="of each runtime (1)")
    parser.add_argument("--rounds", type=int, default=15, help="of timing (15)")
    parser.add_argument("--json", action="store_true", help="print records as JSON")
    parser.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    if min(options.threads, options.rounds) < 1:
        raise BuildError("--threads and --rounds must be at least 1")
    context = Context.here(options.command_line)
    versions = {name: version(name) for name in ("onnx", "onnxruntime", "openvino")}
    context = replace(context, versions={**context.versions, **versions})
    records = [record for name in options.model or MODELS for record in compare(
        name, context, size=options.size, threads=options.threads, count=options.rounds)]
    lines = [f"{record.id} {record.shown} {record.shown.span}" for record in records]
    cli.write_and_print(records, options, *lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


_PROGRAM = "python -m tools.runtimes"

if __name__ == "__main__":
    sys.exit(main())
