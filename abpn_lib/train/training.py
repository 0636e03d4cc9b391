"""FP32 training: L1 loss, Adam or SOAP, named recipes, and checkpoints that a killed run goes on from.

A run is a pure function of its recipe, its images and the number of threads: batch number k depends
on (seed, k) alone, so a resumed run has the same bits as an unbroken one.

Source: sections 3.4 and 4.1 of the paper for the `paper` recipe; the authors' published code, where
it differs, for the `authors` recipe.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray
from tqdm import tqdm

from abpn_lib import datasets, metrics, networks, results
from abpn_lib.degradation import bicubic_down, bicubic_resize, crop_to_multiple
from abpn_lib.files import InputError, sha256, write_atomically
from abpn_lib.train.soap import Soap

__all__ = [
    "RECIPES",
    "Patches",
    "Recipe",
    "Run", 
    "average",
    "batch_at",
    "build_after",
    "build_start",
    "dead_channels",
    "load_weights",
    "pixel_psnr",
    "read_log",
    "read_run",
    "records_of_run",
    "recipe",
    "save_weights",
    "train",
    "with_copies",
    "write_provenance",
]



@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, except its images.

    Values are in [0, 1] throughout; `networks.rescale` moves a trained network to [0, 255].
    `average` is the decay of the exponential average of the weights that is kept instead of the last
    ones (0: none). `warmup` is the number of steps over which a cosine schedule first rises. `bias_rate`
    and `first_rate` are the parts of the learning rate that SOAP moves the biases and the first kernel with;
    `copies` are the sizes, in percent, at which every image is shown once more. An image of at least `large`
    pixels is drawn `large_weight` times as often as its area says; a smaller one is shown as its copies alone.
    A run whose `start` is "run" goes on from the weights of another, with its dead channels revived
    (`networks.revive`); "tuning" takes them as they are. `ranges` says what becomes of the activations' ranges in QAT.
    """

    network: str
    steps: int
    rate: float = 1e-3
    schedule: Literal["cosine", "halving"] = "halving"
    halve_at: tuple[int, ...] = ()
    patch: int = 64
    batch: int = 16
    start: Literal["he", "glorot", "identity", "run", "tuning"] = "he"
    noise: float = 0.1
    average: float = 0.0
    data: str = "div2k-train"
    scale: int = 3
    seed: int = 0
    optimizer: Literal["adam", "soap"] = "adam"
    warmup: int = 0
    loss: Literal["l1", "l2"] = "l1"
    pairs: int = 5
    bias_rate: float = 1.0
    first_rate: float = 1.0
    copies: tuple[int, ...] = ()
    large: int = 0
    large_weight: float = 1.0
    ranges: Literal["moving", "kept"] = "moving"


AFTER = ("run", "tuning")
"""The starts that need the weights of another run."""


_SHORT = Recipe(
    "abpn",
    6_000,
    3e-3,
    schedule="cosine",
    patch=32,
    batch=8,
    start="identity",
    average=0.999,
    data="train",
    optimizer="soap",
    warmup=100,
)

_LONGER = replace(_SHORT, steps=100_000, rate=2e-3, start="run", seed=1, bias_rate=0.1, copies=(70, 50))

_LONGEST = replace(_LONGER, steps=80_000, seed=2, first_rate=0.1, large=500_000, large_weight=4.0)
_TUNED = replace(_LONGEST, steps=2_500, rate=1e-3, start="tuning", seed=3)
_QAT = replace(_SHORT, steps=1_000, rate=3e-4, start="he", average=0.99, warmup=50)

