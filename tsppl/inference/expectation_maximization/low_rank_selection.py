"""How many lags, and of what rank: switching autoregressions compared by the likelihood of series they have not seen."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import random
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.autoregressive.salt import SALT
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import typed_key
from tsppl.inference.expectation_maximization.data_driven_starts import data_driven_start
from tsppl.inference.expectation_maximization.em import em
from tsppl.inference.expectation_maximization.low_rank_regression import FIELDS
from tsppl.inference.expectation_maximization.low_rank_starts import FACTORS

_STAYS = 0.95


class LowRankSelection(NamedTuple):
    """What :func:`select_low_rank` returns, one entry for each model, in the order in which they were fitted.

    ``log_likelihoods`` and ``held_out`` are nats for each scored step, ``num_weights`` counts the numbers in the factors
    or in the dense weights.
    """

    ranks: tuple
    num_lags: tuple[int, ...]
    num_weights: Int[np.ndarray, " M"]
    log_likelihoods: Float[np.ndarray, " M"]
    held_out: Float[np.ndarray, " M"]
    distributions: tuple[SequenceDistribution, ...]


def select_low_rank(
    value,
    held_out,
    *,
    ranks,
    num_lags,
    num_states,
    key,
    noise=None,
    shared=(),
    priors=None,
    fixed=(),
    num_restarts=4,
    num_iters=100,
    tol=1e-6,
    mask=None,
    lengths=None,
    held_out_mask=None,
    held_out_lengths=None,
    progress_bar=True,
):
    """Fit a model for each rank and number of lags by :func:`em`, and score it on series that were held out.

    All are conditional on the same number of first steps, the largest of ``num_lags``, so that they are scored on the
    same steps.

    Args:
        value: series to fit ``(..., T, N)``.
        held_out: series to score ``(..., S, N)``.
        ranks: for each model an integer (CP), ``(D1, D2, D3)`` (Tucker, cut to ``(N, N, L)``), or None for an
            ``AutoregressiveHMM``.
        num_lags: numbers of lags ``L``, each tried with all ranks.
        num_states: number of states ``K``.
        key: random key of the starts.
        noise: family of the noise, a distribution of event ``(N,)`` to start from; by default a MultivariateNormal.
        shared: factors that all states have in common, such as ``("output_factors",)``.
        priors: as in :func:`em`, or a function of the number of lags that returns them, for a lag penalty. Priors of
            arguments that a model lacks (``"core"``, ``"weights"``) are left out for it.
        fixed: as in :func:`em`.
        num_restarts, num_iters, tol: as in :func:`em`; every start is drawn from the data.
        mask, lengths: of ``value``, as for the distributions.
        held_out_mask, held_out_lengths: of ``held_out``.
        progress_bar: show how many models are done.

    Returns:
        :class:`LowRankSelection`.

    Raises:
        ValueError: if ``held_out`` has another number of channels, or ``num_lags`` or ``ranks`` is empty.

    >>> import jax, jax.numpy as jnp
    >>> from tsppl.inference import select_low_rank
    >>> value = jax.random.normal(jax.random.key(0), (2, 40, 2)).cumsum(1)
    >>> options = {"num_states": 1, "key": jax.random.key(1), "num_iters": 5, "num_restarts": 1, "progress_bar": False}
    >>> table = select_low_rank(value[0], value[1], ranks=[1], num_lags=[1], **options)
    >>> table.ranks, table.num_weights.tolist(), table.held_out.shape
    ((1,), [5], (1,))
    """
    value, held_out = jnp.asarray(value), jnp.asarray(held_out)
    ranks, num_lags = tuple(ranks), tuple(num_lags)
    if not ranks or not num_lags:
        raise ValueError(f"ranks is {ranks} and num_lags is {num_lags}: give at least one of each")
    if value.ndim < 2 or held_out.ndim < 2 or value.shape[-1] != held_out.shape[-1]:
        raise ValueError(
            f"value has shape {value.shape} and held_out has shape {held_out.shape}: both must end in steps and the same "
            "number of channels"
        )
    size = value.shape[-1]
    if noise is None:
        noise = dist.MultivariateNormal(jnp.zeros(size), jnp.eye(size))
    data = {"num_steps": value.shape[-2], "mask": mask, "lengths": lengths, "num_conditioned": max(num_lags)}
    unseen = {"num_steps": held_out.shape[-2], "mask": held_out_mask, "lengths": held_out_lengths}
    pairs = [(_cut(rank, size, lags), lags) for lags in num_lags for rank in ranks]
    fitted, counts, seen_scores, unseen_scores = [], [], [], []
    bar = tqdm(pairs, disable=not progress_bar)
    for (rank, lags), model_key in zip(bar, random.split(typed_key(key), len(pairs)), strict=True):
        bar.set_description(f"rank {rank}, {lags} lags")
        start_key, restart_key = random.split(model_key)
        template = _model(_zeros(rank, lags, size, num_states, shared), noise, num_states, **data)
        own_priors = _own_priors(priors(lags) if isinstance(priors, Callable) else priors or {}, template)
        result = em(
            data_driven_start(start_key, template, value, fixed=fixed),
            value,
            num_iters=num_iters,
            tol=tol,
            priors=own_priors,
            fixed=fixed,
            num_restarts=num_restarts,
            key=restart_key,
        )
        best = result.distribution
        fitted.append(best)
        counts.append(sum(array.size for array in _arrays(best).values()))
        seen_scores.append(_score(best, value))
        unseen_scores.append(_score(_on_other_series(best, **data | unseen), held_out))
    return LowRankSelection(
        tuple(rank for rank, _ in pairs),
        tuple(lags for _, lags in pairs),
        np.array(counts),
        np.array(seen_scores),
        np.array(unseen_scores),
        tuple(fitted),
    )


def _cut(rank, size, num_lags):
    if rank is None or isinstance(rank, int):
        return rank
    return tuple(min(pair) for pair in zip(rank, (size, size, num_lags), strict=True))


def _zeros(rank, num_lags, size, num_states, shared):
    """The arguments that hold the weights, by name."""
    if rank is None:
        return {"weights": jnp.zeros((num_states, num_lags, size, size))}
    columns = (rank,) * 3 if isinstance(rank, int) else rank
    arrays = {
        name: jnp.zeros((1 if name in shared else num_states, rows, column))
        for name, rows, column in zip(FACTORS, (size, size, num_lags), columns, strict=True)
    }
    return arrays | {"core": None if isinstance(rank, int) else jnp.zeros((num_states, *rank))}


def _model(arrays, noise, num_states, **options):
    away = (1 - _STAYS) / max(num_states - 1, 1)
    transition = jnp.full((num_states, num_states), away) if num_states > 1 else jnp.ones((1, 1))
    transition = transition.at[jnp.diag_indices(num_states)].set(_STAYS if num_states > 1 else 1.0)
    return _class(arrays)(jnp.full(num_states, 1 / num_states), transition, noise=noise, **arrays, **options)


def _class(arrays):
    return AutoregressiveHMM if "weights" in arrays else SALT


def _arrays(distribution):
    names = ("weights",) if isinstance(distribution, AutoregressiveHMM) else tuple(FIELDS)
    arrays = {name: getattr(distribution, name) for name in names}
    return {name: array for name, array in arrays.items() if array is not None}


def _own_priors(priors, distribution):
    others = {"weights", *FIELDS} - set(_arrays(distribution))
    return {name: prior for name, prior in priors.items() if name not in others}


def _on_other_series(distribution, **options):
    arrays = _arrays(distribution)
    chain = distribution.initial_probs, distribution.transition_probs
    return _class(arrays)(*chain, noise=distribution.noise, **arrays, **options)


@jax.jit
def _total(distribution, value):
    return distribution.log_prob(value).sum(), distribution.scored_steps(value).sum()


def _score(distribution, value):
    total, count = _total(distribution, value)
    return float(total / count)
