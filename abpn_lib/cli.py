"""The `abpn` command: a thin shell over the rooms of the library.

Every command answers bad input with one line on standard error and exit status 2. Files are written
whole or not at all.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from abpn_lib import datasets, models, results
from abpn_lib.files import AbpnError, InputError, sha256

__all__ = ["main", "parser"]



def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 2 for bad input, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    options.command_line = shlex.join(["abpn", *words])
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("abpn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not isinstance(error, (OSError, AbpnError)):
            raise
        print(f"abpn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line, with its help."""
    top = argparse.ArgumentParser(
        prog="abpn",
        description=(
            "Anchor-based Plain Net: enlarge images in INT8; train, quantise and measure the paper's networks."
        ),
        epilog="`abpn COMMAND --help` explains a command. Data sets lie in the folder that ABPN_DATA names.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_models(commands)
    _add_upscale(commands)
    _add_export(commands)
    _add_train(commands)
    _add_quantize(commands)
    _add_average(commands)
    _add_curves(commands)
    _add_evaluate(commands)
    _add_latency(commands)
    _add_throughput(commands)
    _add_arm64(commands)
    _add_claims(commands)
    _add_data(commands)
    return top


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"Example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _positive(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _add_models(commands: Any) -> None:
    command = _command(commands, "models", _models, "list the shipped models", "abpn models --json")
    command.add_argument("--json", action="store_true", help="print name, path, kind, sha256 and provenance as JSON")
    command.add_argument("--out", type=Path, default=None, help="write their sizes and training steps as records")


def _models(options: argparse.Namespace) -> None:
    catalogue = models.catalogue()
    if options.out:
        from abpn_lib import measure as evaluation

        results.save(options.out, evaluation.records_of_models(catalogue, results.Context.here(options.command_line)))
    if options.json:
        print(json.dumps([{**asdict(model), "path": str(model.path)} for model in catalogue], indent=1))
        return
    for model in catalogue:
        print(f"{model.name:20} {model.kind:9} {model.path.stat().st_size:7} bytes  {model.sha256[:12]}")


def _add_upscale(commands: Any) -> None:
    command = _command(commands, "upscale", _upscale, "enlarge images", "abpn upscale photos/ -o large/")
    command.add_argument("input", type=Path, help="an image, or a folder of images")
    command.add_argument("-o", "--output", type=Path, required=True, help="the file, or folder, to write")
    _model_option(command, default=models.DEFAULT)
    command.add_argument("--tile", type=_positive, default=256, help="LR pixels a side that are processed at once")
    _runtime_options(command)
    command.add_argument("--quiet", action="store_true", help="show no progress bar")


def _model_option(command: argparse.ArgumentParser, default: str | None = None, *, several: bool = False) -> None:
    command.add_argument(
        "--model",
        metavar="NAME|PATH",
        default=default,
        required=default is None,
        action="append" if several else "store",
        help=f"a name that `abpn models` lists, a .tflite file, or of the authors' ({', '.join(datasets.OFFICIAL)})"
        + ("; again for more" if several else ""),
    )


def _model_path(name_or_path: str) -> Path:
    return datasets.official_model(name_or_path) if name_or_path in datasets.OFFICIAL else models.find(name_or_path)


def _runtime_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=_positive, default=1, help="threads of the interpreter")
    _kernels_option(command)


def _kernels_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--kernels", choices=["xnnpack", "builtin"], default="xnnpack", help="LiteRT's kernel path")


IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def _image_pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Which file becomes which: one file, or all images of a folder (kept apart by their names)."""
    if not source.exists():
        raise InputError(f"{source} does not exist: name an image or a folder of images")
    if not source.is_dir():
        if target.is_dir():
            raise InputError(f"{target} is a folder: name the file to write, for example {target / source.name}")
        return [(source, target)]
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, but {source} is a folder: name a folder to write to")
    inputs = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not inputs:
        raise InputError(f"{source} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    # PNG throughout: a JPEG of an enlarged JPEG would lose what was just won.
    outputs = [target / f"{path.stem}.png" for path in inputs]
    twice = next((path for path in outputs if outputs.count(path) > 1), None)
    if twice:
        raise InputError(f"several images of {source} would become {twice}: rename one")
    return list(zip(inputs, outputs, strict=True))


def _upscale(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from abpn_lib.tflite.images import open_image, save_image, upscale_image
    from abpn_lib.tflite.upscaler import Upscaler

    pairs = _image_pairs(options.input, options.output)
    same = next((source for source, target in pairs if target.exists() and source.samefile(target)), None)
    if same:
        raise InputError(f"{same} would be overwritten by its own enlargement: name another output")
    upscaler = Upscaler(_model_path(options.model), threads=options.threads, kernels=options.kernels)
    if options.input.is_dir():
        options.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for source, target in tqdm(pairs, unit="image", disable=options.quiet or len(pairs) < 2):
        try:
            image = upscale_image(upscaler, open_image(source), tile=options.tile)
            save_image(image, target)
        except InputError as error:
            # Of several images the reader must know which one.
            raise InputError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
    seconds = time.perf_counter() - started
    if options.input.is_dir() and not options.quiet:
        rate = len(pairs) / seconds
        print(f"{len(pairs)} images in {seconds:.1f} s: {rate:.2f} a second, reading and writing included")


def _add_export(commands: Any) -> None:
    command = _command(
        commands,
        "export",
        _export,
        "write an INT8 model in the form that a device wants: one size, uint8 or int8 images",
        "abpn export abpn-long-int8-ptq --size 640x360 --io int8 -o abpn.tflite",
    )
    command.add_argument("model", metavar="NAME|PATH", help="a name that `abpn models` lists, or a .tflite file")
    command.add_argument("-o", "--output", type=Path, required=True, help="the .tflite file to write")
    command.add_argument("--size", default=None, help="LR width x height (default: any size)")
    command.add_argument("--batch", type=_positive, default=1, help="images at once; needs --size")
    command.add_argument(
        "--io", choices=["uint8", "int8"], default="uint8", help="type of the images; int8 is uint8 less 128"
    )


def _export(options: argparse.Namespace) -> None:
    from abpn_lib.files import write_atomically
    from abpn_lib.tflite import graph

    if options.batch > 1 and not options.size:
        raise InputError(f"--batch {options.batch} needs --size: a batch of any size cannot be written")
    content = _model_path(options.model).read_bytes()
    if options.io == "int8":
        content = graph.with_int8_interface(content)
    if options.size:
        width, height = _size(options.size)
        content = graph.fix_size(content, height, width, batch=options.batch)
    write_atomically(options.output, content)
    print(f"{options.output}: {len(content)} bytes, {', '.join(dict.fromkeys(graph.operator_names(content)))}")


def _add_train(commands: Any) -> None:
    from abpn_lib.train import recipe

    command = _command(
        commands,
        "train",
        _train,
        "train a network in FP32, or go on with a run that was stopped",
        "abpn train --recipe table2 --network abpn --out runs/abpn",
    )
    command.add_argument("--recipe", default="table2", help=f"one of {', '.join(recipe.names())}")
    for field in dataclasses.fields(recipe.Recipe):
        _recipe_option(command, field)
    command.add_argument(
        "--after", type=Path, default=None, metavar="RUN",
        help="start from the weights of this finished run (its dead channels revived, if the recipe does not say else)",
    )
    command.add_argument("--out", type=Path, required=True, help="the run's folder; a run found there goes on")
    _training_options(command)


def _recipe_option(command: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    """One field of a recipe as an option; none for those that only a recipe's file can give."""
    kinds: dict[str, Any] = {"int": int, "float": float, "str": str}
    choices = re.findall(r"[\"']([\w-]+)[\"']", str(field.type))
    if str(field.type) in kinds or choices:
        command.add_argument(
            f"--{field.name.replace('_', '-')}", type=kinds.get(str(field.type), str), choices=choices or None,
            default=argparse.SUPPRESS, help=f"{field.metadata['help']} (default: the recipe's)",
        )


