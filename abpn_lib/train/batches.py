"""Batches of aligned LR and HR patches, each a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from abpn_lib.degradation import bicubic_down, bicubic_resize, crop_to_multiple
from abpn_lib.files import InputError
from abpn_lib.train.recipe import Recipe


class Patches:
    """(LR, HR) image pairs held as uint8, from which batches of aligned patches are cut: what a recipe shows of images.

    An image is drawn in proportion to its area times its weight. Raises `InputError` if none is as large as a patch.
    """

    def __init__(self, hr_images: Iterable[NDArray[np.uint8]], recipe: Recipe) -> None:
        self.scale, self.patch, side = recipe.scale, recipe.patch, recipe.patch * recipe.scale
        used = [(hr, weight) for hr, weight in with_rescaled_copies(hr_images, recipe) if min(hr.shape[:2]) >= side]
        if not used:
            raise InputError(f"no image is as large as an HR patch of {side} pixels a side")
        # LR is made from the whole image, as DIV2K's is, not from the patch.
        self.pairs = [(bicubic_down(hr, self.scale), hr) for hr, _ in used]
        weighted = np.array([hr.shape[0] * hr.shape[1] // self.scale**2 * weight for hr, weight in used], np.float64)
        self.chance = weighted / weighted.sum()


def with_rescaled_copies(
    hr_images: Iterable[NDArray[np.uint8]], recipe: Recipe
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """What a recipe shows of each HR (H, W, 3) image, with its weight: the image and `recipe.rescaled_copies`."""
    for hr in hr_images:
        large = hr.shape[0] * hr.shape[1] >= recipe.photo_pixels
        weight = recipe.photo_weight if large else 1.0
        if large:
            yield hr, weight
        for percent in recipe.rescaled_copies:
            yield crop_to_multiple(bicubic_resize(hr, Fraction(percent, 100)), recipe.scale), weight


def batch_at(patches: Patches, batch: int, seed: int, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Batch number `step`: LR (N, p, p, 3) and HR (N, sp, sp, 3) float32 in [0, 1], flipped and rotated."""
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
    lr_shape, hr_shape = ((recipe.batch, side, side, 3) for side in (recipe.patch, recipe.patch * recipe.scale))

    def make(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A function with state would be run alone, and nothing ahead, once op determinism is on.
        lr, hr = tf.numpy_function(
            lambda k: batch_at(patches, recipe.batch, recipe.seed, int(k)), [step], (tf.float32, tf.float32),
            stateful=False,
        )
        return tf.ensure_shape(lr, lr_shape), tf.ensure_shape(hr, hr_shape)

    steps = tf.data.Dataset.range(first, recipe.steps)
    return steps.map(make, num_parallel_calls=4, deterministic=True).prefetch(4)
