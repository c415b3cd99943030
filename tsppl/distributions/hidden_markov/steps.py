"""Steps of all series in one axis, weighted by the probabilities of their states."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class RegressionRows(NamedTuple):
    """Rows of the regression of each step on its past and a constant, the last ``S`` steps of all series in one axis.

    Attributes:
        inputs: ``(n, p)``; the last is one.
        outputs: ``(n, N)``.
        scored: ``(..., S)``, with ``n`` entries: rows that count.
        observed: ``(n, N)`` where entries of the outputs are missing on their own, else None.
    """

    inputs: Float[Array, "n p"]
    outputs: Array
    scored: Bool[Array, "*batch S"]
    observed: Bool[Array, "n N"] | None

    def weights(self, state_probs):
        """Weights ``(n, K)`` from probabilities of the states, ``(..., T', K)``; zero where not scored."""
        own = state_probs[..., state_probs.shape[-2] - self.scored.shape[-1] :, :]
        return jnp.where(self.scored[..., None], own, 0.0).reshape(-1, own.shape[-1])

    def labels(self, states):
        """States ``(n,)`` from paths, int ``(..., T)``; -1 where not scored."""
        own = states[..., states.shape[-1] - self.scored.shape[-1] :]
        return jnp.where(self.scored, own, -1).reshape(-1)


def flatten_steps(distribution, value, state_probs):
    """All steps of all series in one axis: values ``(n,) + event``, weights ``(n, K)``, observed entries or None."""
    lead = state_probs.shape[:-1]
    event_shape = distribution.event_shape[1:]
    steps, entries = distribution._observed()
    value = jnp.broadcast_to(value, lead + event_shape)
    if steps is not None:
        state_probs = jnp.where(steps[..., None], state_probs, 0.0)
        seen = steps.reshape(steps.shape + (1,) * len(event_shape)) if entries is None else entries
        value = jnp.where(seen, value, 0)
    if entries is not None:
        entries = jnp.broadcast_to(entries, lead + event_shape).reshape((-1,) + event_shape)
    return value.reshape((-1,) + event_shape), state_probs.reshape(-1, state_probs.shape[-1]), entries