def _training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--save-every", type=_positive, default=500, help="steps between checkpoints")
    command.add_argument("--validate-on", default="embedded", metavar="SET", help="what is scored at each checkpoint")
    command.add_argument("--no-validation", action="store_true", help="score nothing at checkpoints")
    command.add_argument("--threads", type=_positive, default=1, help="of TensorFlow; the bits of a run depend on it")
    command.add_argument("--quiet", action="store_true", help="show no progress bar")


def _prepare_tensorflow(threads: int) -> None:
    # oneDNN picks its kernels by CPU; TensorFlow leaves it off on some where it is twice as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from abpn_lib.train import loop

    loop.use_threads(threads)


def _train(options: argparse.Namespace) -> None:
    _prepare_tensorflow(options.threads)
    from abpn_lib.train import loop, recipe

    names = [field.name for field in dataclasses.fields(recipe.Recipe)]
    chosen = recipe.recipe(options.recipe, **{name: getattr(options, name, None) for name in names})
    print(loop.run(
        chosen, options.out, results.Context.here(options.command_line), after=options.after,
        validate_on="" if options.no_validation else options.validate_on, save_every=options.save_every,
        progress=not options.quiet,
    ))


def _add_quantize(commands: Any) -> None:
    command = _command(
        commands,
        "quantize",
        _quantize,
        "turn a training run into float32 and INT8 .tflite files",
        "abpn quantize --run runs/abpn --out models",
    )
    command.add_argument(
        "--run", dest="run_folder", type=Path, required=True, help="a folder that `abpn train` finished"
    )
    command.add_argument("--out", type=Path, required=True, help="the folder to write the models to")
    command.add_argument("--calibrate", default="train", help="the data set whose LR images give the activation ranges")
    command.add_argument("--images", type=_positive, default=32, help="how many images to calibrate on, evenly spaced")
    command.add_argument("--name", default=None, help="what the files' names begin with (default: the network's name)")
    command.add_argument(
        "--network", default=None, help="a network that takes the run's weights: nearest those of abpn, as one function"
    )
    command.add_argument("--float-only", action="store_true", help="no INT8: the float32 file alone")
    command.add_argument(
        "--per-tensor", action="store_true", help="also an INT8 file with one scale for each weight tensor"
    )
    command.add_argument(
        "--qat",
        metavar="RECIPE",
        default=None,
        help="also train quantisation-aware, by one of the recipes qat-*",
    )
    command.add_argument(
        "--equalize", action="store_true", help="first apply cross-layer equalisation (plain conv-ReLU chains only)"
    )
    command.add_argument(
        "--gptq", action="store_true",
        help="PTQ per channel: round by GPTQ, weight by weight, each making good for those before"
    )
    command.add_argument("--steps", type=_positive, default=None, help="QAT steps (default: the recipe's)")
    command.add_argument("--data", default=None, help="QAT's data set (default: the recipe's)")
    command.add_argument("--batch", type=_positive, default=None, help="patches in a QAT batch (default: the recipe's)")
    command.add_argument("--patch", type=_positive, default=None, help="QAT's LR pixels a side (default: the recipe's)")
    _training_options(command)


def _quantize(options: argparse.Namespace) -> None:
    _prepare_tensorflow(options.threads)
    from abpn_lib import int8

    made = int8.make_models(
        options.run_folder, options.out, results.Context.here(options.command_line), name=options.name,
        network=options.network, calibrate=options.calibrate, images=options.images, float_only=options.float_only,
        per_tensor=options.per_tensor, equalize=options.equalize, gptq=options.gptq, qat_recipe=options.qat,
        qat_fields={field: getattr(options, field) for field in ("steps", "data", "batch", "patch")},
        validate_on="" if options.no_validation else options.validate_on, save_every=options.save_every,
        progress=not options.quiet,
    )
    print(*made, sep="\n")


def _add_average(commands: Any) -> None:
    command = _command(
        commands,
        "average",
        _average,
        "average the weights of runs that went on from one run",
        "abpn average runs/tuned-3 runs/tuned-4 --out runs/abpn-long",
    )
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that `abpn train --after` finished")
    command.add_argument("--out", type=Path, required=True, help="folder of the new run")


