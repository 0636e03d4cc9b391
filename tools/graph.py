"""Snakemake in this folder: one at a time, and again after one that was killed.

A killed Snakemake leaves its lock behind, and the next one refuses to start. Here the lock goes if nobody holds it.
``python -m tools.graph --cores 2 book`` takes what `snakemake` takes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_NAMES = {"snakemake", "tools.graph"}


def others() -> list[int]:
    """The numbers of the further processes of this user that run Snakemake in the current folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            program, *words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            # `timeout`, `nice` or a shell before it have the same words.
            runs_it = "python" in Path(program).name and _NAMES & {Path(word).name for word in words[:2]}
            if runs_it and int(process.name) != os.getpid() and (process / "cwd").resolve() == Path.cwd():
                found.append(int(process.name))
    return sorted(found)


def main(words: Sequence[str]) -> int:
    """Become Snakemake; one line on standard error and status 2 if another one runs here."""
    if running := others():
        print(f"graph: process {running[0]} builds in this folder already: wait for its end", file=sys.stderr)
        return 2
    snakemake = [sys.executable, "-m", "snakemake"]
    locks = Path(".snakemake/locks")
    if locks.is_dir() and any(locks.iterdir()):
        print("graph: the build before was killed: this one goes on from there", file=sys.stderr)
        subprocess.run([*snakemake, "--unlock", *words], check=False, capture_output=True)
    os.execv(sys.executable, [*snakemake, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
