"""Gaussians that are cut off at the edges of a window: how much of them is inside, and draws from what is.

A window is one that consists of boxes (:attr:`Window.boxes`), or a pair of lowest and highest place, whose ends may be
infinite; ``mean`` and ``error``, mean and standard deviation, broadcast with each other, and with the former.
"""

import jax.numpy as jnp
from jax import random
from jax.scipy.special import logsumexp

from tsppl.points.clusters.cluster import log_normal_mass, normal_mass
from tsppl.points.windows.window import Window


def log_centre_mass(window, mean, error):
    """Log probability of the window under a Gaussian, accurate in both tails; one for each dimension of a box."""
    mass = log_normal_mass(*_limits(window, mean, error))
    return logsumexp(mass, 0) if _has_gaps(window) else mass


def centre_mass(window, mean, error):
    """The same without the log, many times cheaper; a tiny number where it is less than that."""
    mass = normal_mass(*_limits(window, mean, error))
    return mass.sum(0) if _has_gaps(window) else mass


def draw_centre(key, window, mean, error):
    """A draw of the Gaussian inside the window, of the shape of ``mean``."""
    if _has_gaps(window):
        chosen_key, key = random.split(key)
        weights = log_normal_mass(*_limits(window, mean, error))
        chosen = random.categorical(chosen_key, weights, axis=0)
        window = jnp.moveaxis(window.boxes[chosen], -1, 0)
    low, high = _limits(window, mean, error)
    return mean + error * random.truncated_normal(key, low, high, jnp.shape(mean), jnp.result_type(mean))


def _has_gaps(window):
    return isinstance(window, Window) and not window.is_box


def _limits(window, mean, error):
    """Lowest and highest place in standard deviations from the mean; of all stretches, on the first axis."""
    if _has_gaps(window):
        low, high = (jnp.expand_dims(end, tuple(range(1, jnp.ndim(mean) + 1))) for end in window.boxes.T)
    else:
        ends = window.bounds if isinstance(window, Window) else window
        low, high = ends[0], ends[1]
    return (low - mean) / error, (high - mean) / error
