"""Checks of states that were observed."""

import jax.numpy as jnp
import numpy as np

from tsppl.distributions.shapes import is_concrete


def check_known_states(known_states, num_states, num_steps):
    """``known_states`` as an int array ``(..., T)``, -1 where a state is not known.

    Raises:
        ValueError: if it does not end in ``num_steps``, or names a state that there is not.
        TypeError: if it does not hold integers.
    """
    known_states = jnp.asarray(known_states)
    if known_states.shape[-1:] != (num_steps,):
        raise ValueError(f"known_states has shape {known_states.shape}; it must end in num_steps, {num_steps}")
    if not jnp.issubdtype(known_states.dtype, jnp.integer):
        raise TypeError(f"known_states must be integers, -1 where a state is not known, not {known_states.dtype}")
    if is_concrete(known_states):
        states = np.asarray(known_states)
        wrong = (states < -1) | (states >= num_states)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"known_states is {states[index]} at index {index}; states are 0 to {num_states - 1}, and -1 where "
                "the state is not known"
            )
    return known_states
