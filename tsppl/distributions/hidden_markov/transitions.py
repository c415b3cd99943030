"""Transition probabilities of hidden Markov chains: where they settle, from rates in continuous time, and sticky priors."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import expm
from jaxtyping import Array, Float

from tsppl.distributions.shapes import is_concrete


def stationary_probs(transition_probs) -> Float[Array, "*batch K"]:
    """The probabilities of the states in the long run, a start for chains that have run for long before the data.

    Solves ``pi (I - P + U) = 1`` with ``U`` of ones (Zucchini and MacDonald 2009, exercise 8 of chapter 1);
    differentiable.

    Args:
        transition_probs: ``(..., K, K)``, a chain in which every state can be reached from every other.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> tsd.stationary_probs(jnp.array([[0.9, 0.1], [0.3, 0.7]])).round(3).tolist()
    [0.75, 0.25]
    """
    transition_probs = jnp.asarray(transition_probs)
    size = transition_probs.shape[-1]
    matrix = jnp.eye(size, dtype=transition_probs.dtype) - transition_probs + 1
    ones = jnp.ones(transition_probs.shape[:-1] + (1,), transition_probs.dtype)
    return jnp.linalg.solve(jnp.swapaxes(matrix, -1, -2), ones)[..., 0]


def transition_probs_from_rates(rates, intervals) -> Float[Array, "*batch K K"]:
    """Transition probabilities over intervals of any length of a chain in continuous time, ``exp(Q dt)``.

    For data at irregular times: ``HiddenMarkov(..., transition_probs_from_rates(rates, jnp.diff(times)),
    time_varying=("transition_probs",))``.

    Args:
        rates: ``(..., K, K)``, rate of moves from row to column, per unit of time; the diagonal is not looked at.
        intervals: ``(..., T-1)``, from one step to the next, not negative.

    Returns:
        ``(..., T-1, K, K)``.

    Raises:
        ValueError: if a rate of a move or an interval is negative.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> rates = jnp.array([[0.0, 1.0], [3.0, 0.0]])
    >>> tsd.transition_probs_from_rates(rates, jnp.array([0.0, 50.0]))[:, 0].round(3).tolist()
    [[1.0, 0.0], [0.75, 0.25]]
    """
    rates, intervals = jnp.asarray(rates), jnp.asarray(intervals)
    apart = ~np.eye(rates.shape[-1], dtype=bool)
    if is_concrete(rates, intervals) and ((np.asarray(rates) < 0) & apart).any():
        raise ValueError(f"rates has the entry {np.asarray(rates)[..., apart].min()}: rates of moves are not negative")
    if is_concrete(rates, intervals) and (np.asarray(intervals) < 0).any():
        raise ValueError(f"intervals has the entry {np.asarray(intervals).min()}: are the times sorted?")
    away = jnp.where(jnp.eye(rates.shape[-1], dtype=bool), 0.0, rates)
    generator = away - jnp.eye(rates.shape[-1]) * away.sum(-1)[..., None]
    probs = expm(generator[..., None, :, :] * intervals[..., None, None])
    probs = jnp.maximum(probs, 0.0)
    return probs / probs.sum(-1, keepdims=True)


def restrict_states(probs, num_states) -> Float[Array, "*batch K"]:
    """Probabilities of the first ``num_states`` states alone: models of every size in one compiled program.

    Entries of further states are zero, and rows are divided by their sums. A Dirichlet vector restricted so is Dirichlet with
    the weights of the entries left. So a model with room for ``K`` states whose initial and transition probabilities are
    restricted has, exactly, the posterior of the smaller model; the parameters of states out of use follow their prior. As
    ``num_states`` may be traced, ``MCMC(..., jit_model_args=True)`` compiles once for all sizes (and, with ``lengths`` or
    ``mask`` as arguments of the model, for all folds).

    Args:
        probs: ``(..., K)``, of the first state or rows of transitions.
        num_states: int, from 1 to ``K``; may be an array inside of ``jit``.

    Raises:
        ValueError: if ``num_states`` is not from 1 to ``K``; that of an array is not known inside of ``jit``.
        TypeError: if it is no integer.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> tsd.restrict_states(jnp.array([0.2, 0.6, 0.2]), 2).round(3).tolist()
    [0.25, 0.75, 0.0]
    """
    probs = jnp.asarray(probs)
    if not jnp.issubdtype(jnp.result_type(num_states), jnp.integer):
        raise TypeError(f"num_states is of type {jnp.result_type(num_states)}; it must be an integer")
    if is_concrete(num_states) and not 1 <= int(num_states) <= probs.shape[-1]:
        raise ValueError(f"num_states is {num_states}; it must be from 1 to {probs.shape[-1]}, as probs has room for")
    kept = jnp.where(jnp.arange(probs.shape[-1]) < num_states, probs, 0.0)
    return kept / jnp.maximum(kept.sum(-1, keepdims=True), jnp.finfo(kept.dtype).tiny)


def sticky_dirichlet(num_states, *, concentration=1.0, stickiness=0.0):
    """Prior of transition probabilities ``(K, K)`` in which states tend to stay (Fox et al. 2011).

    Row ``k`` is Dirichlet with ``concentration`` for every state and ``stickiness`` more for itself, so that the prior mean
    of staying is ``(concentration + stickiness) / (K concentration + stickiness)``. Gibbs samplers draw it exactly.

    Args:
        num_states: number of states ``K``.
        concentration: number above 0, or ``(K,)``, a weight for each state that is entered: ``alpha * beta`` with ``beta`` of a
            Dirichlet prior gives the weak limit of the hierarchical Dirichlet process.
        stickiness: number from 0, kappa in the literature.

    Returns:
        NumPyro distribution with event ``(K, K)``.

    >>> import tsppl.distributions as tsd
    >>> tsd.sticky_dirichlet(3, stickiness=6.0).mean[0].round(3).tolist()
    [0.778, 0.111, 0.111]
    """
    weights = jnp.broadcast_to(jnp.asarray(concentration, float), (num_states, num_states))
    return dist.Dirichlet(weights + stickiness * jnp.eye(num_states)).to_event(1)


def sample_hierarchical_transitions(name, num_states, *, base_concentration=3.0, concentration=5.0, stickiness=0.0):
    """Make the sites of transition rows that share one distribution over states, and return both.

    ``beta ~ Dirichlet(gamma / K, ...)`` and row ``k ~ Dirichlet(alpha beta)``, gamma being ``base_concentration`` and alpha
    ``concentration``, with ``stickiness`` more for itself: the weak limit of the sticky hierarchical Dirichlet process (Fox,
    Sudderth, Jordan and Willsky 2011, section 3.1). Take ``K`` larger than the number of states that is expected; those that
    are not needed stay empty. ``inference.auto_gibbs`` draws both sites exactly given the states.

    Args:
        name: of the site of the rows; the shared distribution is the site ``<name>_base``.
        num_states: ``K``.
        base_concentration: of the shared distribution; the smaller, the fewer states are used.
        concentration: how close the rows are to it.
        stickiness: added for staying; the prior mean of staying is then about ``stickiness /
            (concentration + stickiness)`` and more.

    Returns:
        ``(base, transition_probs)``, ``(K,)`` and ``(K, K)``.

    >>> import numpyro, tsppl.distributions as tsd
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     base, transition_probs = tsd.sample_hierarchical_transitions("transition_probs", 4, stickiness=20.0)
    >>> base.shape, transition_probs.shape
    ((4,), (4, 4))
    """
    base = numpyro.sample(f"{name}_base", dist.Dirichlet(jnp.full(num_states, base_concentration / num_states)))
    rows = sticky_dirichlet(num_states, concentration=concentration * base, stickiness=stickiness)
    return base, numpyro.sample(name, rows)
