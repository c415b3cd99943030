"""A sequence cut into stretches of equal length that are run side by side, one in each lane of a vectorised loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Lanes(NamedTuple):
    """``num_lanes`` stretches of ``length`` steps; what the last one lacks repeats the last row."""

    num_steps: int
    num_lanes: int
    length: int

    def split(self, rows):
        """Rows ``(T, ...)`` of a tree as ``(length, num_lanes, ...)``, as a vectorised loop reads them."""
        missing = self.num_lanes * self.length - self.num_steps

        def split_leaf(leaf):
            padded = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (missing, *leaf.shape[1:]))])
            return padded.reshape(self.num_lanes, self.length, *leaf.shape[1:]).swapaxes(0, 1)

        return jax.tree.map(split_leaf, rows)

    def join(self, rows):
        """What :meth:`split` made, as ``(T, ...)``."""

        def join_leaf(leaf):
            return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])[: self.num_steps]

        return jax.tree.map(join_leaf, rows)

    def run(self, advance, starts, rows, *, num_steps=None, keep=True):
        """Ends of all stretches from ``starts``, and their states ``(length, num_lanes, n)`` if ``keep``."""

        def step(states, x):
            states = jax.vmap(advance)(states, x)
            return states, states if keep else None

        return lax.scan(step, starts, rows, length=self.length if num_steps is None else num_steps)


def lanes_for(num_steps: int, num_lanes: int | None = None) -> Lanes:
    """About as many stretches as each has steps, of at least 32 steps, unless ``num_lanes`` says otherwise."""
    length = max(32, round(num_steps**0.5)) if num_lanes is None else -(-num_steps // num_lanes)
    length = min(length, num_steps)
    return Lanes(num_steps, -(-num_steps // length), length)


def shift(start, states):
    """The state before each step: ``start``, then all ``states`` but the last."""
    return jnp.concatenate([start[None], states[:-1]])
