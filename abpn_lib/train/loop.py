"""FP32 training: one of three losses, Adam or SOAP, and checkpoints that a killed run goes on from with the same bits.

A run is a pure function of its recipe, its images and the number of threads: batch number k depends on (seed, k) alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray
from tqdm import tqdm

from abpn_lib import datasets, metrics, networks, results
from abpn_lib.degradation import bicubic_down
from abpn_lib.files import DataError, InputError, write_atomically
from abpn_lib.train.batches import Patches, batches
from abpn_lib.train.recipe import Recipe
from abpn_lib.train.runs import load_npz, load_weights, read_run, reading, save_npz, save_weights, write_provenance
from abpn_lib.train.soap import Soap

Validation = Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""(LR, HR) uint8 image pairs that are scored at each checkpoint."""

_CARRIES = {("abpn", "abpn32"): networks.widen, ("abpn32", "abpn32-short"): networks.shorten}


def build_start(recipe: Recipe) -> keras.Model:
    """The recipe's network with its initial weights. Raises `InputError` if the recipe starts from another run."""
    if recipe.init == "run":
        raise InputError("this recipe goes on from another run: name its folder (--after)")
    model = networks.build(recipe.network, recipe.scale, pairs=recipe.pairs, seed=recipe.seed)
    if recipe.init == "identity":
        networks.start_as_identity(model, recipe.noise)
    elif recipe.init == "glorot":
        for i, weight in enumerate(w for w in model.trainable_weights if len(w.shape) == 4):
            weight.assign(keras.initializers.GlorotNormal(seed=recipe.seed * 1000 + i)(weight.shape))
    return model


def build_after(folder: Path, recipe: Recipe, lr_images: Iterable[NDArray[np.uint8]]) -> keras.Model:
    """The network of a finished run in `folder` as a start for `recipe`.

    With `recipe.revive` its dead channels get new weights: those silent on all of the LR (H, W, 3) uint8 images.
    An `abpn32` may go on from an `abpn`, which is widened first, and an `abpn32-short` from an `abpn32`. Raises
    `DataError` if the folder holds no finished run, `InputError` if it holds one of another network.
    """
    first = read_run(folder).recipe
    carry = _CARRIES.get((first.network, recipe.network))
    for field in ("scale", "pairs") if carry else ("network", "scale", "pairs"):
        if (found := getattr(first, field)) != (wanted := getattr(recipe, field)):
            raise InputError(f"{folder} has {field} {found}, the recipe {wanted}: they must agree")
    model = networks.build(recipe.network, recipe.scale, pairs=recipe.pairs, seed=recipe.seed)
    start = networks.build(first.network, recipe.scale, pairs=recipe.pairs) if carry else model
    load_weights(start, folder / "weights.npz")
    if carry:
        carry(start, model)
    if recipe.revive:
        networks.revive(model, lr_images, seed=recipe.seed)
    return model


