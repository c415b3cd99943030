"""What the scripts share: models fitted in the same way, scored on the same steps, and tables."""

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
from tsppl.inference import data_driven_start, em

sys.path.append(str(Path(__file__).parents[2]))
from _timing import _environment, _row  # noqa: E402

STAYS, PRIOR_SCALE = 0.95, 1e-3
FACTORS = ("output_factors", "input_factors", "lag_factors")


class Fit(NamedTuple):
    """A fitted model, the count of numbers in its weights, and nats per step on series that it has not seen."""

    distribution: Any
    num_weights: int
    held_out: float


def is_quick(title):
    """Read the command line, switch to float64, and say where the numbers come from."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="small sizes, under half a minute")
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


def count(arrays):
    """How many numbers there are."""
    return sum(array.size for array in arrays.values())


def template(series, ranks, *, num_states, num_lags, num_conditioned=None):
    """A model of these sizes, its weights zero, to start from."""
    size = series.shape[-1]
    chain = jnp.full(num_states, 1 / num_states), jnp.ones((1, 1))
    if num_states > 1:
        away = (1 - STAYS) / (num_states - 1)
        chain = chain[0], (STAYS - away) * jnp.eye(num_states) + away
    noise = dist.MultivariateNormal(jnp.zeros(size), jnp.eye(size))
    arrays = weight_arrays(ranks, num_states, num_lags, size)
    return build(arrays, chain, noise, num_steps=series.shape[-2], num_conditioned=num_conditioned)


def fit(train, test, ranks, *, num_restarts=4, num_iters=100, seed=0, **sizes):
    """The best of several fits to ``train`` from starts read off the data, scored on ``test``.

    Args:
        train, test: series ``(..., T, N)``.
        ranks: None for the dense weights, an integer for CP, ``(D1, D2, D3)`` for Tucker.
        num_restarts, num_iters, seed: number of starts, of EM iterations from each, and their random key.
        sizes: of :func:`template`.
    """
    bare = template(train, ranks, **sizes)
    keys = random.split(random.key(seed), num_restarts)
    fits = [climb(data_driven_start(key, bare, train), train, num_iters) for key in keys]
    best = max(fits, key=lambda found: float(found.log_likelihoods[-1])).distribution
    return Fit(best, count(arrays_of(best)), nats_per_step(best, test))


def climb(start, train, num_iters=100):
    """EM from one start.

    The covariances have an inverse-Wishart prior worth a few steps of small noise, so that no state can collapse onto few
    steps; for the rest this is maximum likelihood, for all models alike.
    """
    size = train.shape[-1]
    small = PRIOR_SCALE * np.var(np.diff(train, axis=-2).reshape(-1, size), axis=0).mean()
    prior = dist.InverseWishart(size + 2.0, scale_matrix=jnp.asarray(small * np.eye(size)))
    priors = {"noise.covariance_matrix": prior.expand([start.num_states])}
    return em(start, train, num_iters=num_iters, tol=1e-5, priors=priors)


def nats_per_step(model, series):
    """Log-likelihood of other series for each step that is scored."""
    total, steps = _score(_of_length(model, series), series)
    return float(total / steps)


def accuracy(model, series, states):
    """How many steps of the most likely path are right once states are matched, among those that are scored."""
    found = np.asarray(_best_path(_of_length(model, series), series))
    seen = found >= 0
    together = np.zeros((model.num_states,) * 2)
    np.add.at(together, (found[seen], np.asarray(states)[seen]), 1)
    return together[linear_sum_assignment(-together)].sum() / together.sum()


def _of_length(model, series):
    chain = model.initial_probs, model.transition_probs
    options = {"num_steps": series.shape[-2], "num_conditioned": model.num_conditioned}
    return build(arrays_of(model), chain, model.noise, **options)


@jax.jit
def _score(model, series):
    return model.log_prob(series).sum(), model.scored_steps(series).sum()


@jax.jit
def _best_path(model, series):
    return model.latent_mode(series)["states"]
