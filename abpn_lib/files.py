"""Writing files whole or not at all, hashing them, and the errors that a caller can act on."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from pathlib import Path


class AbpnError(Exception):
    """Something that the user can mend; the message is one line and names the remedy."""


class InputError(AbpnError):
    """An option, a name, an image or a recipe that cannot be taken."""


class DataError(AbpnError):
    """A file, data set, record or run that is missing, wrong, or cannot be fetched."""


class ModelError(AbpnError):
    """A model that is not there, cannot be read, or cannot be made."""


class DeviceError(AbpnError):
    """A device that is not there, or something that cannot be timed on it."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also when the process is killed in between.

    Raises `OSError` if the folder cannot be written to, or is full: it names `path`, and nothing is left behind.
    """
    if not path.parent.is_dir():
        # Said of the file that was asked for, not of the scratch file beside it.
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    # Not made of the file's own name: that may be as long as a name can be.
    scratch = path.with_name(f".abpn-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        # "No space left" names no file, and a failed move names the scratch file first.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
