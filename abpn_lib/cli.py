"""The `abpn` command: parses the line and calls one function of the library.

Bad input is answered by one line on standard error and exit status 2. Files are written whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from abpn_lib import models, results
from abpn_lib.files import AbpnError, DeviceError, InputError
from abpn_lib.results import Record
from abpn_lib.train import recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 2 for bad input, 130 when interrupted."""
    return answer("abpn", parser, list(sys.argv[1:] if arguments is None else arguments))


def answer(program: str, command_line: Callable[[], argparse.ArgumentParser], words: Sequence[str]) -> int:
    """Parse and run; an error that the user can mend becomes one line on standard error and status 2."""
    try:
        options = command_line().parse_args(words)
        options.command_line = shlex.join([*program.split(), *words])
        options.run(options)
    except KeyboardInterrupt:
        print("abpn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, AbpnError) as error:
        print(f"abpn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line, with its help."""
    top = argparse.ArgumentParser(
        prog="abpn",
        description="Anchor-based Plain Net: enlarge images in INT8; train, quantise and measure the paper's networks.",
        epilog="`abpn COMMAND --help` explains a command. Data sets lie in the folder that ABPN_DATA names.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_models, _add_upscale, _add_export, _add_train, _add_quantize, _add_average, _add_evaluate, _add_score,
        _add_latency, _add_claims, _add_data,
    ):
        add(commands)
    return top


def write_and_print(records: Iterable[Record], options: argparse.Namespace, *lines: str) -> None:
    """Write records where `--out` says; print them where `--json` asks for it, else the lines."""
    found = list(records)
    if options.out:
        results.save(options.out, found)
    if options.json:
        print(json.dumps([record.row for record in found], indent=1))
    elif lines:
        print(*lines, sep="\n")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str
) -> Callable[..., Any]:
    """Add a command, and return what adds an option to it."""
    command = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"Example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    return command.add_argument


def _positive(most: int = 1_000_000) -> Callable[[str], int]:
    def positive(text: str) -> int:
        value = int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to {most}")
        return value

    return positive


_threads = _positive(1024)


def _file_to_write(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of {text[:200]} does not exist")
    return path


def _model_option(
    add: Callable[..., Any], default: str | None = None, *, several: bool = False, more: str = ""
) -> None:
    text = f"a name that `abpn models` lists, a .tflite file, or one of the authors' (authors-int8-qat, ...){more}"
    add("--model", metavar="NAME|PATH", default=default, required=default is None,
        action="append" if several else "store", help=text + ("; again for more" if several else ""))


def _runtime_options(add: Callable[..., Any], text: str = "threads of the interpreter") -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--threads", type=_threads, default=cores, help=text)
    add("--kernels", choices=["xnnpack", "builtin"], default="xnnpack", help="LiteRT's kernel path")


def _record_options(add: Callable[..., Any]) -> None:
    add("--json", action="store_true", help="print records as JSON")
    add("--out", type=_file_to_write, default=None, help="also write the records to this file")


def _training_options(add: Callable[..., Any]) -> None:
    add("--save-every", type=_positive(), default=500, help="steps between checkpoints")
    add("--validate-on", default="embedded", metavar="SET", help="what is scored at each checkpoint")
    add("--no-validation", action="store_const", const="", dest="validate_on", default=argparse.SUPPRESS,
        help="score nothing at checkpoints")
    add("--threads", type=_threads, default=1, help="of TensorFlow; the bits of a run depend on it")
    add("--quiet", action="store_true", help="show no progress bar")


def _context(options: argparse.Namespace) -> results.Context:
    return results.Context.here(options.command_line)


def _checkpoints(options: argparse.Namespace) -> dict[str, Any]:
    return {"validate_on": options.validate_on, "save_every": options.save_every, "progress": not options.quiet}


def _prepare_tensorflow(threads: int) -> None:
    # oneDNN picks its kernels by CPU; TensorFlow leaves it off on some where it is twice as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from abpn_lib.train import loop

    loop.use_threads(threads)


def _add_models(commands: Any) -> None:
    add = _command(commands, "models", _models, "list the shipped models", "abpn models --json")
    add("--json", action="store_true", help="print name, path, kind, sha256 and provenance as JSON")


def _models(options: argparse.Namespace) -> None:
    catalogue = models.catalogue()
    if options.json:
        print(json.dumps([{**asdict(model), "path": str(model.path)} for model in catalogue], indent=1))
        return
    for model in catalogue:
        print(f"{model.name:20} {model.kind:9} {model.path.stat().st_size:7} bytes  {model.sha256[:12]}")


def _add_upscale(commands: Any) -> None:
    add = _command(commands, "upscale", _upscale, "enlarge images and films", "abpn upscale clip.mp4 -o large.mp4")
    add("input", type=Path, help="an image, an animation, a film, or a folder of images")
    add("-o", "--output", type=Path, required=True, help="the file, or folder, to write")
    _model_option(add, default=models.DEFAULT, more="; auto: INT8 or float32, whichever is faster on this CPU")
    add("--tile", type=_positive(8192), default=384, help="greatest side in LR pixels of what is processed at once")
    _runtime_options(add, "cores to use: one for each image or frame, all for one image")
    add("--quiet", action="store_true", help="show no progress bar")
    add("--codec", default="libx264", help="a film's encoder, by FFmpeg's name, such as libx265")
    add("--crf", type=int, choices=range(64), metavar="0..63", default=18, help="a film's quality: less is better")
    add("--start", type=float, default=0.0, metavar="SECONDS", help="leave out what comes before")
    add("--duration", type=float, default=None, metavar="SECONDS", help="leave out what comes after so long a part")
    add("--keep-part", action="store_true", help="when interrupted, keep the film so far (default: no file)")


def _upscale(options: argparse.Namespace) -> None:
    from abpn_lib import measure
    from abpn_lib.tflite import images
    from abpn_lib.tflite.upscaler import Upscaler

    is_film = images.is_film(options.input, options.output)
    if is_film:
        from abpn_lib import film

        how = film.Options(options.codec, options.crf, options.start, options.duration, options.keep_part)
        film.check(options.input, options.output, how)
    pairs = [] if is_film else images.pairs(options.input, options.output)
    if options.model == "auto":
        options.model, why = models.suited()
        print(f"{options.model}: {why}")
    # One image takes all threads; of many images or frames each takes one, which is faster.
    one = len(pairs) == 1
    path, threads = measure.model_path(options.model), options.threads
    upscaler = Upscaler(path, threads=threads if one else 1, kernels=options.kernels)
    if is_film:
        count, seconds = film.upscale_film(
            upscaler, options.input, options.output, how, threads=threads, tile=options.tile,
            progress=not options.quiet, say=lambda line: print(f"abpn: {line}", file=sys.stderr),
        )
        if not options.quiet:
            print(f"{count} frames in {seconds:.1f} s: {count / seconds:.2f} a second, reading and writing included")
    elif not options.input.is_dir():
        images.upscale_file(upscaler, *pairs[0], tile=options.tile)
    else:
        _upscale_folder(upscaler, pairs, options)


def _upscale_folder(upscaler: Any, pairs: list[tuple[Path, Path]], options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from abpn_lib.tflite import images

    options.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    found = images.upscale_files(upscaler, pairs, threads=options.threads, tile=options.tile)
    failures = list(filter(None, tqdm(found, total=len(pairs), unit="image", disable=options.quiet or len(pairs) < 2)))
    seconds, done = time.perf_counter() - started, len(pairs) - len(failures)
    if not options.quiet:
        print(f"{done} images in {seconds:.1f} s: {done / seconds:.2f} a second, reading and writing included")
    if failures:
        raise InputError(f"{len(failures)} of {len(pairs)} images failed: {'; '.join(failures)}")


def _add_export(commands: Any) -> None:
    add = _command(commands, "export", _export,
                   "write a model in the form that a device or another runtime wants: one size, int8 images, ONNX",
                   "abpn export abpn-long-int8-ptq --size 640x360 --io int8 -o abpn.tflite")
    add("model", metavar="NAME|PATH", help="a name that `abpn models` lists, or a .tflite file")
    add("-o", "--output", type=_file_to_write, required=True, help="the file to write")
    add("--format", choices=["tflite", "onnx"], default="tflite",
        help="onnx: for ONNX Runtime or OpenVINO, float32 or INT8 (QDQ), of the same images in and out")
    add("--size", default=None, help="LR width x height (default: any size)")
    add("--batch", type=_positive(1024), default=1, help="images at once; needs --size")
    add("--io", choices=["uint8", "int8"], default="uint8", help="type of the images; int8 is uint8 less 128")
    add("--device", default=None, metavar="ethos-NAME[:KIB]",
        help="the graph that suits this NPU, such as ethos-u65-512: one size (640x360), int8 images, no pixel shuffle")
    add("--compile", action="store_true", help="compiled for it by Arm's Vela, as it goes to a board")


def _export(options: argparse.Namespace) -> None:
    from abpn_lib import measure
    from abpn_lib.files import write_atomically
    from abpn_lib.tflite import graph, onnx_export
    from abpn_lib.timing import npu
    from abpn_lib.timing.latency import sides

    if options.batch > 1 and not options.size:
        raise InputError(f"--batch {options.batch} needs --size: a batch of any size cannot be written")
    if (options.compile and not options.device) or (options.device and options.batch > 1):
        raise InputError("--compile is for an NPU: name it by --device, such as ethos-u65-512, and leave --batch out")
    if options.device and options.format == "onnx":
        raise InputError("--format onnx is for runtimes on a CPU or GPU: leave --device out")
    path = measure.model_path(options.model)
    content = path.read_bytes()
    if options.device:
        device = npu.named(options.device)
        content = npu.graph_for(path, options.size or "640x360", whole=True)
        if options.compile:
            content = npu.compiled(content, device)
    elif options.io == "int8":
        content = graph.with_int8_interface(content)
    if options.size and not options.device:
        width, height = sides(options.size)
        content = graph.fix_size(content, height, width, batch=options.batch)
    operators = dict.fromkeys(graph.operator_names(content))
    if options.format == "onnx":
        content = onnx_export.to_onnx(content)
    write_atomically(options.output, content)
    print(f"{options.output}: {len(content)} bytes, {', '.join(operators)}")


def _add_train(commands: Any) -> None:
    add = _command(commands, "train", _train, "train a network in FP32, or go on with a run that was stopped",
                   "abpn train --recipe table2 --network abpn --out runs/abpn")
    add("--recipe", default="table2", help=f"one of {', '.join(recipe.names())}")
    for option, how in recipe.options().items():
        add(option, default=argparse.SUPPRESS, **how)
    add("--after", type=Path, default=None, metavar="RUN",
        help="start from the weights of this finished run (its dead channels revived, if the recipe does not say else)")
    add("--out", type=Path, required=True, help="the run's folder; a run found there goes on")
    add("--devices", type=_positive(64), default=None,
        help="GPUs that share each batch, or parts of the CPU where there is none (default: all GPUs)")
    _training_options(add)


def _train(options: argparse.Namespace) -> None:
    _prepare_tensorflow(options.threads)
    from abpn_lib.train import loop

    changes = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(recipe.Recipe)}
    made = recipe.recipe(options.recipe, **changes)
    how = {"after": options.after, "devices": options.devices, **_checkpoints(options)}
    print(loop.run(made, options.out, _context(options), **how))


def _add_quantize(commands: Any) -> None:
    add = _command(commands, "quantize", _quantize, "turn a training run into float32 and INT8 .tflite files",
                   "abpn quantize --run runs/abpn --out models")
    add("--run", dest="run_folder", type=Path, required=True, help="a folder that `abpn train` finished")
    add("--out", type=Path, required=True, help="the folder to write the models to")
    forms = ["fp32", "int8-ptq", "int8-ptq-tensor", "int8-ptq-folded", "int8-qat"]
    add("--form", action="append", choices=forms, default=None,
        help="a file to write; again for more (fp32 and int8-ptq, and int8-qat with --qat); int8-ptq-tensor has one "
             "scale for each kernel; int8-ptq-folded carries ABPN's image through the chain, which suits an NPU")
    add("--calibrate", default="train", help="the data set whose LR images give the activation ranges")
    add("--images", type=_positive(10_000), default=32, help="how many to calibrate on, evenly spaced")
    add("--name", default=None, help="what the files' names begin with (default: the network's name)")
    add("--network", default=None,
        help="a network that takes the run's weights: nearest those of abpn, as one function")
    qat = [name for name in recipe.names() if name.startswith("qat-")]
    add("--qat", metavar="RECIPE", default=None, help=f"train quantisation-aware, by a recipe: {', '.join(qat)}")
    add("--equalize", action="store_true", help="first apply cross-layer equalisation (plain conv-ReLU chains only)")
    add("--gptq", action="store_true",
        help="PTQ per channel: round by GPTQ, weight by weight, each making good for those before")
    for name, text in (("steps", "steps"), ("batch", "patches in a batch"), ("patch", "LR pixels a side of a patch")):
        add(f"--{name}", type=_positive(), default=None, help=f"QAT's {text} (default: the recipe's)")
    add("--data", default=None, help="QAT's data set (default: the recipe's)")
    _training_options(add)


def _quantize(options: argparse.Namespace) -> None:
    _prepare_tensorflow(options.threads)
    from abpn_lib.int8 import make

    paths = make.make_models(
        options.run_folder, options.out, _context(options), forms=options.form, name=options.name,
        network=options.network, calibrate=options.calibrate, images=options.images, equalize=options.equalize,
        gptq=options.gptq, qat_recipe=options.qat,
        qat_fields={key: getattr(options, key) for key in ("steps", "data", "batch", "patch")}, **_checkpoints(options),
    )
    print(*paths, sep="\n")


def _add_average(commands: Any) -> None:
    add = _command(commands, "average", _average, "average the weights of runs that went on from one run",
                   "abpn average runs/abpn-long-3-finetune-seed3 runs/abpn-long-3-finetune-seed4 --out runs/mean")
    add("runs", nargs="+", type=Path, metavar="RUN", help="folders that `abpn train --after` finished")
    add("--out", type=Path, required=True, help="folder of the new run")


def _average(options: argparse.Namespace) -> None:
    _prepare_tensorflow(1)
    from abpn_lib.train import runs

    runs.average(options.runs, options.out, _context(options))
    print(options.out / "weights.npz")


def _add_evaluate(commands: Any) -> None:
    add = _command(commands, "evaluate", _evaluate, "measure a model's PSNR and SSIM on a data set",
                   "abpn evaluate --model bicubic --model abpn-long-int8-ptq --data set5")
    _model_option(add, several=True)
    add("--data", default="embedded", help="a data set, such as embedded, set5 or urban100")
    add("--protocol", choices=["authors", "y"], default="authors", help="authors: RGB, border 1; y: Y, border 3")
    add("--raw", action="store_true", help="read integer output as pixels, without its scale")
    add("--workers", type=_threads, default=2, help="images scored at once")
    _record_options(add)
    add("--image", action="append", default=[], metavar="NAME",
        help="also one record for this image; again for more; all: for each")
    add("--no-ssim", action="store_true", help="PSNR alone, which is several times as fast")
    _runtime_options(add)


def _evaluate(options: argparse.Namespace) -> None:
    from abpn_lib import measure, metrics
    from abpn_lib.timing import latency

    names = latency.names(options.model)
    protocol = {"authors": metrics.AUTHORS, "y": metrics.Y_BORDER3}[options.protocol]
    scored = measure.score_models(
        names, options.data, protocol=protocol, with_ssim=not options.no_ssim, raw=options.raw,
        threads=options.threads, kernels=options.kernels, workers=options.workers,
    )
    here, records = _context(options), []
    lines: list[str] = []
    for subject, (scores, digest) in scored.items():
        context = replace(here, command=_command_for(names[subject], options.command_line))
        images = [score.name for score in scores] if options.image == ["all"] else options.image
        records += measure.records_of(scores, context, subject, options.data, protocol, digest, images)
        lines += measure.lines_of(subject, scores)
    if options.raw:
        records = [replace(record, columns={**record.columns, "reading": "raw"}) for record in records]
    write_and_print(records, options, *lines)


def _add_score(commands: Any) -> None:
    add = _command(commands, "score", _score, "score any x2, x3 or x4 .tflite, and time it beside ABPN's",
                   "abpn score mine.tflite --float mine-float.tflite --data set5 --markdown")
    add("file", type=Path, help="the .tflite: uint8, int8 or float32, RGB or Y, of any or one size")
    add("--float", type=Path, default=None, metavar="FILE", help="the same network in float32: what INT8 costs")
    add("--data", action="append", default=[], metavar="SET", help="a data set; again for more (those at hand)")
    add("--range", choices=["0..255", "0..1", "-1..1"], default=None, help="its black and white (found by trying)")
    add("--colour", choices=["rgb", "bgr", "y"], default=None, help="its channels (found by trying)")
    add("--rounds", type=_positive(100_000), default=15, help="interleaved rounds of timing")
    add("--threads", type=_threads, default=1, help="threads of the interpreter")
    add("--markdown", action="store_true", help="print the row for a README or an issue")
    _record_options(add)


def _score(options: argparse.Namespace) -> None:
    from abpn_lib import score

    records, found = score.isolated(
        options.file, _context(options), twin=options.float, sets=options.data, count=options.rounds,
        threads=options.threads, range=options.range, colour=options.colour,
    )
    row = score.summary(options.file.stem, records)
    lines = [score.markdown(row)] if options.markdown else [f"{key:48} {cell}" for key, cell in row.items()] + [found]
    write_and_print(records, options, *lines)


def _command_for(model: str, line: str) -> str:
    """The command that measures one of several models again: the line without the others."""
    words = shlex.split(line)
    others = {i for i, word in enumerate(words[:-1]) if word == "--model" and words[i + 1] != model}
    return shlex.join(word for i, word in enumerate(words) if not {i, i - 1} & others)


def _add_latency(commands: Any) -> None:
    add = _command(commands, "latency", _latency,
                   "time models, or Table 1's meta-nodes, on this machine or a phone, or estimate their time on an NPU",
                   "abpn latency abpn-long-int8-ptq abpn-long-fp32 --threads 2")
    add("models", nargs="*", metavar="NAME|PATH", help="models (default: all shipped ones; on a phone Table 3's)")
    add("--nodes", action="store_true", help="time Table 1's twelve meta-nodes instead")
    add("--pairs", type=int, choices=range(17), action="append", default=[], metavar="N",
        help="on an NPU: an INT8 ABPN with so many conv-ReLU pairs in place of 5; again for more")
    add("--size", default=None, help="LR width x height (640x360); with --nodes the HR one (1920x1080)")
    add("--channels", type=_positive(1024), default=3, help="of the meta-nodes' tensors")
    add("--rounds", type=_positive(100_000), default=None, help="interleaved rounds (15; on a phone 50 runs)")
    _record_options(add)
    add("--threads", type=_threads, default=None,
        help="threads of the interpreter (1; on a phone each of 1, 2, 4 and 8 that it has cores for)")
    add("--kernels", choices=["xnnpack", "builtin"], default="xnnpack", help="LiteRT's kernel path")
    add("--device", default=None, metavar="android[:SERIAL]|ethos-NAME[:KIB]",
        help="time on this phone instead, through adb: its CPU, its GPU and NNAPI; each result is written at once. Or "
             "have Arm's compiler estimate the time on an Ethos-U NPU, such as ethos-u65-512, with so much SRAM")
    add("--benchmark-model", type=Path, default=None, metavar="PATH",
        help="TensorFlow's benchmark_model for the phone's processor")


def _latency(options: argparse.Namespace) -> None:
    from abpn_lib.timing import latency

    size = options.size or ("1920x1080" if options.nodes else "640x360")
    latency.sides(size)
    if options.device is None and options.benchmark_model:
        raise InputError("--benchmark-model is for a phone: name it with --device android")
    on_npu = (options.device or "").startswith("ethos")
    if options.pairs and not on_npu:
        raise InputError("--pairs is for an NPU: name it with --device, such as ethos-u65-512")
    if options.nodes or options.pairs:
        _prepare_tensorflow(1)
    if options.device is not None:
        (_latency_npu if on_npu else _latency_android)(options, size)
        return
    context, threads, rounds = _context(options), options.threads or 1, options.rounds or 15
    common: dict[str, Any] = {"size": size, "threads": threads, "kernels": options.kernels, "rounds": rounds}
    if options.nodes:
        timed = latency.time_nodes(context, channels=options.channels, **common)
    else:
        timed = latency.time_models(_files(options.models or [m.name for m in models.catalogue()]), context, **common)
    head = f"{size}, {threads} thread(s), {options.kernels} kernels, {rounds} rounds"
    write_and_print(timed.records.values(), options, head, context.device, *timed.lines)


def _files(given: Sequence[str]) -> dict[str, Path]:
    from abpn_lib import measure
    from abpn_lib.timing import latency

    return {name: measure.model_path(model) for name, model in latency.names(given).items()}


def _latency_npu(options: argparse.Namespace, size: str) -> None:
    import tempfile

    from abpn_lib.timing import latency, npu

    if options.threads or options.rounds:
        raise InputError("--threads and --rounds are for what is measured: an NPU's time is estimated")
    device, context, (width, height) = npu.named(options.device), _context(options), latency.sides(size)
    if options.nodes:
        found = npu.estimate_nodes([device], context, size=size, channels=options.channels)
    else:
        usual = [] if options.pairs else [model.name for model in models.catalogue() if "int8" in model.kind]
        files = _files(options.models or usual)
        with tempfile.TemporaryDirectory() as scratch:
            if options.pairs:
                from abpn_lib.int8 import export_for_latency as export

                size_of: dict[str, Any] = {"height": height, "width": width, "dtype": "int8"}
                files |= {f"abpn-int8-pairs{pairs}": export(Path(scratch), "abpn", pairs=pairs, **size_of)
                          for pairs in options.pairs}
            found = npu.estimate_models(files, [device], context, size=size)
    about = ", ".join(f"{key} {value}" for key, value in device.columns.items())
    write_and_print(found, options, f"{size}, estimated and not measured: {about}", *npu.lines(found))


def _latency_android(options: argparse.Namespace, size: str) -> None:
    """Write and print each run as it ends; where the phone fails, say where the results so far are."""
    import tempfile

    from abpn_lib.timing import android, latency, nodes

    kind, _, serial = options.device.partition(":")
    if kind != "android":
        raise InputError(f"--device {options.device}: only android, or android:SERIAL, is known")
    phone = android.find(serial or None)
    tool = android.benchmark_model(options.benchmark_model)
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as scratch:
        if options.nodes:
            width, height = latency.sides(size)
            built = nodes.build(Path(scratch), height=height, width=width, channels=options.channels)
            files = {f"node-{node}": path for node, path in built.items()}
        else:
            files = _files(options.models or android.MODELS)
        if not options.json:
            print(f"{size}\n{phone.name}", flush=True)
        runs = android.follow(
            phone, tool, files, android.settings(phone, options.threads, options.kernels), _context(options), size=size,
            rounds=options.rounds or 50, channels=options.channels if options.nodes else None,
        )
        try:
            with contextlib.closing(runs):
                for run in runs:
                    if run.record is None:
                        print(f"abpn: {run.line}", file=sys.stderr)
                        continue
                    records.append(run.record)
                    if options.out:
                        results.save(options.out, records)
                    if not options.json:
                        print(run.line, flush=True)
        except DeviceError as error:
            kept = options.out or ("standard output" if options.json else "the lines above")
            results_so_far = f"; the {len(records)} results so far are in {kept}" if records else ""
            raise DeviceError(f"{error}{results_so_far}") from error
        finally:
            if options.json and records:
                print(json.dumps([record.row for record in records], indent=1))


def _add_claims(commands: Any) -> None:
    add = _command(commands, "claims", _claims,
                   "print the ledger: what the paper claims, what was measured, the verdict", "abpn claims --json")
    add("--json", action="store_true", help="print JSON")
    add("--add", "--records", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="further records: yours, or another device's, such as those that the book's page in the browser saves")


def _claims(options: argparse.Namespace) -> None:
    from abpn_lib import claims
    from abpn_lib.timing.android import not_a_phone

    added: list[Record] = []
    for path in options.add:
        rows = results.load(path, "measured")
        if any(map(not_a_phone, rows)):
            raise InputError(f"{path} comes from an emulator or a stand-in, not from a phone: leave it out")
        added += rows
    ledger = claims.ledger([*added, *results.recorded()])
    if options.json:
        print(claims.to_json(ledger))
        return
    for claim, judgement in ledger:
        print(f"{claim.id:14} {judgement.verdict:18} {claim.statement}")


def _add_data(commands: Any) -> None:
    add = _command(commands, "data", _data, "fetch data sets, or verify them", "abpn data fetch set5 urban100")
    add("action", choices=["fetch", "verify"],
        help="fetch what is missing, each file checked against its hash; or verify the hash of every file")
    add("names", nargs="+", metavar="NAME", help="set5, set14, bsd100, urban100, train, ...")
    add("--quiet", action="store_true", help="show no progress bar")


def _data(options: argparse.Namespace) -> None:
    from abpn_lib import datasets

    for name in options.names:
        datasets.dataset(name)
    for name in options.names:
        if options.action == "fetch":
            datasets.fetch(name, progress=not options.quiet)
            print(f"{name}: complete in {datasets.data_root()}")
        else:
            print(f"{name}: {datasets.verify(name)} files as they should be")


if __name__ == "__main__":
    sys.exit(main())
