"""Steps of all series in one axis, weighted by the probabilities of their states."""

import jax.numpy as jnp


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