def _average(options: argparse.Namespace) -> None:
    _prepare_tensorflow(1)
    from abpn_lib.train import runs

    runs.average(options.runs, options.out, results.Context.here(options.command_line))
    print(options.out / "weights.npz")


def _add_curves(commands: Any) -> None:
    command = _command(
        commands,
        "curves",
        _curves,
        "turn the logs of finished training runs into records",
        "abpn curves runs/abpn runs/fsrl --out curves.json",
    )
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that `abpn train` finished")
    command.add_argument("--json", action="store_true", help="print records as JSON")
    command.add_argument("--out", type=Path, default=None, help="also write the records to this file")


def _curves(options: argparse.Namespace) -> None:
    _prepare_tensorflow(1)
    from abpn_lib.train import runs

    images = datasets.spaced_lr_images("embedded", 8, 3)
    records = [record for folder in options.runs for record in runs.records_of_run(folder)]
    records += [record for folder in options.runs for record in runs.dead_channels(folder, images)]
    _give(records, options)
    if not options.json:
        for record in records:
            unit = record.unit or "dead channels"
            print(f"{record.subject:32} step {record.columns['step']:>7} {record.value:8.3f} {unit}")


def _add_evaluate(commands: Any) -> None:
    command = _command(
        commands,
        "evaluate",
        _evaluate,
        "measure a model's PSNR and SSIM on a data set",
        "abpn evaluate --model bicubic --model abpn-long-int8-ptq --data set5",
    )
    _model_option(command, several=True)
    command.add_argument(
        "--data", default="embedded", help=f"one of {', '.join(n for n in datasets.DATASETS if n != 'authors')}"
    )
    command.add_argument(
        "--protocol",
        choices=["authors", "field"],
        default="authors",
        help="authors: RGB, border 1; field: Y channel, border 3",
    )
    command.add_argument("--raw", action="store_true", help="read integer output as pixels, without its scale")
    command.add_argument("--workers", type=_positive, default=2, help="images scored at once")
    command.add_argument("--json", action="store_true", help="print records as JSON")
    command.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    command.add_argument("--subject", default=None, help="the name in the records (default: the model's)")
    command.add_argument(
        "--image", action="append", default=[], metavar="NAME",
        help="also one record for this image; again for more; all: for each",
    )
    command.add_argument("--no-ssim", action="store_true", help="PSNR alone, which is several times as fast")
    _runtime_options(command)


def _evaluate(options: argparse.Namespace) -> None:
    from abpn_lib import measure as evaluation
    from abpn_lib import metrics
    from abpn_lib.tflite.upscaler import Upscaler

    protocol = {"authors": metrics.AUTHORS, "field": metrics.FIELD}[options.protocol]
    if options.subject and len(options.model) > 1:
        raise InputError(f"--subject names one model, and there are {len(options.model)}: leave it out")
    upscalers: dict[str, Any] = {}
    digests, scales = {}, set()
    for name in options.model:
        subject = options.subject or Path(name).stem
        if name == "bicubic":
            upscalers[subject], digests[subject] = evaluation.bicubic_upscaler(3), ""
            scales.add(3)
        else:
            path = _model_path(name)
            upscaler = Upscaler(path, threads=options.threads, kernels=options.kernels, raw=options.raw)
            upscalers[subject], digests[subject] = upscaler.upscale, sha256(path)
            scales.add(upscaler.scale)
    if len(scales) > 1:
        factors = " and ".join(map(str, sorted(scales)))
        raise InputError(f"the models enlarge by {factors}: evaluate one scale at a time")
    if options.data not in datasets.DATASETS or options.data == "authors":
        datasets.dataset(options.data)
        raise InputError(f"{options.data} holds no images")
    datasets.require(options.data)
    (scale,) = scales
    all_scores = evaluation.evaluate_all(
        upscalers,
        datasets.images(options.data, scale=scale),
        scale=scale,
        protocol=protocol,
        with_ssim=not options.no_ssim,
        workers=options.workers,
    )
    here = results.Context.here(options.command_line)
    records = []
    for name, (subject, scores) in zip(options.model, all_scores.items(), strict=True):
        digest = digests[subject]
        context = replace(here, command=_command_for(name, options.command_line))
        records += evaluation.records_of(scores, context, subject, options.data, protocol, digest)
        images = [score.name for score in scores] if options.image == ["all"] else options.image
        records += evaluation.records_of_images(scores, images, context, subject, options.data, protocol, digest)
    if options.raw:
        records = [replace(record, columns={**record.columns, "reading": "raw"}) for record in records]
    _give(records, options)
    if not options.json:
        for subject, scores in all_scores.items():
            _print_scores(subject, scores)


