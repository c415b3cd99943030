"""How long states last: in paths of states, and as transition probabilities say."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def dwell_times(states, num_states=None, *, lengths=None, censored=False):
    """Lengths of the stays in each state.

    Args:
        states: int ``(..., T)``, one path or many (draws, series); ``-1`` where a step has no state.
        num_states: number of states; one more than the greatest by default.
        lengths: int, number of steps of each path, where they end before ``T``; broadcasts against the leading axes.
        censored: whether to count the first and the last stay of each path too, of which only a part was seen.

    Returns:
        list of int arrays, one for each state: the lengths of its stays in steps.

    >>> from tsppl import dwell_times
    >>> [stays.tolist() for stays in dwell_times([0, 0, 1, 1, 1, 0, 1])]
    [[1], [3]]
    """
    states = np.asarray(states)
    num_states = int(states.max()) + 1 if num_states is None else num_states
    ends = np.broadcast_to(states.shape[-1] if lengths is None else np.asarray(lengths), states.shape[:-1]).ravel()
    found = []
    for path, end in zip(states.reshape(-1, states.shape[-1]), ends, strict=True):
        path = path[:end][path[:end] >= 0]
        changes = np.flatnonzero(np.diff(path)) + 1
        edges = np.concatenate([[0], changes, [len(path)]])
        stays = np.stack([path[edges[:-1]], np.diff(edges)], -1) if len(path) else np.zeros((0, 2), int)
        found.append(stays if censored else stays[1:-1])
    found = np.concatenate(found)
    return [found[found[:, 0] == state, 1] for state in range(num_states)]


def expected_durations(transition_probs) -> Float[Array, "*batch K"]:
    """Expected number of steps of a stay in each state of a Markov chain, ``1 / (1 - p_kk)``.

    Args:
        transition_probs: ``(..., K, K)``.

    >>> import jax.numpy as jnp
    >>> from tsppl import expected_durations
    >>> expected_durations(jnp.array([[0.75, 0.25], [0.5, 0.5]])).tolist()
    [4.0, 2.0]
    """
    return 1 / (1 - jnp.diagonal(jnp.asarray(transition_probs), axis1=-2, axis2=-1))