RECIPES: Mapping[str, Recipe] = {
    # Section 4.1: 1000 epochs, halved every 200. An epoch's length is not in the paper: 1000 batches, as in the code.
    "paper": Recipe("abpn", 1_000_000, halve_at=(200_000, 400_000, 600_000, 800_000)),
    # The published code: 600 epochs of 1000 batches, Glorot-normal start.
    "authors": Recipe("abpn", 600_000, halve_at=(120_000, 240_000, 360_000, 480_000), start="glorot"),
    # Every row of Table 2, under one budget: five minutes on one core.
    "table2": _SHORT,
    # Short runs, to compare variants under one budget.
    "ablation": replace(_SHORT, steps=1_500, average=0.99),
    # ABPN trained for more than an hour on one core.
    "long": replace(_SHORT, steps=80_000),
    # From where `long` ends, and its dead channels revived. What trains well as a start pushes channels below their
    # ReLU in the long run: hence the slower biases. They spare the second layer, but not the first.
    "longer": _LONGER,
    # From where `longer` ends. Here the first kernel is slow too, which keeps its channels alive. The photos count
    # more than BSDS500's images, which are small JPEGs. A short run gained by that, this long one did not.
    "longest": _LONGEST,
    "tuned": _TUNED,
    # Section 4.3, from trained weights: 200 epochs of 1000 batches, halved every 50.
    "qat-paper": Recipe("abpn", 200_000, 1e-4, halve_at=(50_000, 100_000, 150_000)),
    # The published code: 220 epochs, and its README starts at 1e-3.
    "qat-authors": Recipe("abpn", 220_000, 1e-3, halve_at=(50_000, 100_000, 150_000, 200_000)),
    # What QAT of a network trained by `table2`, and of `abpn-long`, takes here; it starts from trained weights.
    "qat-table2": _QAT,
    "qat-kept": replace(_QAT, ranges="kept"),
    "qat-long": replace(_LONGEST, steps=2_000, rate=3e-5, start="he", ranges="kept"),
}


def recipe(name: str, **changes: Any) -> Recipe:
    """A named recipe with some fields replaced (None means: keep).

    With another number of steps the halvings keep their place in the whole, and the warm-up takes at
    most a tenth of it.

    Raises
    ------
    InputError
        If there is no such recipe, or a value is out of range.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    base = RECIPES[name]
    changed = replace(base, **{key: value for key, value in changes.items() if value is not None})
    if changed.steps != base.steps:
        halve_at = tuple(at * changed.steps // base.steps for at in base.halve_at)
        changed = replace(changed, halve_at=halve_at, warmup=min(changed.warmup, changed.steps // 10))
    if changed.network not in networks.NETWORKS:
        raise InputError(f"no network is called {changed.network!r}; there are {', '.join(networks.NETWORKS)}")
    for field in ("steps", "patch", "batch", "scale"):
        if getattr(changed, field) < 1:
            raise InputError(f"{field} is {getattr(changed, field)}: at least 1 is needed")
    if min(changed.seed, changed.pairs) < 0 or changed.rate <= 0:
        raise InputError(
            f"seed {changed.seed}, pairs {changed.pairs}, rate {changed.rate}: at least 0, 0, and above 0, are needed"
        )
    return changed


class Patches:
    """(LR, HR) image pairs held as uint8, from which batches of aligned patches are cut.

    An image is drawn in proportion to its area times its weight (1 if no weights are given).

    Raises
    ------
    InputError
        If no image is as large as a patch.
    """

    def __init__(
        self, hr_images: Iterable[NDArray[np.uint8]], scale: int, patch: int, weights: Iterable[float] | None = None
    ) -> None:
        every = zip(hr_images, weights, strict=True) if weights is not None else ((hr, 1.0) for hr in hr_images)
        used = [(hr, weight) for hr, weight in every if min(hr.shape[:2]) >= patch * scale]
        # LR is made from the whole image, as DIV2K's is, not from the patch.
        self.pairs = [(bicubic_down(hr, scale), hr) for hr, _ in used]
        self.scale, self.patch = scale, patch
        if not self.pairs:
            raise InputError(f"no image is as large as an HR patch of {patch * scale} pixels a side")
        areas = np.array([lr.shape[0] * lr.shape[1] for lr, _ in self.pairs], dtype=np.float64)
        weighted = areas * [weight for _, weight in used]
        self.chance = weighted / weighted.sum()


def with_copies(
    hr_images: Iterable[NDArray[np.uint8]], recipe: Recipe
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """What a recipe shows of each HR (H, W, 3) image, and the weight of each: the image and its bicubic copies.

    The copies have `recipe.copies` percent of its size, cropped to a multiple of the scale.
    """
    for hr in hr_images:
        large = hr.shape[0] * hr.shape[1] >= recipe.large
        weight = recipe.large_weight if large else 1.0
        if large:
            yield hr, weight
        for percent in recipe.copies:
            yield crop_to_multiple(bicubic_resize(hr, Fraction(percent, 100)), recipe.scale), weight


def batch_at(patches: Patches, batch: int, seed: int, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Batch number `step`: LR (N, p, p, 3) and HR (N, sp, sp, 3) float32 in [0, 1], flipped and rotated.

    The result depends on the arguments alone.
    """
    rng = np.random.default_rng([seed, step])
    scale, side = patches.scale, patches.patch
    lr_batch = np.empty((batch, side, side, 3), np.uint8)
    hr_batch = np.empty((batch, side * scale, side * scale, 3), np.uint8)
    for i, pick in enumerate(rng.choice(len(patches.pairs), batch, p=patches.chance)):
        lr, hr = patches.pairs[pick]
        y, x = (int(rng.integers(n - side + 1)) for n in lr.shape[:2])
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        lr_patch = lr[y : y + side, x : x + side]
        hr_patch = hr[y * scale : (y + side) * scale, x * scale : (x + side) * scale]
        for patch, target in ((lr_patch, lr_batch), (hr_patch, hr_batch)):
            turned = np.rot90(patch, turns)
            target[i] = turned[:, ::-1] if flip else turned
    whole = np.float32(255)
    return np.divide(lr_batch, whole, dtype=np.float32), np.divide(hr_batch, whole, dtype=np.float32)