def pixel_psnr(model: keras.Model, pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float:
    """Mean PSNR in dB (the authors' protocol) of a [0, 1] network over (LR, HR) uint8 pairs."""
    scores = []
    for lr, hr in pairs:
        sr = model(lr[None].astype(np.float32) / 255).numpy()[0]
        scores.append(metrics.psnr(hr, np.clip(np.rint(sr * 255), 0, 255).astype(np.uint8)))
    return float(np.mean(scores))


def train(
    recipe: Recipe, hr_images: Iterable[NDArray[np.uint8]], folder: Path, *, model: keras.Model | None = None,
    validation: Validation = (), save_every: int = 500, progress: bool = True,
    strategy: tf.distribute.Strategy | None = None, each_step: Callable[[tf.Tensor], None] | None = None,
) -> keras.Model:
    """Train, or go on training, in `folder`; return the network.

    `model` is what training starts from, if not `build_start(recipe)`, built in the scope of `strategy`: what shares
    each batch among devices, so that the weights are those of one but for rounding (`shared`; one device if None).
    `each_step` is called with the loss of each step, which need not have been computed yet.

    The folder holds ``recipe.json``, ``checkpoint.npz`` (weights, optimizer and step), ``log.csv`` (step, loss, rate,
    validation PSNR in dB, seconds, seconds of all CPU cores) and at the end ``weights.npz``. A run that was killed at
    any moment goes on from its last checkpoint and ends in the same bits. Raises `InputError` if the folder holds a run
    of another recipe or the devices cannot share a batch equally, `DataError` if its checkpoint cannot be read or the
    loss is not finite.
    """
    patches = Patches(hr_images, recipe)
    strategy = strategy or tf.distribute.get_strategy()
    if recipe.batch % strategy.num_replicas_in_sync:
        raise InputError(f"a batch of {recipe.batch} cannot be shared by {strategy.num_replicas_in_sync} devices")
    # Without it some gradients are summed in whatever order the threads finish.
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        model = model or build_start(recipe)
        optimizer = _optimizer(recipe)
        optimizer.build(model.trainable_variables)
    state = [*model.weights, *optimizer.variables]
    # Claimed only now: a run that is refused leaves no folder behind.
    folder.mkdir(parents=True, exist_ok=True)
    _claim_folder(folder, recipe)
    first, rows = _resume(folder, state)
    step_function = _step_function(model, optimizer, recipe.loss, strategy)
    losses: list[tf.Tensor] = []
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    started = {name: clock() - float(rows[-1].get(name, 0) if rows else 0) for name, clock in clocks.items()}
    bar = tqdm(
        strategy.experimental_distribute_dataset(batches(patches, recipe, first)), total=recipe.steps, initial=first,
        unit="step", desc=recipe.network, disable=not progress, mininterval=1.0,
    )
    for step, (lr, hr) in enumerate(bar, start=first + 1):
        # Reading its value would make the host wait for the device at every step.
        try:
            losses.append(step_function(lr, hr))
        except tf.errors.InvalidArgumentError as error:  # SOAP's eigenbases, of a gradient that is not finite
            raise _not_finite(step) from error
        if each_step:
            each_step(losses[-1])
        if step % save_every == 0 or step == recipe.steps:
            loss = float(np.mean([float(loss) for loss in losses]))
            if not math.isfinite(loss):
                raise _not_finite(step)
            rows.append({
                "step": str(step), "loss": f"{loss:.6f}", "rate": f"{float(optimizer.learning_rate.numpy()):.3e}",
                "val_psnr": f"{pixel_psnr(model, validation):.4f}" if validation else "",
                **{name: f"{clock() - started[name]:.1f}" for name, clock in clocks.items()},
            })
            bar.set_postfix(loss=rows[-1]["loss"], psnr=rows[-1]["val_psnr"])
            _save(folder, state, step, rows)
            losses = []
    if recipe.ema_decay:
        optimizer.finalize_variable_values(model.trainable_variables)
    save_weights(model, folder / "weights.npz")
    return model


def run(
    recipe: Recipe, folder: Path, context: results.Context, *, after: Path | None = None,
    validate_on: str = "embedded", devices: int | None = None, **options: Any,
) -> Path:
    """Train by a recipe on the images at hand, or go on with a run that was stopped; return its weights' path.

    `after` is the finished run that it goes on from. At each checkpoint the images of `validate_on` are scored
    ("": none). `devices` share each batch (`shared`), `options` are what `train` takes. Raises `InputError` or
    `DataError` if recipe, folder, `devices` and `after` do not fit, or images are missing.
    """
    if after and recipe.init != "run":
        recipe = replace(recipe, init="run", revive=True)
    for name in filter(None, (recipe.data, validate_on)):
        datasets.require(name)
    with (strategy := shared(devices)).scope():
        model = build_after(after, recipe, datasets.spaced_lr_images(recipe.data, 32, recipe.scale)) if after else None
    images = (hr for _, hr in datasets.images(recipe.data, scale=recipe.scale))
    options |= {"validation": validation_pairs(validate_on, recipe.scale), "strategy": strategy}
    train(recipe, images, folder, model=model, **options)
    write_provenance(folder, recipe, context, threads(), after=after)
    return folder / "weights.npz"


def shared(devices: int | None) -> tf.distribute.Strategy:
    """What shares each batch among so many GPUs (None: all), or parts of the CPU where there is no GPU.

    Raises `InputError` if there are fewer; the CPU can be parted only before TensorFlow has started.
    """
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        with contextlib.suppress(RuntimeError):
            cpu, part = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
            tf.config.set_logical_device_configuration(cpu, [part] * (devices or 1))
    found = [device.name for device in tf.config.list_logical_devices(kind)[:devices]]
    if len(found) < (devices or 1):
        raise InputError(f"--devices {devices}: there are {len(found)}")
    return tf.distribute.MirroredStrategy(found) if len(found) > 1 else tf.distribute.get_strategy()


def validation_pairs(name: str, scale: int) -> Validation:
    """The LR and HR images of a data set ("": none) that a run is scored on; of the embedded four, which is quick."""
    found = itertools.islice(datasets.images(name, scale=scale) if name else (), 4 if name == "embedded" else None)
    return [(bicubic_down(hr, scale), hr) for _, hr in found]


def use_threads(count: int) -> None:
    """Give TensorFlow so many threads, on which a run's bits depend, unless it has started already."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def threads() -> int:
    """How many threads TensorFlow computes one operation with."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def _optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    if recipe.schedule == "cosine":
        start, top = (0.0, recipe.lr) if recipe.warmup else (recipe.lr, None)
        rate = keras.optimizers.schedules.CosineDecay(
            start, recipe.steps - recipe.warmup, warmup_target=top, warmup_steps=recipe.warmup
        )
    else:
        values = [recipe.lr / 2**i for i in range(len(recipe.halve_at) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(list(recipe.halve_at), values)
    ema: dict[str, Any] = {"use_ema": True, "ema_momentum": recipe.ema_decay} if recipe.ema_decay else {}
    if recipe.optimizer == "soap":
        first, bias = recipe.first_layer_lr_factor, recipe.bias_lr_factor
        return Soap(rate, bias_lr_factor=bias, first_layer_lr_factor=first, **ema)
    return keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8, jit_compile=False, **ema)


def _step_function(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss_name: str, strategy: tf.distribute.Strategy
) -> Any:
    def step_of_replica(lr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            # The optimizer adds up what the replicas find, and their parts of the batch are equal.
            loss = _loss(loss_name, model(lr, training=True) - hr) / strategy.num_replicas_in_sync
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    @tf.function
    def step(lr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step_of_replica, (lr, hr)), axis=None)

    return step


def _loss(name: str, error: tf.Tensor) -> tf.Tensor:
    """The loss of the errors of (N, H, W, 3) patches in [0, 1].

    "log-l2" is what the mean PSNR of several images is made of: a hard patch counts no more than an easy one. PSNR
    above 40 dB, where the logarithm would be ruled by the flattest patches, hardly counts.
    """
    if name == "log-l2":
        return tf.reduce_mean(tf.math.log(tf.reduce_mean(tf.square(error), axis=(1, 2, 3)) + 1e-4))
    return tf.reduce_mean(tf.abs(error) if name == "l1" else tf.square(error))


def _not_finite(step: int) -> DataError:
    return DataError(f"the loss is not finite at step {step}: try a smaller learning rate (--lr)")


def _claim_folder(folder: Path, recipe: Recipe) -> None:
    path, text = folder / "recipe.json", json.dumps(asdict(recipe), indent=1)
    if path.exists() and path.read_bytes() != text.encode():
        raise InputError(f"{folder} holds a run of another recipe: name another folder, or delete it")
    write_atomically(path, text.encode())


def _resume(folder: Path, state: list[tf.Variable]) -> tuple[int, list[dict[str, str]]]:
    path = folder / "checkpoint.npz"
    if not path.exists():
        return 0, []
    with reading(f"{path} cannot be read", ": delete it to start again"):
        saved = load_npz(path)
        for i, variable in enumerate(state):
            variable.assign(saved[f"v{i}"])
        return int(saved["step"]), json.loads(str(saved["log"]))


def _save(folder: Path, state: list[tf.Variable], step: int, rows: list[dict[str, str]]) -> None:
    arrays = {f"v{i}": variable.numpy() for i, variable in enumerate(state)}
    # The log travels inside the checkpoint, so that the two can never disagree after a kill.
    save_npz(folder / "checkpoint.npz", {**arrays, "step": np.array(step), "log": np.array(json.dumps(rows))})
    # The last row's columns: those of a run begun by an older version may be fewer.
    lines = [list(rows[-1]), *(list(row.values()) for row in rows)]
    write_atomically(folder / "log.csv", "".join(",".join(line) + "\n" for line in lines).encode())
