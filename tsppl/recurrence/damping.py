"""Damped sweeps: the mean of a Kalman filter in place of a plain affine recurrence (ELK, Gonzalez et al. 2024).

The increments of a sweep get the prior ``d_t ~ N(A_t d_{t-1} + r_t, I)`` and are told that ``d_t = 0`` with variance
``sigma^2``. The filter's mean, which unlike the smoother's lets no later state pull on an earlier one, is the
recurrence ``d_t = G_t (A_t d_{t-1} + r_t)`` with gains ``G_t`` from the filter's covariances alone.
"""

import jax
import jax.numpy as jnp
from jax import lax


def filter_gains(weights, precision):
    """``G_t = (I + P_t / sigma^2)^{-1}``, with ``P_t`` the variance of ``d_t`` given the steps before it."""
    algebra = _Diagonal if weights.ndim == 2 else _Matrices
    one = algebra.identity(weights)
    # The first increment does not depend on any before.
    weights = weights.at[0].set(0)

    if jax.default_backend() == "cpu":

        def step(variance, weight):
            predicted = algebra.sandwich(weight, variance) + one
            gain = algebra.inverse(one + precision * predicted)
            return algebra.product(gain, predicted), gain

        return lax.scan(step, jnp.zeros_like(weights[0]), weights)[1]

    kept = 1 / (1 + precision)
    elements = (
        kept * weights,
        jnp.broadcast_to(kept * one, weights.shape),
        (1 - kept) * algebra.product(algebra.transpose(weights), weights),
    )
    variances = lax.associative_scan(jax.vmap(algebra.join), elements)[1]
    before = jnp.concatenate([jnp.zeros_like(variances[:1]), variances[:-1]])
    return algebra.inverse(one + precision * (algebra.sandwich(weights, before) + one))


class _Matrices:
    """Square matrices in the last two axes."""

    @staticmethod
    def identity(weights):
        return jnp.eye(weights.shape[-1], dtype=weights.dtype)

    inverse = staticmethod(jnp.linalg.inv)
    product = staticmethod(jnp.matmul)

    @staticmethod
    def transpose(matrix):
        return matrix.swapaxes(-1, -2)

    @classmethod
    def sandwich(cls, weight, variance):
        return weight @ variance @ cls.transpose(weight)

    @classmethod
    def join(cls, earlier, later):
        """Summaries of two stretches as one (Sarkka and Garcia-Fernandez 2021, lemma 8, without the means)."""
        weight1, variance1, information1 = earlier
        weight2, variance2, information2 = later
        one = cls.identity(weight1)
        through = weight2 @ cls.inverse(one + variance1 @ information2)
        back = cls.transpose(weight1) @ cls.inverse(one + information2 @ variance1)
        return (
            through @ weight1,
            through @ variance1 @ cls.transpose(weight2) + variance2,
            back @ information2 @ weight1 + information1,
        )


class _Diagonal:
    """The same for diagonal matrices, of which only the diagonal is kept."""

    identity = staticmethod(lambda weights: jnp.ones(weights.shape[1:], weights.dtype))
    inverse = staticmethod(lambda diagonal: 1 / diagonal)
    product = staticmethod(jnp.multiply)
    transpose = staticmethod(lambda diagonal: diagonal)
    sandwich = staticmethod(lambda weight, variance: weight**2 * variance)

    @classmethod
    def join(cls, earlier, later):
        weight1, variance1, information1 = earlier
        weight2, variance2, information2 = later
        shared = 1 / (1 + variance1 * information2)
        return (
            weight1 * weight2 * shared,
            weight2**2 * variance1 * shared + variance2,
            weight1**2 * information2 * shared + information1,
        )
