"""LiteRT's interpreter: one way to make it, with one of two sets of kernels, and without its notices."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Literal

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from abpn_lib.files import InputError, ModelError

Kernels = Literal["xnnpack", "builtin"]
"""LiteRT's default (XNNPACK where it can), or its built-in kernels alone."""

_RESOLVERS = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
_ANNOUNCED = threading.Lock()  # taken for good by the first to come


def interpreter(
    model: Path | bytes, threads: int = 1, kernels: Kernels = "xnnpack", *, keep_all: bool = False
) -> Interpreter:
    """An interpreter of a .tflite, given as its path or its content; tensors are not allocated yet.

    With `keep_all` every tensor can be read after a run, not the network's outputs alone.

    Raises `InputError` if the kernels or the number of threads are not possible, and `ModelError` if LiteRT does not
    take the file.
    """
    if kernels not in _RESOLVERS or threads < 1:
        raise InputError(f"threads {threads}, kernels {kernels!r}: at least 1, and one of {', '.join(_RESOLVERS)}")
    content = model if isinstance(model, bytes) else read_model(model)
    try:
        if kernels == "xnnpack":
            _announce(content)
        return Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=_RESOLVERS[kernels],
            experimental_preserve_all_tensors=keep_all,
        )
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"LiteRT cannot read this model ({first_line(error)})") from error


def read_model(path: Path) -> bytes:
    """The content of a model's file; ModelError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _announce(content: bytes) -> None:
    """Let LiteRT name its delegate where nobody hears it: it does so once a process, at the first allocation.

    The line goes to the file descriptor of standard error, past Python, and no option of LiteRT's Python package
    and no environment variable keeps it back.
    """
    if not _ANNOUNCED.acquire(blocking=False):
        return
    # An OSError means that standard error is closed.
    with contextlib.suppress(OSError, ValueError, RuntimeError), contextlib.ExitStack() as after:
        kept, nowhere = os.dup(2), after.enter_context(Path(os.devnull).open("wb"))
        after.callback(os.close, kept)
        after.callback(os.dup2, kept, 2)
        os.dup2(nowhere.fileno(), 2)
        Interpreter(model_content=content).allocate_tensors()