def _command_for(model: str, line: str) -> str:
    """The command that measures one of several models again: the line without the others."""
    words = shlex.split(line)
    others = {i for i, word in enumerate(words[:-1]) if word == "--model" and words[i + 1] != model}
    return shlex.join(word for i, word in enumerate(words) if not {i, i - 1} & others)


def _print_scores(subject: str, scores: Sequence[Any]) -> None:
    from abpn_lib import measure as evaluation

    mean = evaluation.summary(scores)
    rows = [
        *((score.name, score.psnr, score.ssim) for score in scores),
        (f"mean of {mean.images}", mean.psnr, mean.ssim),
    ]
    print(subject)
    for name, psnr, ssim in rows:
        print(f"  {name:24} {psnr:8.3f} dB" + ("" if ssim is None else f"  {ssim:.4f}"))


def _add_latency(commands: Any) -> None:
    command = _command(
        commands,
        "latency",
        _latency,
        "time models, or Table 1's meta-nodes, on this machine or on a phone",
        "abpn latency abpn-long-int8-ptq abpn-long-fp32 --threads 2",
    )
    command.add_argument(
        "models", nargs="*", metavar="NAME|PATH", help="models (default: all shipped ones; on a phone Table 3's)"
    )
    command.add_argument("--nodes", action="store_true", help="time Table 1's twelve meta-nodes instead")
    command.add_argument(
        "--size", default=None, help="LR width x height (640x360); with --nodes the HR one (1920x1080)"
    )
    command.add_argument("--channels", type=_positive, default=3, help="of the meta-nodes' tensors")
    command.add_argument("--rounds", type=_positive, default=None, help="interleaved rounds (15; on a phone 50 runs)")
    command.add_argument("--json", action="store_true", help="print records as JSON")
    command.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    command.add_argument(
        "--threads", type=_positive, default=None,
        help="threads of the interpreter (1; on a phone each of 1, 2, 4 and 8 that it has cores for)",
    )
    _kernels_option(command)
    command.add_argument(
        "--device", default=None, metavar="android[:SERIAL]",
        help="time on this phone instead, through adb: its CPU, its GPU and NNAPI; each result is written at once",
    )
    command.add_argument(
        "--benchmark-model", type=Path, default=None, metavar="PATH",
        help="TensorFlow's benchmark_model for the phone's processor",
    )
    command.add_argument(
        "--benchmark-sha256", default=None, metavar="HASH",
        help="its hash: without a path, TensorFlow's newest build is downloaded, and used if it has this hash",
    )


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and 0 < int(side) <= 16384 for side in sides):
        raise InputError(f"--size {text!r} is not WIDTHxHEIGHT, such as 640x360")
    return int(sides[0]), int(sides[1])


def _latency(options: argparse.Namespace) -> None:
    import tempfile

    width, height = _size(options.size or ("1920x1080" if options.nodes else "640x360"))
    if options.device is None and (options.benchmark_model or options.benchmark_sha256):
        raise InputError("--benchmark-model and --benchmark-sha256 are for a phone: name it with --device android")
    with tempfile.TemporaryDirectory() as scratch:
        if options.device is None:
            _latency_here(options, height, width, Path(scratch))
        else:
            _latency_android(options, height, width, Path(scratch))


