"""Gaussians that are cut off at the edges of a window: how much of them is inside, and draws from what is.

A window is an array of lowest and highest place, by dimension, or :class:`Intervals`; ``mean`` and ``error``, mean and standard
deviation, broadcast with each other, and with the former.
"""

import jax.numpy as jnp
from jax import random
from jax.scipy.special import logsumexp

from tsppl.points.clusters.cluster import log_normal_mass, normal_mass
from tsppl.points.windows.intervals import Intervals


def log_centre_mass(window, mean, error):
    """Log probability of the window under a Gaussian, accurate in both tails; one for each dimension of a box."""
    if isinstance(window, Intervals):
        return logsumexp(log_normal_mass(*_limits(window, mean, error)), 0)
    return log_normal_mass(*_limits(window, mean, error))


def centre_mass(window, mean, error):
    """The same without the log, many times cheaper; a tiny number where it is less than that."""
    if isinstance(window, Intervals):
        return normal_mass(*_limits(window, mean, error)).sum(0)
    return normal_mass(*_limits(window, mean, error))


def draw_centre(key, window, mean, error):
    """A draw of the Gaussian inside the window, of the shape of ``mean``."""
    if isinstance(window, Intervals):
        chosen_key, key = random.split(key)
        weights = log_normal_mass(*_limits(window, mean, error))
        chosen = random.categorical(chosen_key, weights, axis=0)
        window = jnp.moveaxis(window.ends[chosen], -1, 0)
    low, high = _limits(window, mean, error)
    return mean + error * random.truncated_normal(key, low, high, jnp.shape(mean), jnp.result_type(mean))


def _limits(window, mean, error):
    """Lowest and highest place in standard deviations from the mean; of all stretches, on the first axis."""
    if isinstance(window, Intervals):
        low, high = (jnp.expand_dims(end, tuple(range(1, jnp.ndim(mean) + 1))) for end in window.ends.T)
    else:
        low, high = window[0], window[1]
    return (low - mean) / error, (high - mean) / error
