"""Records the board: every x3 model one can get, scored and timed under one protocol, in ``abpn_lib/records``.

The models are ours, the authors' and those that the registry lists under ``peers/``. What another record file says of
the same file is not measured again, nor is what the board itself says already; a model that has changed is. The time of
all of them is taken in the same rounds, and so anew wherever one has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from abpn_lib import cli, datasets, measure, metrics, models, results, score
from abpn_lib.degradation import bicubic_down
from abpn_lib.files import InputError, ModelError, sha256
from abpn_lib.results import Context, Record
from abpn_lib.tflite import graph
from abpn_lib.timing import latency, npu

SIZE = "640x360"
BASE = "authors-int8-ptq-time"
"""What every time is put beside: the authors' own graph, as they published it for timing."""

PARTS = (*score.SETS, "cost", "npu")
"""What is recorded, each in a file of its own: a data set's scores, sizes and times, or estimates for `NPUS`."""

NPUS = ("ethos-u65-512", "ethos-u85-2048")

OURS = ("abpn", "abpn-long", "abpn32", "fsrcnn")
"""Of the shipped networks those that stand on the board; Table 2's other rows are compared on its page."""

_AT_ONCE = 8  # that bounds the memory


def files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Every model by its name: the file that runs, and the published file it comes from; some are made in `folder`."""
    from tools import peers

    pairs: dict[str, tuple[Path, Path]] = {}
    for peer, source in datasets.peer_models().items():
        forms = {".tflite": [""], ".pb": ["-fp32"]}.get(source.suffix, ["-fp32", "-int8-ptq"])
        pairs |= {f"{peer}{form}": (peers.tflite(source, f"{peer}{form}", folder), source) for form in forms}
    found = {name: datasets.official_model(name) for name in datasets.OFFICIAL}
    for network, form in itertools.product(OURS, ("fp32", "int8-ptq", "int8-ptq-folded", "int8-qat")):
        with contextlib.suppress(ModelError):  # not every network has every form
            found[f"{network}-{form}"] = models.find(f"{network}-{form}")
    return pairs | {name: (path, path) for name, path in found.items()}


def scores(
    pairs: Mapping[str, tuple[Path, Path]], dataset: str, context: Context, known: Sequence[Record], *, with_ssim: bool,
) -> list[Record]:
    """The PSNR in RGB and on Y, and the SSIM on Y, that nothing known says of these files and bicubic."""
    hashes = {name: sha256(source) for name, (_, source) in pairs.items()} | {"bicubic": ""}
    said = {_what(record) for record in known if not {"image", "reading"} & set(record.columns)}
    wanted = [("psnr", metrics.AUTHORS), ("psnr", metrics.Y_BORDER3), *([("ssim", metrics.Y_BORDER3)] * with_ssim)]
    missing = {name: [(quantity, protocol) for quantity, protocol in wanted
                      if (quantity, name, digest, dataset, protocol.name) not in said]
               for name, digest in hashes.items()}
    names, made = [name for name, parts in missing.items() if parts], []
    for some in (names[start : start + 2 * _AT_ONCE] for start in range(0, len(names), 2 * _AT_ONCE)):
        upscalers = {name: score.Stranger(pairs[name][0]).upscale if name in pairs else measure.bicubic_upscaler()
                     for name in some}
        values: dict[tuple[str, str, metrics.Protocol], list[float]] = {}
        for _, hr in datasets.images(dataset):
            lr = bicubic_down(hr, 3)
            for name, upscale in upscalers.items():
                sr = upscale(lr)
                for quantity, protocol in missing[name]:
                    value = getattr(metrics, quantity)(hr, sr, protocol)
                    values.setdefault((name, quantity, protocol), []).append(value)
        for (name, quantity, protocol), each in values.items():
            made.append(context.record(
                quantity, name, float(np.mean(each)), "dB" if quantity == "psnr" else "", model_sha256=hashes[name],
                dataset=dataset, protocol=protocol.name, count=len(each), spread=(min(each), max(each)),
                spread_is="least and greatest image",
            ))
    return made


def costs(pairs: Mapping[str, tuple[Path, Path]], context: Context, rounds: int) -> list[Record]:
    """Parameters and multiply-accumulates of every file, and its CPU time, some in the same rounds as `BASE`."""
    others, made = [name for name in pairs if name != BASE], []
    for start in range(0, len(others), _AT_ONCE):
        names = [BASE, *others[start : start + _AT_ONCE]]
        timed = score.times({name: (pairs[name][0], SIZE) for name in names}, BASE, context, count=rounds)
        made += timed if start == 0 else [record for record in timed if _subject(record) != BASE]
    for name, (path, _) in pairs.items():
        made += counts(latency.fixed_copy(path, SIZE), name, context)
    return [replace(record, model_sha256=sha256(pairs[_subject(record)][1])) for record in made]


def estimates(pairs: Mapping[str, tuple[Path, Path]], context: Context) -> list[Record]:
    """What the compiler of `NPUS` says of every INT8 file that it can compile."""
    made, on = [], [npu.NPUS[name] for name in NPUS]
    for name, (path, source) in pairs.items():
        if "fp32" not in name:
            with contextlib.suppress(ModelError):
                found = npu.estimate_models({name: path}, on, context, size=SIZE)
                made += [replace(record, model_sha256=sha256(source)) for record in found]
    return made


# Where the learnt numbers of an operator stand among its inputs, and how they are stored.
_LEARNT = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "TRANSPOSE_CONV": (1, 3), "ADD": (1,), "MUL": (0, 1),
           "PRELU": (1,)}
_STORED = {0: "<f4", 2: "<i4", 3: "u1", 9: "i1"}


@graph.parsing()
def counts(content: bytes, subject: str, context: Context) -> list[Record]:
    """The "weights" and the multiply-accumulates ("macs", in 1e9) of a .tflite of one size.

    Weights are the constants of convolutions, sums and slopes. A kernel of zeros and one other value (ABPN's anchor, a
    clip) was not learnt: it and its bias are left out.
    """
    model = graph.read(content)
    net, sizes = model.subgraphs[0], {}
    for operator in net.operators:
        places = _LEARNT.get(graph.name_of(model, operator), ())
        tensors = {int(operator.inputs[at]): net.tensors[operator.inputs[at]] for at in places
                   if at < len(operator.inputs) and operator.inputs[at] >= 0}
        stored = {key: (bytes(data), _STORED[tensor.type]) for key, tensor in tensors.items()
                  if (data := model.buffers[tensor.buffer].data) is not None and len(data)}
        values = {key: np.frombuffer(*parts) for key, parts in stored.items()}
        if values and len(np.unique(next(iter(values.values())))) > 2:
            sizes.update({key: array.size for key, array in values.items()})
    macs = sum(products for products, _ in graph.costs(content)) / 1e9
    return [context.record("weights", subject, sum(sizes.values()), ""),
            context.record("macs", subject, macs, "G")]


def _subject(record: Record) -> str:
    return record.subject.partition("/")[0]


def _what(record: Record) -> tuple[object, ...]:
    return (record.quantity, _subject(record), record.model_sha256, record.get("dataset"), record.get("protocol"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the board; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description="Score and time every x3 model one can get; what is recorded is not measured again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, each a file (default: all)")
    parser.add_argument("--no-ssim", action="store_true", help="PSNR alone, which is several times as fast")
    parser.add_argument("--made", type=Path, help="a folder that keeps the files made of others' weights")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds of timing")
    parser.add_argument("--out", type=Path, default=Path("abpn_lib/records"), help="the folder of board-PART.json")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"no part is called {unknown.pop()!r}: name some of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        pairs = files(options.made or Path(scratch))
        hashes = {name: sha256(source) for name, (_, source) in pairs.items()}
        context = Context.here(options.command_line)
        for part in parts:
            out = options.out / f"board-{part}.json"
            before = results.load(out) if out.is_file() else []
            # Of a file that has changed, or is gone, nothing is kept.
            kept = [record for record in before if hashes.get(_subject(record), "") == record.model_sha256]
            if part == "npu":
                kept = estimates(pairs, context)
            elif part != "cost":
                kept += scores(pairs, part, context, [*results.recorded(), *kept], with_ssim=not options.no_ssim)
            elif {_subject(record) for record in kept} != set(pairs):
                kept = costs(pairs, context, options.rounds)
            results.save(out, kept)
            print(f"{out}: {len(kept)} records", flush=True)


_PROGRAM = "python -m tools.board"

if __name__ == "__main__":
    sys.exit(main())