def _timed_files(
    options: argparse.Namespace, height: int, width: int, folder: Path, default: Sequence[str]
) -> dict[str, Path]:
    from abpn_lib.timing import latency

    if options.nodes:
        _prepare_tensorflow(1)
        paths = latency.build_meta_nodes(folder, height=height, width=width, channels=options.channels)
        return {f"node-{name}": path for name, path in paths.items()}
    return {Path(name).stem: _model_path(name) for name in options.models or default}


def _latency_here(options: argparse.Namespace, height: int, width: int, scratch: Path) -> None:
    from abpn_lib.timing import latency

    threads, rounds = options.threads or 1, options.gptqs or 15
    sides: tuple[int | None, int | None] = (None, None) if options.nodes else (height, width)
    files = _timed_files(options, height, width, scratch, [model.name for model in models.catalogue()])
    candidates = {
        name: latency.invoker(path, *sides, threads=threads, kernels=options.kernels) for name, path in files.items()
    }
    timings = latency.measure(candidates, rounds=rounds)
    conditions = latency.conditions(height, width, threads=threads, kernels=options.kernels)
    if options.nodes:
        conditions["channels"] = options.channels
    records = latency.timing_records(timings, results.Context.here(options.command_line), conditions=conditions)
    _give(records, options)
    if not options.json:
        print(f"{width}x{height}, {threads} thread(s), {options.kernels} kernels, {rounds} rounds")
        print(records[0].device)
        for name, timing in timings.items():
            interval = f"[{timing.low_ms:.2f}, {timing.high_ms:.2f}]"
            print(f"{name:24} {timing.median_ms:9.2f} ms  {interval}  CPU {timing.cpu_ms:.2f} ms")
        _print_ratios(timings)


def _print_ratios(timings: Mapping[str, Any]) -> None:
    """Each candidate against the first, by rounds taken side by side."""
    from abpn_lib.timing import latency

    first, *others = timings
    for name in others:
        ratio, low, high = latency.paired_ratio(timings[name], timings[first])
        cpu, *_ = latency.paired_ratio(timings[name], timings[first], clock="cpu")
        noise = ": inside the noise" if low <= 1 <= high else ""
        print(f"{name} takes {ratio:.2f} [{low:.2f}, {high:.2f}] times as long as {first} (CPU {cpu:.2f}){noise}")


def _latency_android(options: argparse.Namespace, height: int, width: int, scratch: Path) -> None:
    from abpn_lib.timing import android, latency

    kind, _, serial = options.device.partition(":")
    if kind != "android":
        raise InputError(f"--device {options.device!r} is not android or android:SERIAL")
    if options.out and not options.out.parent.is_dir():
        raise InputError(f"{options.out}: its folder does not exist")
    phone = android.find(serial or None)
    tool = android.benchmark_model(options.benchmark_model, options.benchmark_sha256)
    files = _timed_files(options, height, width, scratch, android.MODELS)
    sides: tuple[int | None, int | None] = (None, None) if options.nodes else (height, width)
    contents = {name: latency.fixed_copy(path, *sides) for name, path in files.items()}
    chosen = android.settings(phone, options.threads, options.kernels)
    runs = android.measure(phone, tool, contents, chosen, rounds=options.gptqs or 50)
    # A record file is passed on, and the serial number is nobody else's business.
    words = ["android" if word == options.device else word for word in shlex.split(options.command_line)]
    _follow_android(options, phone, runs, {
        "context": results.Context.here(shlex.join(words).replace(f"--device={options.device}", "--device=android")),
        "size": f"{width}x{height}",
        "tool_sha256": sha256(tool),
        "conditions": {"channels": options.channels} if options.nodes else {},
    }, {name: sha256(path) for name, path in files.items()})


