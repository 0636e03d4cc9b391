"""Records the board: every x3 model one can get, scored and timed under one protocol (``abpn_lib/records/board.json``).

The models are ours, the authors' and those that the registry lists under ``peers/``. What another record file says of
the same file is not measured again, nor is what the board itself says already; a model that has changed is. The time of
all of them is taken in the same rounds, and so anew wherever one has changed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from abpn_lib import cli, datasets, measure, metrics, models, results, score
from abpn_lib.files import sha256
from abpn_lib.results import Context, Record
from abpn_lib.tflite import graph
from abpn_lib.timing import latency

__all__ = ["board", "costs", "counts", "files", "main"]

SIZE = "640x360"
BASE = "authors-int8-ptq-time"
"""What every time is put beside: the authors' own graph, as they published it for timing."""

_AT_ONCE = 8  # that bounds the memory


def files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Every model by its name: the file that runs, and the published file it comes from; some are made in `folder`."""
    from tools import peers

    pairs: dict[str, tuple[Path, Path]] = {}
    for peer, source in datasets.peer_models().items():
        forms = {".tflite": [""], ".pb": ["-fp32"]}.get(source.suffix, ["-fp32", "-int8-ptq"])
        pairs |= {f"{peer}{form}": (peers.tflite(source, f"{peer}{form}", folder), source) for form in forms}
    found = {name: datasets.official_model(name) for name in datasets.OFFICIAL}
    found |= {model.name: model.path for model in models.catalogue() if not model.name.endswith("-tensor")}
    return pairs | {name: (path, path) for name, path in found.items()}


def board(
    pairs: Mapping[str, tuple[Path, Path]], context: Context, known: Sequence[Record], sets: Sequence[str],
) -> Iterator[list[Record]]:
    """The scores that nothing known says of these files, bit by bit: PSNR by both protocols, and SSIM on Y."""
    hashes = {name: sha256(source) for name, (_, source) in pairs.items()} | {"bicubic": ""}
    said = {_what(record) for record in known if not {"image", "reading"} & set(record.columns)}
    for protocol, dataset in itertools.product((metrics.AUTHORS, metrics.Y_BORDER3), sets):
        quantities = ("psnr",) if protocol == metrics.AUTHORS else ("psnr", "ssim")
        missing = [name for name, digest in hashes.items()
                   if not {(quantity, name, digest, dataset, protocol.name) for quantity in quantities} <= said]
        for start in range(0, len(missing), _AT_ONCE):
            names = missing[start : start + _AT_ONCE]
            upscalers = {name: score.Stranger(pairs[name][0]).upscale if name in pairs else measure.bicubic_upscaler()
                         for name in names}
            images = datasets.images(dataset)
            scored = measure.evaluate_all(upscalers, images, protocol=protocol, with_ssim="ssim" in quantities)
            made = [record for name, scores in scored.items()
                    for record in measure.records_of(scores, context, name, dataset, protocol, hashes[name])]
            yield [record for record in made if _what(record) not in said]


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
        values = [np.frombuffer(bytes(model.buffers[tensor.buffer].data), _STORED[tensor.type])
                  for tensor in tensors.values() if graph.is_constant(model, tensor)]
        if values and len(np.unique(values[0])) > 2:
            sizes.update({key: array.size for key, array in zip(tensors, values, strict=False)})
    macs = sum(graph.multiplications(content)) / 1e9
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
    parser.add_argument("--data", action="append", choices=score.SETS, help="a data set; again for more (all)")
    parser.add_argument("--made", type=Path, help="a folder that keeps the files made of others' weights")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds of timing")
    parser.add_argument("--out", type=Path, default=Path("abpn_lib/records/board.json"), help="the record file")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pairs = files(options.made or Path(scratch))
        hashes = {name: sha256(source) for name, (_, source) in pairs.items()}
        before = results.load(options.out) if options.out.is_file() else []
        # Of a file that has changed, or is gone, nothing is kept.
        kept = [record for record in before if hashes.get(_subject(record), "") == record.model_sha256]
        context = Context.here(options.command_line)
        if {_subject(record) for record in kept if record.quantity == "cpu-time"} != set(pairs):
            kept = [record for record in kept if record.quantity in ("psnr", "ssim")]
            kept += costs(pairs, context, options.rounds)
            results.save(options.out, kept)
        for made in board(pairs, context, [*results.recorded(), *kept], options.data or score.SETS):
            kept += made
            results.save(options.out, kept)
            print(f"{options.out}: {len(kept)} records", flush=True)


_PROGRAM = "python -m tools.board"

if __name__ == "__main__":
    sys.exit(main())
