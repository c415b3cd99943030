"""Smoothing and drawing the trajectory where covariances settle; see :mod:`tsppl.messages.linear_gaussian.steady`.

Given the data the trajectory is an affine-Gaussian chain, whose kernels are those of the backward information filter
(:mod:`tsppl.messages.linear_gaussian.smoother`); only their offsets depend on the data. So smoothed means come from the
forward and backward passes, and everything about the deviations from them from one chain without data: constant but for
``num_transient`` steps before its end, its covariances constant but for as many after its start too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from tsppl.messages.linear_gaussian.adjoint import smoothing_steps, times
from tsppl.messages.linear_gaussian.chain import Marginals
from tsppl.messages.linear_gaussian.roots import lower_root, square, transpose
from tsppl.messages.linear_gaussian.steady import backward_slopes, each_stage, forward_pass, settled, steady_state
from tsppl.messages.linear_gaussian.steps import (
    AffineGaussian,
    Gaussian,
    absorb,
    observation_information,
    predict,
    tilt,
)
from tsppl.recurrence.affine import constant_recurrence, varying_recurrence


class Deviations(NamedTuple):
    """The chain of a trajectory minus its smoothed mean.

    ``kernels`` holds the law of the last ``num_transient`` steps; its first row is that of all earlier steps.
    """

    start: Float[Array, "D M"]
    kernels: AffineGaussian
    vouched: Bool[Array, ""]


def deviations(initial: Gaussian, dynamics: AffineGaussian, emission: AffineGaussian, num_transient: int) -> Deviations:
    """The posterior chain without its means."""
    centred = dynamics._replace(bias=jnp.zeros_like(initial.mean))
    silent = emission._replace(bias=jnp.zeros(emission.weights.shape[0], initial.mean.dtype))
    own = observation_information(silent, silent.bias)

    def step(message, _):
        kernel, message, _ = absorb(centred, own.times(message))
        return message, (kernel, message.root)

    message, (kernels, roots) = lax.scan(step, own.nothing(), length=num_transient)
    start, _ = tilt(Gaussian(jnp.zeros_like(initial.mean), initial.root), own.times(message))
    vouched = settled(roots[num_transient // 2 - 1], roots[-1], kernels.weights[-1].T, num_transient)
    return Deviations(start.root, jax.tree.map(lambda a: a[::-1], kernels), vouched)


def steady_smoother(num_transient, initial, dynamics, emission, values):
    """``(Marginals, vouched)``."""
    means, vouched = _smoothed_means(num_transient, initial, dynamics, emission, values)
    chain = deviations(initial, dynamics, emission, num_transient)
    kernel = jax.tree.map(lambda a: a[0], chain.kernels)

    def step(root, kernel):
        root = predict(Gaussian(kernel.bias, root), kernel).root
        return root, root

    start = lower_root(square(chain.start), initial.mean.shape[0])
    limit, early = lax.scan(lambda root, _: step(root, kernel), start, length=num_transient)
    vouched &= chain.vouched & settled(early[num_transient // 2 - 1], limit, kernel.weights, num_transient)
    late = lax.scan(step, limit, chain.kernels)[1]
    middle = jnp.broadcast_to(limit, (len(values) - 1 - 2 * num_transient,) + limit.shape)
    roots = jnp.concatenate([start[None], early, middle, late])
    weights = jnp.broadcast_to(kernel.weights, (len(values) - 1 - num_transient,) + limit.shape)
    weights = jnp.concatenate([weights, chain.kernels.weights])
    covariances = weights @ roots[:-1] @ transpose(roots[:-1])
    return Marginals(means, roots, covariances), vouched


def steady_draw(num_transient, first_noise, noise, initial, dynamics, emission, values):
    """``(trajectory, vouched)``, from standard normal variates ``(M,)`` and ``(T - 1, R)``."""
    means, vouched = _smoothed_means(num_transient, initial, dynamics, emission, values)
    start, kernels, settled_chain = deviations(initial, dynamics, emission, num_transient)
    first = start @ first_noise
    early = constant_recurrence(kernels.weights[0], first, times(kernels.root[0], noise[:-num_transient]))
    late = varying_recurrence(kernels.weights, early[-1], times(kernels.root, noise[-num_transient:]))
    return means + jnp.concatenate([first[None], early, late]), vouched & settled_chain


def _smoothed_means(num_transient, initial, dynamics, emission, values):
    steady = steady_state(initial, dynamics, emission, num_transient)
    means, whitened = forward_pass(steady, initial, dynamics, emission, values)
    slopes = backward_slopes(steady, whitened)
    return means + each_stage(smoothing_steps, steady.gains, slopes[:-1]), steady.vouched