def _follow_android(
    options: argparse.Namespace, phone: Any, runs: Any, shared: dict[str, Any], digests: dict[str, str]
) -> None:
    """Write and print each run as it ends; where the phone fails, say where the results so far are."""
    from contextlib import closing

    from abpn_lib.timing import android

    records: list[results.Record] = []
    if not options.json:
        print(f"{shared['size']}\n{phone.name}", flush=True)
    try:
        with closing(runs):
            for run in runs:
                where = f"{run.subject:24} {run.setting.name:7}"
                if run.report is None:
                    print(f"abpn: {run.subject} does not run on {run.setting.name}: {run.refusal}", file=sys.stderr)
                    continue
                records.append(android.record(run, phone, model_sha256=digests[run.subject], **shared))
                if options.out:
                    results.save(options.out, records)
                if not options.json:
                    interval = f"[{run.report.low_ms:.2f}, {run.report.high_ms:.2f}]"
                    told = ", ".join(f"{name} {part}" for name, part in run.report.taken.items() if part)
                    print(f"{where} {run.report.value_ms:9.2f} ms  {interval}  {told}  {run.after}", flush=True)
        if not records:
            raise android.DeviceError(f"{phone.serial}: no model ran on it; the lines above say why")
    except android.DeviceError as error:
        kept = options.out or ("standard output" if options.json else "the lines above")
        told = f"; the {len(records)} results so far are in {kept}" if records else ""
        raise InputError(f"{error}{told}") from error
    finally:
        if options.json and records:
            print(json.dumps([asdict(record) for record in records], indent=1))


def _add_throughput(commands: Any) -> None:
    command = _command(
        commands,
        "throughput",
        _throughput,
        "time training steps: this library's, and those of a Python generator feeding model.fit",
        "abpn throughput --data embedded --batch 16 --patch 32",
    )
    command.add_argument("--network", default="abpn", help="the network that is trained")
    command.add_argument("--data", default="embedded", help="the data set to cut patches from")
    command.add_argument("--batch", type=_positive, default=16, help="patches in a batch")
    command.add_argument("--patch", type=_positive, default=64, help="LR pixels a side of a patch")
    command.add_argument("--threads", type=_positive, default=1, help="of TensorFlow")
    command.add_argument("--rounds", type=_positive, default=7, help="interleaved rounds")
    command.add_argument("--steps", type=_positive, default=10, help="steps that are timed in each round")
    command.add_argument("--json", action="store_true", help="print records as JSON")
    command.add_argument("--out", type=Path, default=None, help="also write the records to this file")


def _throughput(options: argparse.Namespace) -> None:
    _prepare_tensorflow(options.threads)
    from tools import throughput

    fields = ("network", "batch", "patch", "threads", "rounds", "steps")
    setting = throughput.Setting(**{field: getattr(options, field) for field in fields})
    scale = setting.recipe.scale
    datasets.require(options.data)
    rates = throughput.measure([hr for _, hr in datasets.images(options.data, scale=scale)], setting)
    context = results.Context.here(options.command_line)
    records = throughput.records(rates, context, setting, options.data)
    _give(records, options)
    if not options.json:
        print(f"batch {options.batch}, patch {options.patch}, {options.threads} thread(s), {options.gptqs} rounds")
        print(records[0].device)
        for record in records:
            low, high = record.spread or (record.value, record.value)
            unit = "times" if record.quantity == "throughput-ratio" else record.unit
            print(f"{record.subject:30} {record.value:9.2f} {unit:5}  [{low:.2f}, {high:.2f}]")


def _add_arm64(commands: Any) -> None:
    command = _command(
        commands,
        "arm64",
        _arm64,
        "compare bits and count instructions on an emulated ARM64 core (qemu-user)",
        "abpn arm64 --prefix prefix --prepare, then: abpn arm64 --prefix prefix",
    )
    command.add_argument("--prefix", type=Path, required=True, help="the folder of LiteRT for aarch64")
    command.add_argument("--prepare", action="store_true", help="fill that folder (downloads 14 MB), and no more")
    command.add_argument(
        "--cpu", action="append", metavar="NAME", help="as qemu names it; again for more (cortex-a57, cortex-a76)"
    )
    command.add_argument(
        "--model", action="append", metavar="NAME|PATH",
        help="an INT8 model; again for more (abpn-int8-ptq, abpn-long-int8-ptq, fsrcnn-int8-ptq)",
    )
    command.add_argument(
        "--size", action="append", metavar="WxH",
        help="LR width x height to count at, the first also to compare at; again for more (64x64, 96x96, 128x96)",
    )
    command.add_argument(
        "--kernels", action="append", choices=["xnnpack", "builtin"], help="LiteRT's kernel path; again for both (both)"
    )
    command.add_argument("--json", action="store_true", help="print records as JSON")
    command.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    command.add_argument("--quiet", action="store_true", help="show no progress bar")


