"""A Markov chain over a state and the ``L`` states before it, for models whose step depends on all of them.

Entry ``sum_l z_{t-l} K^l`` of the chain at step ``t`` stands for ``z_t, z_{t-1}, ..., z_{t-L}``: the present state varies
fastest.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def joint_states(num_states, num_lags) -> Int[np.ndarray, "M lags"]:
    """The state of each lag, 0 to ``L``, in each of the ``M = K^(L+1)`` states of the chain."""
    powers = num_states ** np.arange(num_lags + 1)
    return np.arange(num_states ** (num_lags + 1))[:, None] // powers % num_states


def chain_of_joint_states(log_initial, log_transition, num_lags, first) -> tuple[Float[Array, " M"], Array]:
    """Log-probabilities of the first ``L + 1`` states together, and log transitions from then on.

    Args:
        log_initial: of the state of step ``first``, ``(K,)``.
        log_transition: ``(K, K)``, or ``(T-1, K, K)``, whose row ``t`` moves step ``t`` to ``t + 1``.
        num_lags: number of lags ``L``.
        first: step at which the smaller chain starts.

    Returns:
        ``(M,)`` for step ``first + L``, and ``(M, M)``, or ``(T-1-first-L, M, M)``.
    """
    num_states = log_initial.shape[0]
    states = joint_states(num_states, num_lags)
    varying = log_transition.ndim == 3

    def rows(step):
        return log_transition[step] if varying else log_transition

    joint = log_initial[states[:, -1]]
    for step, lag in enumerate(range(num_lags, 0, -1)):
        joint = joint + rows(first + step)[states[:, lag], states[:, lag - 1]]
    later = log_transition[first + num_lags :] if varying else log_transition
    origins = np.arange(len(states))[:, None]
    targets = origins % num_states**num_lags * num_states + np.arange(num_states)
    table = jnp.full(later.shape[:-2] + (len(states),) * 2, -jnp.inf, log_transition.dtype)
    return joint, table.at[..., origins, targets].set(later[..., states[:, 0], :])
