"""Compare bits and count instructions on an emulated ARM64 core: the command line of `tools.arm64.arm64`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abpn_lib import cli, measure
from abpn_lib.files import InputError
from abpn_lib.results import Context
from abpn_lib.timing.latency import sides
from tools.arm64 import arm64

_PROGRAM = "python -m tools.arm64"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=(
        "Compare bits and count instructions on an emulated ARM64 core (qemu-user): first with --prepare, then without."
    ))
    parser.add_argument("--prefix", type=Path, required=True, help="the folder of LiteRT for aarch64")
    parser.add_argument("--prepare", action="store_true", help="fill that folder (downloads 14 MB), and no more")
    parser.add_argument(
        "--cpu", action="append", metavar="NAME", help="as qemu names it; again for more (cortex-a57, cortex-a76)"
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME|PATH",
        help=f"an INT8 model; again for more ({', '.join(arm64.MODELS)})",
    )
    parser.add_argument(
        "--size", action="append", metavar="WxH",
        help="LR width x height to count at, the first also to compare at; again for more (64x64, 96x96, 128x96)",
    )
    parser.add_argument(
        "--kernels", action="append", choices=["xnnpack", "builtin"], help="LiteRT's kernel path; again for both (both)"
    )
    parser.add_argument("--json", action="store_true", help="print records as JSON")
    parser.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.prepare:
        prefix = arm64.prepare(options.prefix)
        print(f"{options.prefix}: LiteRT {prefix.litert} for aarch64 is ready")
        return
    sizes = [sides(text)[::-1] for text in options.size] if options.size else list(arm64.SIZES)
    if options.out and not options.out.parent.is_dir():
        raise InputError(f"{options.out}: its folder does not exist")
    emulator = arm64.find_emulator()
    prefix = arm64.open_prefix(options.prefix)
    machines = [arm64.start(prefix, emulator, cpu) for cpu in _once(options.cpu or arm64.CPUS)]
    paths = [measure.model_path(name) for name in _once(options.model or arm64.MODELS)]
    kernels = _once(options.kernels or ["xnnpack", "builtin"])
    findings = arm64.measure(machines, paths, kernels, _once(sizes), progress=not options.quiet)
    cli.write_and_print(findings.records(Context.here(options.command_line)), options, *findings.lines())
    if findings.not_counted:
        raise findings.not_counted


def _once(items: Sequence[Any]) -> list[Any]:
    """The items in their order, each one once."""
    return list(dict.fromkeys(items))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
