"""Writing files whole or not at all, and hashing them."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

__all__ = ["sha256", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also when the process is killed in between.

    Raises
    ------
    OSError
        If the folder cannot be written to; nothing is left behind then.
    """
    if not path.parent.is_dir():
        # Said of the file that was asked for, not of the scratch file beside it.
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