def _arm64(options: argparse.Namespace) -> None:
    from tools.arm64 import arm64

    if options.prepare:
        prefix = arm64.prepare(options.prefix)
        print(f"{options.prefix}: LiteRT {prefix.litert} for aarch64 is ready")
        return
    sizes = [_size(text)[::-1] for text in options.size] if options.size else list(arm64.SIZES)
    if options.out and not options.out.parent.is_dir():
        raise InputError(f"{options.out}: its folder does not exist")
    emulator = arm64.find_emulator()
    prefix = arm64.open_prefix(options.prefix)
    machines = [arm64.start(prefix, emulator, cpu) for cpu in _once(options.cpu or arm64.CPUS)]
    paths = [_model_path(name) for name in _once(options.model or arm64.MODELS)]
    context = results.Context.here(options.command_line)
    kernels = _once(options.kernels or ["xnnpack", "builtin"])
    findings = arm64.measure(machines, paths, kernels, _once(sizes), progress=not options.quiet)
    _give(findings.records(context), options)
    if not options.json:
        print(*findings.lines(), sep="\n")
    if findings.not_counted:
        raise findings.not_counted


def _once(items: Sequence[Any]) -> list[Any]:
    """The items in their order, each one once."""
    return list(dict.fromkeys(items))


def _give(records: Sequence[results.Record], options: argparse.Namespace) -> None:
    """Write records where `--out` says, and print them where `--json` asks for it."""
    if options.out:
        results.save(options.out, records)
    if options.json:
        print(json.dumps([asdict(record) for record in records], indent=1))


def _add_claims(commands: Any) -> None:
    command = _command(
        commands,
        "claims",
        _claims,
        "print the ledger: what the paper claims, what was measured, the verdict",
        "abpn claims --json",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--records", type=Path, nargs="*", default=[], metavar="FILE", help="further record files")
    command.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="records of another device, such as those that the book's page in the browser saves; again for more",
    )


def _claims(options: argparse.Namespace) -> None:
    from abpn_lib.claims.ledger import ledger as claims
    from abpn_lib.timing import android

    added = {path: results.load(path, "measured") for path in (*options.add, *options.records)}
    for path, rows in added.items():
        if any(map(android.not_a_phone, rows)):
            raise InputError(f"{path} comes from an emulator or a stand-in, not from a phone: leave it out")
    ledger = claims.ledger([*(record for rows in added.values() for record in rows), *results.recorded()])
    if options.json:
        print(claims.to_json(ledger))
        return
    for claim, judgement in ledger:
        print(f"{claim.id:14} {judgement.verdict:18} {claim.statement}")


def _add_data(commands: Any) -> None:
    command = commands.add_parser("data", help="fetch or verify data sets", description="Fetch or verify data sets.")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("fetch", _data_fetch, "download what is missing of data sets, each file checked against its hash"),
        ("verify", _data_verify, "check the hash of every file of data sets"),
    ):
        action = _command(actions, name, run, text, f"abpn data {name} set5 urban100")
        action.add_argument("names", nargs="+", metavar="NAME", help=f"of {', '.join(datasets.DATASETS)}")
        action.add_argument("--quiet", action="store_true", help="show no progress bar")


def _data_fetch(options: argparse.Namespace) -> None:
    for name in options.names:
        datasets.dataset(name)
    for name in options.names:
        datasets.fetch(name, progress=not options.quiet)
        print(f"{name}: complete in {datasets.data_root()}")


def _data_verify(options: argparse.Namespace) -> None:
    for name in options.names:
        print(f"{name}: {datasets.verify(name)} files as they should be")


if __name__ == "__main__":
    sys.exit(main())
