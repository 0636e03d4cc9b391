"""How many training steps a second this machine does: the library's loop beside the plain way.

The plain way is what a first script does: a Python generator over decoded images feeds ``model.fit``. It
cuts a random HR patch, shrinks it bicubically, and yields float32; it neither flips nor turns, which is
work that the library's pipeline does besides. Network, batch, patch, loss, optimizer and shrinking are the
same on both sides. "files" is the same generator over a folder: it opens an image's PNG for each patch, as a
script does whose images do not fit into memory (DIV2K's take 7 GB).

Each way runs in a process of its own, because op determinism, which the library's training asks for, also
forbids ``model.fit`` to make batches ahead. Only one of them works at a time, in turn, A B C A B C: a machine
that slows down slows all of them, and each pair is compared within its rounds.

Source: the generator under ``model.fit`` has the form of the authors' published training code,
``data/dataset.py`` in NJU-Jet/SR_Mobile_Quantization (a keras Sequence that loads the image for each patch).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray
from PIL import Image

from abpn_lib import cli, datasets
from abpn_lib.degradation import bicubic_down
from abpn_lib.results import Context, Record
from abpn_lib.timing.rounds import median_interval
from abpn_lib.train import batches, loop
from abpn_lib.train.recipe import Recipe, recipe
from tools import BuildError

__all__ = ["WAYS", "Rate", "Setting",  "measure", "paired_ratio", "plain_batches", "records"]

# Steps before the clock starts in each round: batches made while the others had their turn are used up by then.
_LEAD = 10

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
Tick = Callable[[Any], None]



@dataclass(frozen=True)
class Setting:
    """What is trained, and how long: `steps` are timed in each of `rounds`, after one round that does not count."""

    network: str = "abpn"
    batch: int = 16
    patch: int = 64
    threads: int = 1
    rounds: int = 7
    steps: int = 10

    @property
    def recipe(self) -> Recipe:
        """The paper's recipe with this network, batch and patch."""
        return recipe("paper", network=self.network, batch=self.batch, patch=self.patch)


