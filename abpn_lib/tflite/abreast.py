"""Several things done side by side, in order and in bounded memory: what is read, worked on and written."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R, None, None]:
    """``work(item)`` of every item, in the items' order: on `threads` threads, while one more reads ahead.

    At most ``3 * threads + 4`` items or results are held. What the items or the work raise comes where its result
    would have come. Closing the iterator stops all threads.
    """
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[R]]()
    ahead = _ahead(items, threads + 2)
    try:
        for item in ahead:
            waiting.append(pool.submit(item if isinstance(item, _Raised) else work, item))  # type: ignore[arg-type]
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        ahead.close()
        pool.shutdown(cancel_futures=True)


class Budget:
    """So many bytes, of which each of several threads takes its part; one that wants more than all goes alone."""

    def __init__(self, total: int) -> None:
        self._free, self._total, self._changed = total, total, threading.Condition()

    @contextmanager
    def take(self, wanted: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them for the block."""
        part = min(wanted, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= part)
            self._free -= part
        try:
            yield
        finally:
            with self._changed:
                self._free += part
                self._changed.notify_all()


class _Raised:
    """An error that takes an item's place in the queue, and is raised where that one's result would be asked for."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, _: Any) -> Any:
        raise self._error


def _ahead(items: Iterable[T], count: int) -> Any:
    """The items, of which a thread of its own reads `count` ahead; an error of theirs as `_Raised`, at the end."""
    read: queue.Queue[Any] = queue.Queue(count)
    end, stopped = object(), threading.Event()

    def fill() -> None:
        try:
            for item in items:
                read.put(item)
                if stopped.is_set():
                    return
            read.put(end)
        except BaseException as error:
            read.put(_Raised(error))
            read.put(end)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while (item := read.get()) is not end:
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room
            with suppress(queue.Empty):
                read.get(timeout=0.01)
        thread.join()
