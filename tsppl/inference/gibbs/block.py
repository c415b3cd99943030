"""What every Gibbs block needs: numbers while a chain is traced, and an error for updates that are not the model's."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp

from tsppl.upstream import GIBBS_SITES_KWARG


def without_values(kwargs):
    """Keyword arguments of a model without the values that other blocks hold."""
    return {name: value for name, value in kwargs.items() if name != GIBBS_SITES_KWARG}


class NotConjugateError(ValueError):
    """A site whose conditional distribution is not the one that a Gibbs update would draw from."""


NUM_CHECKS = 2


@contextmanager
def exactly():
    """Computing now, even while a chain is being traced, and in double precision."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        yield


def in_double(leaf):
    """Real arrays in double precision, anything else as it is."""
    is_real = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, jnp.float64) if is_real else leaf