@dataclass(frozen=True)
class Rate:
    """Steps per second of one way: the median over rounds, an interval that covers it with 95 %, each round's."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]


def measure(
    images: Sequence[NDArray[np.uint8]], setting: Setting, ways: Sequence[str] | None = None
) -> dict[str, Rate]:
    """Measure each of `ways` (default: all of `WAYS`) on HR images, interleaved.

    Raises
    ------
    BuildError
        If there is no such way, a number is out of range, or a way fails in its process.
    BuildError
        If no image is as large as a patch.
    """
    names = tuple(WAYS) if ways is None else tuple(ways)
    unknown = [name for name in names if name not in WAYS]
    if unknown or not names:
        raise BuildError(f"no way is called {', '.join(unknown) or repr('')}; there are {', '.join(WAYS)}")
    if min(setting.threads, setting.rounds, setting.steps) < 1:
        raise BuildError(f"{setting}: threads, rounds and steps must be at least 1")
    side = setting.patch * setting.recipe.scale
    large = [image for image in images if min(image.shape[:2]) >= side]
    if not large:
        raise BuildError(f"no image is as large as an HR patch of {side} pixels a side")
    # TensorFlow's threads do not survive a fork.
    spawning = multiprocessing.get_context("spawn")
    pipes = {name: spawning.Pipe() for name in names}
    workers = [
        spawning.Process(target=_work, args=(far, name, large, setting), daemon=True)
        for name, (_, far) in pipes.items()
    ]
    try:
        for worker, (_, far) in zip(workers, pipes.values(), strict=True):
            worker.start()
            # The worker's own copy is then the last one: when it dies, the reading end sees it.
            far.close()
        rounds = [{name: _ask(name, near) for name, (near, _) in pipes.items()} for _ in range(setting.rounds + 1)]
    finally:
        # A worker whose pipe is closed ends by itself, in good order.
        for worker, (near, _) in zip(workers, pipes.values(), strict=True):
            near.close()
            if worker.pid:
                worker.join(10)
                worker.terminate()
    return {name: _rate([setting.steps / seconds[name] for seconds in rounds[1:]]) for name in names}


def paired_ratio(a: Rate, b: Rate) -> tuple[float, float, float]:
    """How many times as fast `a` was as `b`: the median over rounds of a/b, and its 95 % interval (low, high).

    Raises
    ------
    BuildError
        If the numbers of rounds differ.
    """
    if len(a.samples) != len(b.samples):
        raise BuildError(f"{len(a.samples)} and {len(b.samples)} rounds do not pair: use one call of measure")
    return median_interval(np.divide(a.samples, b.samples).tolist())


def records(rates: Mapping[str, Rate], context: Context, setting: Setting, dataset: str) -> list[Record]:
    """Each way's "throughput" in 1/s, and as "throughput-ratio" how the library's loop compares with the others."""
    conditions: dict[str, str | int] = {
        "batch": setting.batch, "patch": setting.patch, "threads": setting.threads,
        "architecture": setting.network, "dataset": dataset,
    }

    def record(quantity: str, subject: str, value: tuple[float, float, float], unit: str) -> Record:
        return context.record(
            quantity, subject, value[0], unit, conditions, count=setting.rounds,
            spread=(value[1], value[2]), spread_is="95 % interval of the median over rounds",
        )

    made = [record("throughput", name, (rate.median, rate.low, rate.high), "1/s") for name, rate in rates.items()]
    for over, under in _RATIOS:
        if over in rates and under in rates:
            made.append(record("throughput-ratio", f"{over}/{under}", paired_ratio(rates[over], rates[under]), "1"))
    return made


def plain_batches(
    images: Sequence[NDArray[np.uint8] | Path], batch: int, patch: int, scale: int, seed: int = 0
) -> Iterator[Batch]:
    """The plain way's endless generator of (LR, HR) float32 batches in [0, 1], from decoded images or from files."""
    rng = np.random.default_rng(seed)
    side = patch * scale
    while True:
        lr_patches, hr_patches = [], []
        for _ in range(batch):
            image = images[rng.integers(len(images))]
            hr = np.asarray(Image.open(image)) if isinstance(image, Path) else image
            y, x = (rng.integers(n - side + 1) for n in hr.shape[:2])
            hr_patches.append(hr[y : y + side, x : x + side])
            lr_patches.append(bicubic_down(hr_patches[-1], scale))
        yield np.stack(lr_patches).astype(np.float32) / 255, np.stack(hr_patches).astype(np.float32) / 255


def _ours(images: Sequence[NDArray[np.uint8]], recipe: Recipe, tick: Tick) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loop.train(recipe, images, Path(folder), save_every=recipe.steps, progress=False, each_step=tick,
                   strategy=loop.shared(None))


def _ours_alone(images: Sequence[NDArray[np.uint8]], recipe: Recipe, tick: Tick) -> None:
    tf.config.experimental.enable_op_determinism()
    for lr, _ in batches.batches(batches.Patches(images, recipe), recipe, 0):
        tick(lr)


def _plain(images: Sequence[NDArray[np.uint8] | Path], recipe: Recipe, tick: Tick) -> None:
    model = loop.build_start(recipe)
    model.compile(keras.optimizers.Adam(recipe.lr), loss="mean_absolute_error")
    each_step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: tick(logs["loss"]))
    # Else keras would wait for the device at every step, for a callback that does not ask for it.
    each_step._supports_tf_logs = True
    model.fit(
        plain_batches(images, recipe.batch, recipe.patch, recipe.scale),
        steps_per_epoch=recipe.steps,
        callbacks=[each_step],
        verbose=0,
    )


def _plain_alone(images: Sequence[NDArray[np.uint8] | Path], recipe: Recipe, tick: Tick) -> None:
    for lr, _ in plain_batches(images, recipe.batch, recipe.patch, recipe.scale):
        tick(lr)


def _from_files(way: Callable[..., None]) -> Callable[..., None]:
    def with_files(images: Sequence[NDArray[np.uint8]], recipe: Recipe, tick: Tick) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{i}.png" for i in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                Image.fromarray(image).save(path)
            way(paths, recipe, tick)

    return with_files


