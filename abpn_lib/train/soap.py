"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, for the convolutions of a small network.

A plain chain of 3x3 convolutions starts slowly under Adam (section 4.1 of the paper trains a million steps). Its
kernels are small matrices, at most 252x28, so that a second-order method costs little per step, and it needs many
fewer of them. Source: N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025, algorithm 3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf
import tf_keras as keras

_MOMENTUM, _DECAY, _EVERY = 0.9, 0.95, 10


class Soap(keras.optimizers.Optimizer):
    """SOAP for every variable of rank 4 (a kernel, as the matrix (k·k·C_in, C_out)); Adam for the others.

    The decay of the gradient's average is 0.9, that of its square in the eigenbasis and of the two covariances 0.95,
    and the eigenbasis is updated every 10 steps. The other variables' learning rate is multiplied with
    `bias_lr_factor`: biases as fast as kernels push channels below their ReLU for good. That of the first variable,
    the kernel that reads the image, is multiplied with `first_layer_lr_factor`: pixels are never negative, so that its
    channels die as soon as a kernel's sum falls below zero. `options` are those of `keras.optimizers.Optimizer`, such
    as ``use_ema``.
    """

    def __init__(
        self, learning_rate: Any, *, bias_lr_factor: float = 1.0, first_layer_lr_factor: float = 1.0, **options: Any
    ) -> None:
        super().__init__(name="Soap", jit_compile=False, **options)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.bias_lr_factor, self.first_layer_lr_factor = bias_lr_factor, first_layer_lr_factor

    def build(self, var_list: list[tf.Variable]) -> None:
        """Make the averages of every variable, and the bases and covariances of every kernel."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._slots = [self._new_slots(variable) for variable in var_list]
        self._built = True

    def _new_slots(self, variable: tf.Variable) -> dict[str, tf.Variable]:
        slots = {name: self.add_variable_from_reference(variable, name) for name in ("average", "square")}
        if len(variable.shape) == 4:
            rows, columns = _as_matrix(variable).shape
            for side, size in (("left", rows), ("right", columns)):
                identity, zero = tf.eye(size), tf.zeros((size, size))
                slots[side] = self.add_variable_from_reference(variable, f"{side}_basis", (size, size), identity)
                slots[f"{side}_cov"] = self.add_variable_from_reference(variable, f"{side}_cov", (size, size), zero)
        return slots

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Move one variable, in place, against its gradient of the same shape."""
        step = tf.cast(self.iterations + 1, tf.float32)
        index = self._index_dict[self._var_key(variable)]
        slots = self._slots[index]
        if "left" in slots:
            change = (1.0 if index else self.first_layer_lr_factor) * self._preconditioned(gradient, slots, step)
        else:
            change = self.bias_lr_factor * self._adam(slots, gradient, tf.square(gradient), step, tf.identity)
        variable.assign_sub(tf.cast(self.learning_rate, tf.float32) * change)

    def _adam(
        self, slots: dict[str, tf.Variable], gradient: tf.Tensor, square: tf.Tensor, step: tf.Tensor, rotate: Any
    ) -> tf.Tensor:
        average = slots["average"].assign(_MOMENTUM * slots["average"] + (1 - _MOMENTUM) * gradient)
        corrected = slots["square"].assign(_DECAY * slots["square"] + (1 - _DECAY) * square) / (1 - _DECAY**step)
        return rotate(average) / (1 - _MOMENTUM**step) / (tf.sqrt(corrected) + 1e-8)

    def _preconditioned(self, gradient: tf.Tensor, slots: dict[str, tf.Variable], step: tf.Tensor) -> tf.Tensor:
        shape, left, right = gradient.shape, slots["left"], slots["right"]
        matrix = _as_matrix(gradient)  # (k·k·C_in, C_out)
        for name, transposed in (("left_cov", {"transpose_b": True}), ("right_cov", {"transpose_a": True})):
            slots[name].assign(_DECAY * slots[name] + (1 - _DECAY) * tf.matmul(matrix, matrix, **transposed))

        def rotate(tensor: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.matmul(left, _as_matrix(tensor) @ right, transpose_a=True), shape)

        rotated = self._adam(slots, gradient, tf.square(rotate(gradient)), step, rotate)
        change = tf.matmul(left @ _as_matrix(rotated), right, transpose_b=True)
        # The step uses the old basis throughout; a new one serves from the next step on.
        with tf.control_dependencies([change]):
            due = tf.equal((self.iterations + 1) % _EVERY, 0)
            case = tf.where(tf.equal(self.iterations, 0), 2, tf.cast(due, tf.int32))
            tf.switch_case(case, [tf.no_op, partial(_turn, slots), partial(_find, slots)])
        return tf.reshape(change, shape)


def _find(slots: dict[str, tf.Variable]) -> tf.Operation:
    """Take both eigenbases from the first gradient."""
    for side in ("left", "right"):
        slots[side].assign(tf.reverse(tf.linalg.eigh(slots[f"{side}_cov"])[1], [1]))
    return tf.no_op()


def _turn(slots: dict[str, tf.Variable]) -> tf.Operation:
    """Bring both eigenbases up to date by one step of power iteration, and the squares along with them."""
    square = _as_matrix(slots["square"])
    for side, axis in (("left", 0), ("right", 1)):
        basis, covariance = slots[side], slots[f"{side}_cov"]
        turned = covariance @ basis
        # Greatest first: QR keeps directions apart only in that order.
        order = tf.argsort(tf.reduce_sum(basis * turned, axis=0), direction="DESCENDING", stable=True)
        square = tf.gather(square, order, axis=axis)
        slots[side].assign(tf.linalg.qr(tf.gather(turned, order, axis=1))[0])
    slots["square"].assign(tf.reshape(square, slots["square"].shape))
    return tf.no_op()


def _as_matrix(kernel: tf.Tensor) -> tf.Tensor:
    return tf.reshape(kernel, (-1, kernel.shape[-1]))
