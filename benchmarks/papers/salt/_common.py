"""What the scripts share: models fitted in the same way to several series, scored on the same steps, and tables."""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import random
from scipy.optimize import linear_sum_assignment

import tsppl.distributions as tsd
from tsppl.inference import em, select_low_rank

sys.path.append(str(Path(__file__).parents[2]))
from _timing import _environment, _row  # noqa: E402

PRIOR_SCALE, RIDGE, NUM_ITERS, TOL = 1e-3, 0.1, 100, 1e-5
COLUMNS = ["model", "numbers", "steps", "states right", "nats per step, seen", "nats per step, unseen"]
FACTORS = ("output_factors", "input_factors", "lag_factors")


class Fit(NamedTuple):
    """A fitted model, the count of numbers in its weights, and nats per step on its own series and on another."""

    distribution: Any
    num_weights: int
    seen: float
    held_out: float


def is_quick(title):
    """Read the command line, switch to float64, and say where the numbers come from."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute at most")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    print(_environment(["numpyro"]) + "\n", flush=True)
    return quick


def print_table(columns, rows):
    """Print a markdown table, row by row as they come: the first column is text, the others are numbers."""
    print(_row(columns) + "\n|---" + "|---:" * (len(columns) - 1) + "|", flush=True)
    for row in rows:
        print(_row([str(cell) for cell in row]), flush=True)
    print(flush=True)


def weight_arrays(ranks, num_states, num_lags, size):
    """The arguments that hold the weights, zero: dense for None, CP for an integer, Tucker for three ranks."""
    if ranks is None:
        return {"weights": jnp.zeros((num_states, num_lags, size, size))}
    columns = (ranks,) * 3 if isinstance(ranks, int) else ranks
    rows = (size, size, num_lags)
    arrays = {name: jnp.zeros((num_states, n, d)) for name, n, d in zip(FACTORS, rows, columns, strict=True)}
    return arrays if isinstance(ranks, int) else arrays | {"core": jnp.zeros((num_states, *ranks))}


def build(arrays, chain, noise, **options):
    """The model that has these weights."""
    of_class = tsd.AutoregressiveHMM if "weights" in arrays else tsd.SALT
    return of_class(*chain, noise=noise, **arrays, **options)


def arrays_of(model):
    """What :func:`weight_arrays` names, of a model."""
    names = ("weights",) if isinstance(model, tsd.AutoregressiveHMM) else (*FACTORS, "core")
    return {name: getattr(model, name) for name in names if getattr(model, name) is not None}


def small_noise(series, num_states):
    """An inverse-Wishart prior of the covariances worth a few steps of small noise, so that no state collapses onto few steps.

    For the rest the fits are maximum likelihood, for all models alike.
    """
    size = series.shape[-1]
    small = PRIOR_SCALE * np.var(np.diff(series, axis=-2).reshape(-1, size), axis=0).mean()
    prior = dist.InverseWishart(size + 2.0, scale_matrix=jnp.asarray(small * np.eye(size)))
    return {"noise.covariance_matrix": prior.expand([num_states])}


def fit(train, length, test, ranks, *, num_states, num_lags, num_restarts, seed):
    """The best of several fits to the first ``length`` steps of ``train``, scored on ``test``.

    Series of one size with a length of their own, so that fits to several lengths are compiled once.

    Args:
        train, test: series ``(T, N)``.
        ranks: None for the dense weights, an integer for CP, ``(D1, D2, D3)`` for Tucker.
    """
    found = select_low_rank(
        train,
        test,
        ranks=[ranks],
        num_lags=[num_lags],
        num_states=num_states,
        key=random.key(seed),
        priors=small_noise(train[:length], num_states),
        num_restarts=num_restarts,
        num_iters=NUM_ITERS,
        tol=TOL,
        lengths=jnp.asarray(length),
        progress_bar=False,
    )
    best = found.distributions[0]
    return Fit(best, int(found.num_weights[0]), float(found.log_likelihoods[0]), float(found.held_out[0]))


def with_ridge(dense, train, length, test, *, num_restarts, seed):
    """The dense model under independent normal priors of its weights, the first start its maximum likelihood fit.

    It is written as a Tucker model of full rank whose factors are held at the identity, so that every step is exact.
    """
    old = dense.distribution
    identities = {
        name: jnp.eye(n)[None] for name, n in zip(FACTORS, (*old.weights.shape[2:], old.num_lags), strict=True)
    }
    arrays = identities | {"core": old.weights.transpose(0, 2, 3, 1)}
    chain = old.initial_probs, old.transition_probs
    start = build(arrays, chain, old.noise, num_steps=len(train), lengths=jnp.asarray(length))
    priors = small_noise(train[:length], old.num_states) | {"core": dist.Normal(0.0, RIDGE)}
    options = {
        "fixed": FACTORS,
        "num_iters": NUM_ITERS,
        "tol": TOL,
        "num_restarts": num_restarts,
        "key": random.key(seed),
    }
    best = em(start, train, priors=priors, **options).distribution
    held_out = nats_per_step(_on_series(best, num_steps=len(test)), test)
    return Fit(best, dense.num_weights, nats_per_step(best, train), held_out)


def compare(models, trains, lengths, test, states, *, num_restarts, **sizes):
    """Rows of :data:`COLUMNS`: for each length and model the mean over several training series, and the range.

    Args:
        models: ``name -> ranks``; the last is dense, and is followed by its form with a ridge.
        trains: series ``(T, N)``, independent of each other and of ``test``.
        lengths: how many steps of each are fitted.
        states: of the unseen series ``test``.
        sizes: ``num_states`` and ``num_lags``.
    """
    for length in lengths:
        for name, ranks in models.items():
            fits = [
                fit(train, length, test, ranks, num_restarts=num_restarts, seed=seed, **sizes)
                for seed, train in enumerate(trains)
            ]
            yield _cells(name, length, fits, test, states)
        fits = [
            with_ridge(old, train, length, test, num_restarts=min(num_restarts, 2), seed=s)
            for s, (old, train) in enumerate(zip(fits, trains, strict=True))
        ]
        yield _cells(f"{name}, ridge", length, fits, test, states)


def _cells(name, length, fits, test, states):
    right = [accuracy(found.distribution, test, states) for found in fits]
    scores = [_mean_and_range(values, 2) for values in zip(*((f.seen, f.held_out) for f in fits), strict=True)]
    return [name, f"{fits[0].num_weights:,}", f"{length:,}", _mean_and_range(right, 3), *scores]


def _mean_and_range(values, digits):
    mean, low, high = (f"{value:.{digits}f}" for value in (np.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def nats_per_step(model, series):
    """Log-likelihood for each step that is scored."""
    total, steps = _score(model, series)
    return float(total / steps)


def accuracy(model, series, states):
    """How many steps of the most likely path are right once states are matched, among those that are scored."""
    found = np.asarray(_best_path(_on_series(model, num_steps=len(series)), series))
    seen = found >= 0
    together = np.zeros((model.num_states,) * 2)
    np.add.at(together, (found[seen], np.asarray(states)[seen]), 1)
    return together[linear_sum_assignment(-together)].sum() / together.sum()


def _on_series(model, **options):
    chain = model.initial_probs, model.transition_probs
    return build(arrays_of(model), chain, model.noise, num_conditioned=model.num_conditioned, **options)


@jax.jit
def _score(model, series):
    return model.log_prob(series).sum(), model.scored_steps(series).sum()


@jax.jit
def _best_path(model, series):
    return model.latent_mode(series)["states"]