WAYS: Mapping[str, Callable[..., None]] = {
    "training-ours": _ours,
    "training-plain": _plain,
    "training-files": _from_files(_plain),
    "pipeline-ours": _ours_alone,
    "pipeline-plain": _plain_alone,
    "pipeline-files": _from_files(_plain_alone),
}
"""Training end to end, and the making of batches alone: the library's, and the plain way from arrays and from files."""

_RATIOS = (
    ("training-ours", "training-plain"),
    ("training-ours", "training-files"),
    # Above 1: training never waits for its batches.
    ("pipeline-ours", "training-ours"),
)


class _Clock:
    """Counts a worker's steps, times those after the lead, and lets it wait for its next turn."""

    def __init__(self, connection: Connection, steps: int) -> None:
        self.connection, self.steps = connection, steps
        self.done, self.started = 0, 0.0

    def wait(self) -> None:
        self.connection.recv()
        self.done = 0

    def tick(self, result: Any) -> None:
        self.done += 1
        if self.done in (_LEAD, _LEAD + self.steps):
            np.asarray(result)  # a GPU has then really done all steps up to here
        if self.done == _LEAD:
            self.started = time.perf_counter()
        elif self.done == _LEAD + self.steps:
            self.connection.send(time.perf_counter() - self.started)
            self.wait()


def _work(connection: Connection, way: str, images: Sequence[NDArray[np.uint8]], setting: Setting) -> None:
    # Several processes share a GPU, where TensorFlow else takes all memory at once.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    tf.config.threading.set_intra_op_parallelism_threads(setting.threads)
    tf.config.threading.set_inter_op_parallelism_threads(setting.threads)
    clock = _Clock(connection, setting.steps)
    try:
        clock.wait()
        WAYS[way](images, setting.recipe, clock.tick)
    except (EOFError, BrokenPipeError):
        pass  # the measurement has ended
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _ask(name: str, connection: Connection) -> float:
    """Let a worker have its turn; return its seconds."""
    try:
        connection.send("go")
        answer = connection.recv()
    except (EOFError, OSError) as error:
        raise BuildError(f"{name} ended without an answer: is there memory for one process a way?") from error
    if isinstance(answer, str):
        raise BuildError(f"{name} failed ({answer})")
    return answer


def _rate(samples: Sequence[float]) -> Rate:
    return Rate(*median_interval(samples), tuple(float(sample) for sample in samples))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Time training steps: this library's, and those of a Python generator feeding model.fit.",
    )
    parser.add_argument("--network", default="abpn", help="the network that is trained")
    parser.add_argument("--data", default="embedded", help="the data set to cut patches from")
    for name, default, text in (
        ("batch", 16, "patches in a batch"), ("patch", 64, "LR pixels a side of a patch"),
        ("threads", 1, "of TensorFlow"), ("rounds", 7, "interleaved rounds"),
        ("steps", 10, "steps that are timed in each round"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--json", action="store_true", help="print records as JSON")
    parser.add_argument("--out", type=Path, default=None, help="also write the records to this file")
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    fields = ("network", "batch", "patch", "threads", "rounds", "steps")
    setting = Setting(**{field: getattr(options, field) for field in fields})
    datasets.require(options.data)
    images = [hr for _, hr in datasets.images(options.data, scale=setting.recipe.scale)]
    made = records(measure(images, setting), Context.here(options.command_line), setting, options.data)
    lines = [f"batch {options.batch}, patch {options.patch}, {options.threads} thread(s), {options.rounds} rounds"]
    for record in made:
        low, high = record.spread or (record.value, record.value)
        unit = "times" if record.quantity == "throughput-ratio" else record.unit
        lines.append(f"{record.subject:30} {record.value:9.2f} {unit:5}  [{low:.2f}, {high:.2f}]")
    cli.write_and_print(made, options, *lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; bad input gives one line and status 2."""
    return cli.answer(_PROGRAM, _parser, sys.argv[1:] if arguments is None else arguments)


_PROGRAM = "python -m tools.throughput"

if __name__ == "__main__":
    sys.exit(main())
