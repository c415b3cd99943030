"""Sums over a long axis that keep their digits in float32."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def summed_products(left: Float[Array, "S A"], right: Float[Array, "S B"]) -> Float[Array, "A B"]:
    """``left.T @ right``, in blocks that are summed afterwards: one long product loses up to half the digits."""
    block = math.isqrt(len(left)) + 1

    def blocks(rows):
        return jnp.pad(rows, ((0, block**2 - len(rows)), (0, 0))).reshape(block, block, rows.shape[1])

    return (blocks(left).swapaxes(1, 2) @ blocks(right)).sum(0)
