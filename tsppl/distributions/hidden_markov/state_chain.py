"""The Markov chain behind a series as algorithms take it, and the kinds of transitions that it can have."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@runtime_checkable
class Transitions(Protocol):
    """How a chain moves: as numbers, or by a rule that looks at the series. A pytree of arrays.

    Attributes:
        varies: whether the moves of a series differ from step to step.
        reads_series: whether they depend on the series, all of which must then be known.
        shape: of the transitions out of one step, ``(..., K, K)``, or with a time axis where they are numbers that vary.
        signature: core shapes of the leaves, as ``jnp.vectorize`` takes them; ``k`` is the state, ``s`` the move and ``n``
            the channel.
    """

    varies: bool
    reads_series: bool
    shape: tuple[int, ...]
    signature: str

    def along(self, series, first) -> Float[Array, "..."]:
        """Log transitions of all moves from step ``first`` on: ``(..., S, K, K)``, or ``(..., K, K)``.

        ``series`` is as it was observed, ``(..., T)`` or ``(..., T, N)``.
        """

    def into(self, step, previous) -> Float[Array, "K K"]:
        """Log transitions into a step of one series, given the step before, ``(N,)``; ``N`` is 1 for a scalar series."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GivenTransitions:
    """:class:`Transitions` that are numbers: one table ``(..., K, K)``, or a row for each move, ``(..., T-1, K, K)``."""

    log_probs: Any
    varies: bool = field(metadata={"static": True})

    reads_series = False

    @property
    def shape(self):
        """As in :class:`Transitions`."""
        return jnp.shape(self.log_probs)

    @property
    def signature(self):
        """Core shapes of the leaves."""
        return "(s,k,k)" if self.varies else "(k,k)"

    def along(self, series, first):
        """As in :class:`Transitions`; the series is not looked at."""
        return self.log_probs[..., first:, :, :] if self.varies else self.log_probs

    def into(self, step, previous):
        """As in :class:`Transitions`."""
        return self.log_probs[jnp.maximum(step - 1, 0)] if self.varies else self.log_probs


class StateChain(NamedTuple):
    """A Markov chain over the states of a series, or over larger ones: a state and its age, a state and those before it.

    Attributes:
        log_initial: ``(..., K')``, log-probabilities of the first state of the chain.
        log_transition: ``(..., K', K')``, or ``(..., T'-1, K', K')`` where the transitions vary.
        reported: int ``(K',)``, the state that people ask for in each state of the chain; None where they are the same.
        varies: whether the transitions have a time axis.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> swap, stays = jnp.array([[0.0, 1.0], [1.0, 0.0]]), dist.Poisson(jnp.array([2.0, 4.0]))
    >>> model = tsd.HiddenSemiMarkov(
    ...     jnp.full(2, 0.5), swap, stays, dist.Poisson(stays.rate), num_steps=6, max_duration=3
    ... )
    >>> model.state_chain().reported.tolist()
    [0, 0, 0, 1, 1, 1]
    """

    log_initial: Float[Array, "*batch K"]
    log_transition: Float[Array, "..."]
    reported: Int[np.ndarray, " K"] | None
    varies: bool

    @property
    def signature(self):
        """Core shapes of the log-probabilities, as ``jnp.vectorize`` takes them."""
        return "(k),(s,k,k)" if self.varies else "(k),(k,k)"

    def in_each_state(self, array):
        """``array``, ``(..., K)`` of the reported states, as ``(..., K')`` of the states of the chain."""
        return array if self.reported is None else array[..., self.reported]

    def reported_path(self, path):
        """Reported states of a path of the chain."""
        return path if self.reported is None else jnp.asarray(self.reported, jnp.int32)[path]

    def reported_probs(self, probs):
        """Probabilities ``(..., K)`` of the reported states, from those of the states of the chain."""
        if self.reported is None:
            return probs
        return probs @ jnp.asarray(np.eye(self.reported.max() + 1)[self.reported], probs.dtype)
