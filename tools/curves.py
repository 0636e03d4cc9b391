"""What the logs of finished training runs say, as records, and how many channels of their networks are dead.

``python -m tools.curves runs/abpn runs/fsrl --out curves.json`` makes the curves of the pages on training.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abpn_lib import cli, datasets
from abpn_lib.files import ModelError
from abpn_lib.results import Context, Record

__all__ = ["dead_channels", "main", "records_of_run"]

_PROGRAM = "python -m tools.curves"


def records_of_run(folder: Path) -> list[Record]:
    """A finished run's validation curve: one "validation-psnr" in dB for each row of its log, by its folder's name.

    Beside its `step` a row has the whole `seconds` that the run had taken by then, whatever else its machine did, and,
    where the log has them, the `cpu_seconds` of all its cores.
    """
    from abpn_lib.train import runs

    provenance = runs.read_run(folder).provenance
    made, context = provenance["recipe"], _context(provenance)
    recipe: dict[str, Any] = {key: str(made[key]) for key in ("optimizer", "init", "lr")}
    recipe |= {"architecture": made["network"], "recipe_seed": provenance["seed"]}
    return [
        context.record("validation-psnr", folder.name, row["val_psnr"], "dB", recipe, step=int(row["step"]),
                       **{clock: round(row[clock]) for clock in ("seconds", "cpu_seconds") if clock in row})
        for row in provenance["log"] if "val_psnr" in row
    ]


def dead_channels(folder: Path, lr_images: Iterable[NDArray[np.uint8]]) -> list[Record]:
    """How many hidden channels of a finished run's network are silent on all LR (H, W, 3) uint8 images: one record.

    None for networks where a channel's silence cannot be told from its convolution's output, and for QAT.
    """
    from abpn_lib import networks
    from abpn_lib.train import runs

    run, weights = runs.read_run(folder), folder / "weights.npz"
    model = networks.build(run.recipe.network, run.recipe.scale, pairs=run.recipe.pairs)
    with runs.reading(f"{weights} does not hold weights"):
        quantised = any("quant" in name for name in runs.load_npz(weights))
    if quantised:
        return []
    try:
        networks.chain(model)
    except ModelError:
        return []
    runs.load_weights(model, weights)
    silent = [int((values <= 0).sum()) for values in networks.channel_maxima(model, lr_images)]
    by_layer: dict[str, Any] = {"layers": " ".join(map(str, silent)), "step": run.recipe.steps}
    return [_context(run.provenance).record("dead-channels", folder.name, sum(silent), "", by_layer)]


def _context(provenance: dict[str, Any]) -> Context:
    """Where and by which command it was trained."""
    return Context(**{field.name: provenance[field.name] for field in fields(Context)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Turn the logs of finished training runs into records.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that `abpn train` finished")
    parser.add_argument("--json", action="store_true", help="print records as JSON")
    parser.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    images = datasets.spaced_lr_images("embedded", 8, 3)
    records = [record for folder in options.runs for record in records_of_run(folder)]
    records += [record for folder in options.runs for record in dead_channels(folder, images)]
    cli.write_and_print(records, options, *(
        f"{record.subject:32} step {record.columns['step']:>7} {record.value:8.3f} {record.unit or 'dead channels'}"
        for record in records
    ))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
