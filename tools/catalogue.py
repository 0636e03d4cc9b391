"""What the shipped models' files say of themselves, as records.

``python -m tools.catalogue --out abpn_lib/records/models.json`` makes those that are shipped, after models changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from abpn_lib import cli, models
from abpn_lib.results import Context, Record

_PROGRAM = "python -m tools.catalogue"

# A record's own network and seed are those of the model's name.
_OWN = {"network": "architecture", "seed": "recipe_seed"}
_NO_COLUMNS = ("steps", "halve_at")


def records(catalogue: Iterable[models.Model], context: Context) -> list[Record]:
    """A model file's "size" in bytes, and the "training-steps" behind it.

    The columns of the latter are the fields of its recipe, as text.
    """
    found = []
    for model in catalogue:
        fields = {key: str(value) for key, value in model.provenance["recipe"].items()}
        recipe: dict[str, Any] = {_OWN.get(key, key): text for key, text in fields.items() if key not in _NO_COLUMNS}
        size = model.path.stat().st_size
        found.append(context.record("size", model.name, size, "bytes", model_sha256=model.sha256))
        found.append(context.record(
            "training-steps", model.name, model.provenance["steps"], "", recipe, model_sha256=model.sha256,
        ))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Turn the shipped models' files into records.")
    parser.add_argument("--json", action="store_true", help="print records as JSON")
    parser.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    found = records(models.catalogue(), Context.here(options.command_line))
    cli.write_and_print(found, options, *(f"{one.subject:32} {one.value:9,.0f} {one.unit or 'steps'}" for one in found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
