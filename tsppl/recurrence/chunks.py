"""A series cut into chunks of equal length, which are run side by side (words as in :mod:`tsppl.messages.certified`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Chunks(NamedTuple):
    """``num_chunks`` chunks of ``length`` steps; what the last one lacks repeats the last row."""

    num_steps: int
    num_chunks: int
    length: int

    def split(self, rows):
        """Rows ``(T, ...)`` of a tree as ``(length, num_chunks, ...)``, as a vectorised loop reads them."""
        missing = self.num_chunks * self.length - self.num_steps

        def split_leaf(leaf):
            padded = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (missing, *leaf.shape[1:]))])
            return padded.reshape(self.num_chunks, self.length, *leaf.shape[1:]).swapaxes(0, 1)

        return jax.tree.map(split_leaf, rows)

    def join(self, rows):
        """What :meth:`split` made, as ``(T, ...)``."""

        def join_leaf(leaf):
            return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])[: self.num_steps]

        return jax.tree.map(join_leaf, rows)

    def run(self, advance, starts, rows, *, num_steps=None, keep=True):
        """Ends of all chunks from ``starts``, and their states ``(length, num_chunks, n)`` if ``keep``."""

        def step(states, x):
            states = jax.vmap(advance)(states, x)
            return states, states if keep else None

        return lax.scan(step, starts, rows, length=self.length if num_steps is None else num_steps)


def chunks_for(num_steps: int, num_chunks: int | None = None) -> Chunks:
    """About as many chunks as each has steps, of at least 32 steps, unless ``num_chunks`` says otherwise."""
    length = max(32, round(num_steps**0.5)) if num_chunks is None else -(-num_steps // num_chunks)
    length = min(length, num_steps)
    return Chunks(num_steps, -(-num_steps // length), length)


def shift(start, states):
    """The state before each step, or the boundary before each chunk: ``start``, then all ``states`` but the last."""
    return jnp.concatenate([start[None], states[:-1]])


def chunks_last(rows, num_chunks: int):
    """``(T, ...)`` as ``(length, ..., num_chunks)``, the last chunk filled with zeros: machines vectorise the last axis."""
    padded = jnp.pad(rows, ((0, -len(rows) % num_chunks),) + ((0, 0),) * (rows.ndim - 1))
    return jnp.moveaxis(padded.reshape(num_chunks, -1, *rows.shape[1:]), 0, -1)
