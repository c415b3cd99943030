"""Parallel-in-time messages of a hidden Markov chain by associative scan (Sarkka and Garcia-Fernandez 2021).

The element of step ``t`` is the table ``log p(z_{t+1} = j, y_{t+1} | z_t = i)``; tables compose by a matrix product
in a semiring: (log-sum-exp, +) for the marginal messages, (max, +) for the most likely path.
Work is ``O(T K^3)``, depth ``O(log T)``: for accelerators, not for CPUs.
"""

import jax.numpy as jnp
from jax import lax

from tsppl.messages.log_space import log_sum_exp, shift_by_largest


def parallel_forward(log_initial, log_transition, log_likelihoods, *, reduce=log_sum_exp):
    """Messages ``log p(z_t, y_<=t)`` up to a constant per step, ``(T, K)``."""
    first = log_initial + log_likelihoods[0]
    products = lax.associative_scan(_compose(reduce), _elements(log_transition, log_likelihoods))
    return jnp.concatenate([first[None], reduce(first[:, None] + products, axis=-2)])


def parallel_backward(log_transition, log_likelihoods, *, reduce=log_sum_exp):
    """Messages ``log p(y_>t | z_t)`` up to a constant per step, for all steps but the last, ``(T-1, K)``."""
    compose = _compose(reduce)
    products = lax.associative_scan(
        lambda later, earlier: compose(earlier, later), _elements(log_transition, log_likelihoods), reverse=True
    )
    return reduce(products, axis=-1)


def _elements(log_transition, log_likelihoods):
    return shift_by_largest(log_transition + log_likelihoods[1:, None, :], axis=(-2, -1))


def _compose(reduce):
    """Product of two tables, shifted so that long float32 sequences keep the difference between states."""

    def compose(left, right):
        return shift_by_largest(reduce(left[..., :, :, None] + right[..., None, :, :], axis=-2), axis=(-2, -1))

    return compose
