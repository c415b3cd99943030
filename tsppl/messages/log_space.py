"""Log-sum-exp arithmetic that survives empty sums: no NaN in values or gradients where every term is ``-inf``."""

import jax.numpy as jnp
from jax import lax


def log_sum_exp(log_terms, axis):
    """``log(sum(exp(log_terms)))`` along ``axis``; ``-inf`` with zero gradient where all terms are ``-inf``."""
    shift = finite_largest(log_terms, axis)
    total = jnp.sum(jnp.exp(log_terms - shift), axis=axis, keepdims=True)
    result = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf) + shift
    return jnp.squeeze(result, axis)


def shift_by_largest(log_terms, axis):
    """``log_terms`` minus their largest along ``axis``; unchanged where all are ``-inf``."""
    return log_terms - finite_largest(log_terms, axis)


def finite_largest(log_terms, axis):
    """The largest entry along ``axis``, which is kept with length one; zero where it is not finite. Not differentiated."""
    largest = lax.stop_gradient(jnp.max(log_terms, axis=axis, keepdims=True))
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def log_normalize(log_weights):
    """Log-sum-exp over the last axis, and the weights with it subtracted (unchanged where it is ``-inf``)."""
    total = log_sum_exp(log_weights, axis=-1)
    return total, log_weights - jnp.where(jnp.isfinite(total), total, 0.0)[..., None]


def log_of_probabilities(probs):
    """``log(probs)`` with gradient zero, not NaN, at probability zero: a structural zero stays where it is."""
    positive = probs > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, probs, 1.0)), -jnp.inf)