def batches(patches: Patches, recipe: Recipe, first: int) -> tf.data.Dataset:
    """The batches from number `first` to the recipe's last, in order, made ahead of and beside the training steps."""
    lr_shape = (recipe.batch, recipe.patch, recipe.patch, 3)
    hr_shape = (recipe.batch, recipe.patch * recipe.scale, recipe.patch * recipe.scale, 3)

    def make(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A function with state would be run alone, and nothing ahead, once op determinism is on.
        lr, hr = tf.numpy_function(
            lambda k: batch_at(patches, recipe.batch, recipe.seed, int(k)),
            [step],
            (tf.float32, tf.float32),
            stateful=False,
        )
        return tf.ensure_shape(lr, lr_shape), tf.ensure_shape(hr, hr_shape)

    steps = tf.data.Dataset.range(first, recipe.steps)
    return steps.map(make, num_parallel_calls=4, deterministic=True).prefetch(4)


def build_start(recipe: Recipe) -> keras.Model:
    """The recipe's network with its initial weights.

    Raises
    ------
    InputError
        If the recipe starts from another run, for which there is `build_after`.
    """
    if recipe.start in AFTER:
        raise InputError("this recipe goes on from another run: name its folder (--after)")
    model = networks.build(recipe.network, recipe.scale, pairs=recipe.pairs, seed=recipe.seed)
    if recipe.start == "identity":
        networks.start_as_identity(model, recipe.noise)
    elif recipe.start == "glorot":
        for i, weight in enumerate(w for w in model.trainable_weights if len(w.shape) == 4):
            weight.assign(keras.initializers.GlorotNormal(seed=recipe.seed * 1000 + i)(weight.shape))
    return model


def build_after(folder: Path, recipe: Recipe, lr_images: Iterable[NDArray[np.uint8]]) -> keras.Model:
    """The network of a finished run in `folder` as a start for `recipe`.

    Where `recipe.start` is not "tuning" its dead channels are revived: those silent on all of the LR (H, W, 3)
    uint8 images.

    Raises
    ------
    InputError
        If the folder holds no finished run, or one of another network.
    """
    first = read_run(folder).recipe
    for field in ("network", "scale", "pairs"):
        if getattr(first, field) != getattr(recipe, field):
            raise InputError(
                f"{folder} has {field} {getattr(first, field)}, the recipe {getattr(recipe, field)}: they must agree"
            )
    model = networks.build(recipe.network, recipe.scale, pairs=recipe.pairs, seed=recipe.seed)
    load_weights(model, folder / "weights.npz")
    if recipe.start == "tuning":
        return model
    try:
        networks.revive(model, lr_images, seed=recipe.seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    return model


def average(folders: Sequence[Path], out: Path, context: results.Context) -> None:
    """Make the mean of several finished runs' weights a run of its own, in `out`, beside its ``provenance.json``.

    The runs must have gone on from one and the same run, which may be among them: only then do their weights lie in
    one valley of the loss, and the mean is often better than each. Its provenance is the first one's, and names
    every part.

    Raises
    ------
    InputError
        If a folder holds no finished run, if the runs did not go on from one, or if `out` holds a run already.

    References
    ----------
    M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", ICML 2022.
    """
    runs = [read_run(folder) for folder in folders]
    ends = [sha256(folder / "weights.npz") for folder in folders]
    starts = [run.provenance.get("started_from", {}).get("weights_sha256") for run in runs]
    related = (all(origin in both for both in zip(starts, ends, strict=True)) for origin in starts if origin)
    if len(set(ends)) < 2 or not any(related):
        raise InputError("only runs that went on from one can be averaged, two or more: abpn train --after RUN")
    if (out / "provenance.json").exists():
        raise InputError(f"{out} holds a run: name another folder, or delete it")
    parts = []
    for folder in folders:
        with np.load(folder / "weights.npz", allow_pickle=False) as saved:
            parts.append(dict(saved))
    out.mkdir(parents=True, exist_ok=True)
    _write_npz(out / "weights.npz", {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]})
    of = []
    for run, end in zip(runs, ends, strict=True):
        own = {key: value for key, value in run.provenance.items() if key != "started_from"}
        of.append({**own, "weights_sha256": end})
    seconds = sum(run.provenance["wall_seconds"] for run in runs)
    made = {**runs[0].provenance, **asdict(context), "wall_seconds": seconds, "log": [], "average_of": of}
    write_atomically(out / "provenance.json", (json.dumps(made, indent=1) + "\n").encode())


def pixel_psnr(model: keras.Model, pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float:
    """Mean PSNR in dB (the authors' protocol) of a [0, 1] network over (LR, HR) uint8 pairs."""
    scores = []
    for lr, hr in pairs:
        sr = model(lr[None].astype(np.float32) / 255).numpy()[0]
        scores.append(metrics.psnr(hr, np.clip(np.rint(sr * 255), 0, 255).astype(np.uint8)))
    return float(np.mean(scores))


def train(
    recipe: Recipe,
    hr_images: Iterable[NDArray[np.uint8]],
    folder: Path,
    *,
    model: keras.Model | None = None,
    validation: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] | None = None,
    save_every: int = 500,
    progress: bool = True,
    strategy: tf.distribute.Strategy | None = None,
    each_step: Callable[[tf.Tensor], None] | None = None,
) -> keras.Model:
    """Train, or go on training, in `folder`; return the network.

    `model` is what training starts from, if not `build_start(recipe)`; QAT passes its own.

    Where several GPUs are visible, each takes an equal part of every batch; `strategy` decides otherwise. The
    gradients are averaged, so the weights are those of one device but for rounding. A `model` given without a
    `strategy` trains on one device: variables cannot be moved to several afterwards. `each_step` is called with
    the loss of each step; it need not have been computed yet.

    The folder holds ``recipe.json``, ``checkpoint.npz`` (weights, optimizer and step), ``log.csv``
    (step, loss, rate, validation PSNR in dB, seconds) and at the end ``weights.npz``. A run that
    was killed at any moment goes on from its last checkpoint and ends in the same bits.

    Raises
    ------
    InputError
        If the folder holds a run of another recipe, or an unreadable checkpoint, or if the devices cannot share
        a batch equally.
    """
    strategy = strategy or (_strategy() if model is None else tf.distribute.get_strategy())
    if recipe.batch % strategy.num_replicas_in_sync:
        raise InputError(f"a batch of {recipe.batch} cannot be shared by {strategy.num_replicas_in_sync} devices")
    folder.mkdir(parents=True, exist_ok=True)
    _claim_folder(folder, recipe)
    # Without it some gradients are summed in whatever order the threads finish.
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        model = model or build_start(recipe)
        optimizer = _optimizer(recipe)
        optimizer.build(model.trainable_variables)
    state = [*model.weights, *optimizer.variables]
    first, rows = _resume(folder, state)
    step_function = _step_function(model, optimizer, recipe.loss, strategy)
    shown = list(with_copies(hr_images, recipe))
    patches = Patches((hr for hr, _ in shown), recipe.scale, recipe.patch, [weight for _, weight in shown])
    losses: list[tf.Tensor] = []
    started = time.perf_counter()
    done_before = float(rows[-1]["seconds"]) if rows else 0.0
    bar = tqdm(
        strategy.experimental_distribute_dataset(batches(patches, recipe, first)),
        total=recipe.steps,
        initial=first,
        unit="step",
        desc=recipe.network,
        disable=not progress,
        mininterval=1.0,
    )
    for step, (lr, hr) in enumerate(bar, start=first + 1):
        # Reading its value would make the host wait for the device at every step.
        losses.append(step_function(lr, hr))
        if each_step:
            each_step(losses[-1])
        if step % save_every == 0 or step == recipe.steps:
            seconds = done_before + time.perf_counter() - started
            rows.append(_log_row(step, losses, optimizer, model, validation, seconds))
            bar.set_postfix(loss=rows[-1]["loss"], psnr=rows[-1]["val_psnr"])
            _save(folder, state, step, rows)
            losses = []
    if recipe.average:
        optimizer.finalize_variable_values(model.trainable_variables)
    save_weights(model, folder / "weights.npz")
    return model


def _strategy() -> tf.distribute.Strategy:
    """All GPUs where there are several, else TensorFlow's one default device."""
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    if recipe.schedule == "cosine":
        rising = {"initial_learning_rate": 0.0, "warmup_target": recipe.rate, "warmup_steps": recipe.warmup}
        start = rising if recipe.warmup else {"initial_learning_rate": recipe.rate}
        rate = keras.optimizers.schedules.CosineDecay(decay_steps=recipe.steps - recipe.warmup, **start)
    else:
        values = [recipe.rate / 2**i for i in range(len(recipe.halve_at) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(list(recipe.halve_at), values)
    average: dict[str, Any] = {
        "use_ema": recipe.average > 0,
        "ema_momentum": recipe.average or 0.99,
        "ema_overwrite_frequency": None,
    }
    if recipe.optimizer == "soap":
        return Soap(rate, bias_rate=recipe.bias_rate, first_rate=recipe.first_rate, **average)
    return keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8, jit_compile=False, **average)


def _step_function(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss_name: str, strategy: tf.distribute.Strategy
) -> Any:
    distance = {"l1": tf.abs, "l2": tf.square}[loss_name]

    def step_of_replica(lr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            # The optimizer adds up what the replicas find, and their parts of the batch are equal.
            loss = tf.reduce_mean(distance(model(lr, training=True) - hr)) / strategy.num_replicas_in_sync
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    @tf.function
    def step(lr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step_of_replica, (lr, hr)), axis=None)

    return step


def _log_row(
    step: int,
    losses: list[tf.Tensor],
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,
    validation: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] | None,
    seconds: float,
) -> dict[str, str]:
    return {
        "step": str(step),
        "loss": f"{np.mean([float(loss) for loss in losses]):.6f}",
        "rate": f"{float(optimizer.learning_rate.numpy()):.3e}",
        "val_psnr": f"{pixel_psnr(model, validation):.4f}" if validation else "",
        "seconds": f"{seconds:.1f}",
    }


def _claim_folder(folder: Path, recipe: Recipe) -> None:
    path, text = folder / "recipe.json", json.dumps(asdict(recipe), indent=1)
    if path.exists() and path.read_text() != text:
        raise InputError(f"{folder} holds a run of another recipe: name another folder, or delete it")
    write_atomically(path, text.encode())


def _resume(folder: Path, state: list[tf.Variable]) -> tuple[int, list[dict[str, str]]]:
    path = folder / "checkpoint.npz"
    if not path.exists():
        return 0, []
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = [saved[f"v{i}"] for i in range(len(state))]
            step, rows = int(saved["step"]), json.loads(str(saved["log"]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it to start again") from error
    for variable, array in zip(state, arrays, strict=True):
        variable.assign(array)
    return step, rows


def _save(folder: Path, state: list[tf.Variable], step: int, rows: list[dict[str, str]]) -> None:
    arrays = {f"v{i}": variable.numpy() for i, variable in enumerate(state)}
    # The log travels inside the checkpoint, so that the two can never disagree after a kill.
    _write_npz(folder / "checkpoint.npz", {**arrays, "step": np.array(step), "log": np.array(json.dumps(rows))})
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    write_atomically(folder / "log.csv", "".join(",".join(line) + "\n" for line in lines).encode())


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a network's weights, by name, to an .npz file (no pickles), whole or not at all."""
    _write_npz(path, {weight.name: weight.numpy() for weight in model.weights})


def load_weights(model: keras.Model, path: Path) -> None:
    """Read weights written by `save_weights` into a network of the same shape, in place.

    Raises
    ------
    InputError
        If the file is not one of this network's.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            for weight in model.weights:
                weight.assign(saved[weight.name])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} does not hold the weights of {model.name} ({error})") from error


def _write_npz(path: Path, arrays: dict[str, NDArray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe, and the provenance that its models carry."""

    recipe: Recipe
    provenance: dict[str, Any]


def write_provenance(
    folder: Path, recipe: Recipe, context: results.Context, threads: int, *, after: Path | None = None
) -> None:
    """Write ``provenance.json``: recipe, data, time, device, versions, commit, command and log of a finished run.

    `after` is the folder of the run that it went on from.
    """
    log = list(read_log(folder))
    provenance = {
        "recipe": asdict(recipe),
        "data": {"name": recipe.data, "registry_sha256": datasets.fingerprint(recipe.data)},
        "seed": recipe.seed,
        "steps": recipe.steps,
        "wall_seconds": log[-1]["seconds"],
        "threads": threads,
        **asdict(context),
        "log": log,
    }
    if after:
        provenance["started_from"] = {**read_run(after).provenance, "weights_sha256": sha256(after / "weights.npz")}
    write_atomically(folder / "provenance.json", (json.dumps(provenance, indent=1) + "\n").encode())


def read_run(folder: Path) -> Run:
    """Read a run that `train` has finished and `write_provenance` described.

    Raises
    ------
    InputError
        If the folder holds no finished run.
    """
    try:
        provenance = json.loads((folder / "provenance.json").read_text())
        fields: dict[str, Any] = dict(provenance["recipe"])
        for name in ("halve_at", "copies"):
            fields[name] = tuple(fields.get(name, ()))
        return Run(Recipe(**fields), provenance)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no finished run ({error}): run `abpn train --out {folder}` to its end"
        ) from error


def records_of_run(folder: Path) -> list[results.Record]:
    """A finished run's validation curve: one "validation-psnr" in dB for each row of its log, by its folder's name.

    Raises
    ------
    InputError
        If the folder holds no finished run.
    """
    run = read_run(folder)
    made, context = run.provenance, _context_of(run)
    recipe = {key: str(made["recipe"][key]) for key in ("optimizer", "start", "rate")}
    recipe |= {"architecture": made["recipe"]["network"], "recipe_seed": made["seed"]}
    return [
        context.record(
            "validation-psnr", folder.name, row["val_psnr"], "dB", **recipe, step=int(row["step"]),
        )
        for row in made["log"] if "val_psnr" in row
    ]


def dead_channels(folder: Path, lr_images: Iterable[NDArray[np.uint8]]) -> list[results.Record]:
    """How many hidden channels of a finished run's network are silent on all LR (H, W, 3) uint8 images: one record.

    None for networks where a channel's silence cannot be told from its convolution's output, and for QAT.

    Raises
    ------
    InputError
        If the folder holds no finished run.
    """
    run = read_run(folder)
    with np.load(folder / "weights.npz") as saved:
        quantised = "sfe/kernel:0" not in saved
    if quantised or run.recipe.network not in ("abpn", "baseline", "nearest", "bilinear"):
        return []
    model = networks.build(run.recipe.network, run.recipe.scale, pairs=run.recipe.pairs)
    load_weights(model, folder / "weights.npz")
    silent = [int((values <= 0).sum()) for values in networks.channel_maxima(model, lr_images)]
    by_layer = {"layers": " ".join(map(str, silent)), "step": run.recipe.steps}
    return [_context_of(run).record("dead-channels", folder.name, sum(silent), "", **by_layer)]


def _context_of(run: Run) -> results.Context:
    made = run.provenance
    return results.Context(**{key: made[key] for key in ("command", "device", "versions", "commit", "date")})


def read_log(folder: Path) -> Iterator[dict[str, float]]:
    """The rows of a run's ``log.csv``, as numbers; columns that were not measured are left out."""
    with (folder / "log.csv").open() as file:
        for row in csv.DictReader(file):
            yield {key: float(value) for key, value in row.items() if value}
