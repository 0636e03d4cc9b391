"""SOAP: what it must do that Adam does not."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras as keras

from abpn_lib.train.soap import Soap


def quadratic(seed: int = 0) -> tuple[tf.Variable, tf.Tensor, tf.Tensor, tf.Tensor]:
    """A kernel, and a badly conditioned quadratic in it: (kernel, rows' covariance, columns' covariance, target)."""
    rng = np.random.default_rng(seed)

    def covariance(size: int) -> np.ndarray:
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        return (basis * np.geomspace(1, 1e-4, size)) @ basis.T

    rows, columns = covariance(18).astype(np.float32), covariance(6).astype(np.float32)
    target = rng.normal(size=(18, 6)).astype(np.float32)
    return tf.Variable(tf.zeros((3, 3, 2, 6))), tf.constant(rows), tf.constant(columns), tf.constant(target)


def loss_after(optimizer: keras.optimizers.Optimizer, steps: int) -> float:
    kernel, rows, columns, target = quadratic()
    optimizer.build([kernel])

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            off = tf.reshape(kernel, (18, 6)) - target
            loss = tf.reduce_sum(off * (rows @ off @ columns))
        optimizer.apply_gradients([(tape.gradient(loss, kernel), kernel)])
        return loss

    return float([step() for _ in range(steps)][-1])


def test_soap_needs_fewer_steps_than_adam_on_an_ill_conditioned_kernel() -> None:
    adam = min(loss_after(keras.optimizers.Adam(rate), 300) for rate in (0.003, 0.01, 0.03, 0.1))
    soap = min(loss_after(Soap(rate), 300) for rate in (0.003, 0.01, 0.03, 0.1))
    assert soap < 0.5 * adam


def test_vectors_are_updated_as_adam_updates_them() -> None:
    steps = []
    for optimizer in (Soap(0.01), keras.optimizers.Adam(0.01, beta_2=0.95, epsilon=1e-8, jit_compile=False)):
        bias = tf.Variable([1.0, -2.0, 3.0])
        for _ in range(5):
            optimizer.apply_gradients([(2 * bias, bias)])
        steps.append(bias.numpy())
    np.testing.assert_allclose(*steps, rtol=1e-5)


def test_the_bases_stay_orthogonal_and_find_the_covariances_eigenvectors() -> None:
    kernel = tf.Variable(tf.zeros((3, 3, 2, 6)))
    optimizer = Soap(1e-3)
    optimizer.build([kernel])
    rng = np.random.default_rng(0)
    for _ in range(200):
        gradient = rng.normal(size=(18, 6)) * np.geomspace(1, 0.01, 18)[:, None]
        optimizer.apply_gradients([(tf.constant(gradient.reshape(3, 3, 2, 6), tf.float32), kernel)])
    slots = optimizer._slots[0]
    basis, covariance = slots["left"].numpy(), slots["left_cov"].numpy()
    np.testing.assert_allclose(basis.T @ basis, np.eye(18), atol=1e-4)
    rotated = basis.T @ covariance @ basis
    assert np.abs(rotated - np.diag(np.diag(rotated))).sum() < 0.1 * np.diag(rotated).sum()


def test_its_whole_state_is_in_its_variables() -> None:
    # What training saves and reads again: two bases, two covariances, two averages for a kernel.
    kernel, bias = tf.Variable(tf.zeros((3, 3, 2, 6))), tf.Variable(tf.zeros(6))
    optimizer = Soap(1e-3)
    optimizer.build([kernel, bias])
    assert len(optimizer.variables) == 1 + 6 + 2  # the step count besides


def test_biases_can_be_slower_than_kernels() -> None:
    moves = []
    for bias_lr_factor in (1.0, 0.1):
        kernel, bias = tf.Variable(tf.ones((1, 1, 2, 2))), tf.Variable(tf.ones(2))
        optimizer = Soap(0.01, bias_lr_factor=bias_lr_factor)
        optimizer.apply_gradients([(tf.reshape(tf.range(4.0), (1, 1, 2, 2)), kernel), (tf.ones(2), bias)])
        moves.append((kernel.numpy(), 1 - bias.numpy()))
    (kernel, bias), (same, slower) = moves
    np.testing.assert_array_equal(same, kernel)
    np.testing.assert_allclose(slower, 0.1 * bias, rtol=1e-4)


def test_the_first_kernel_can_be_slower_than_the_next() -> None:
    gradient = tf.reshape(tf.range(4.0), (1, 1, 2, 2))
    moves = []
    for first_layer_lr_factor in (1.0, 0.1):
        kernels = [tf.Variable(tf.ones((1, 1, 2, 2))) for _ in range(2)]
        optimizer = Soap(0.01, first_layer_lr_factor=first_layer_lr_factor)
        optimizer.apply_gradients([(gradient, kernel) for kernel in kernels])
        moves.append([1 - kernel.numpy() for kernel in kernels])
    (first, second), (slower, same) = moves
    np.testing.assert_array_equal(same, second)
    np.testing.assert_allclose(slower, 0.1 * first, rtol=1e-4)
