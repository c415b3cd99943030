"""Simulation-based calibration: the parameters that made a data set rank uniformly among draws from their posterior.

Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration". Ranks of parameters
alone miss a posterior that ignores the data; a quantity that reads the data too, such as the log-likelihood, does not
(Modrák et al. 2023).
"""

import jax
import numpy as np
from jax import random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from scipy import stats


def nuts_draws(model, *, num_warmup, num_draws, thinning, **options):
    """A function ``(key, data) -> draws``: one NUTS chain for each of many data sets, compiled once.

    Args:
        model: NumPyro model, called with the entries of `data` as keyword arguments.
        num_warmup: steps of adaptation.
        num_draws: draws kept of each chain.
        thinning: steps from one kept draw to the next; enough that they are nearly independent.
        **options: passed to NUTS.

    Returns:
        A function of a key and a dict of arrays with the data sets on their first axis; its draws have axes
        ``(data set, draw)``.
    """

    def run(key, data):
        kernel = NUTS(model, **options)
        mcmc = MCMC(
            kernel, num_warmup=num_warmup, num_samples=num_draws * thinning, thinning=thinning, progress_bar=False
        )
        mcmc.run(key, **data)
        return mcmc.get_samples()

    run_all = jax.jit(jax.vmap(run))

    def draw(key, data):
        return run_all(random.split(key, len(jax.tree.leaves(data)[0])), data)

    return draw


def simulate(key, generate, num_datasets):
    """Many independent results ``(truth, data)`` of ``generate(key)``."""
    return jax.jit(jax.vmap(generate))(random.split(key, num_datasets))


def from_prior(key, build, *args):
    """``(parameters, result)`` of one run of ``build``, whose sample sites are the parameters."""
    with handlers.trace() as trace, handlers.seed(rng_seed=key):
        result = build(*args)
    return {name: site["value"] for name, site in trace.items()}, result


def given(parameters, build, *args):
    """The result of ``build`` with its sample sites set to ``parameters``."""
    with handlers.block(), handlers.seed(rng_seed=0), handlers.substitute(data=parameters):
        return build(*args)


def calibration_ranks(key, truth, draws, data, quantities, complete=None):
    """Rank of each true quantity among its posterior draws.

    Args:
        key: random key.
        truth: dict of arrays ``(data sets, ...)``: the parameters and the hidden things that made the data.
        draws: dict of arrays ``(data sets, draws, ...)``.
        data: dict of arrays ``(data sets, ...)``.
        quantities: function ``(truth or one draw, data) -> dict of numbers``.
        complete: function ``(key, draw, data) -> dict`` that adds a draw of the hidden things to one of the parameters.

    Returns:
        dict: name of a quantity -> int ranks ``(data sets,)``, each from 0 to the number of draws.
    """
    complete_key, ties_key = random.split(key)
    num_datasets, num_draws = jax.tree.leaves(draws)[0].shape[:2]

    def quantities_of_draw(key, draw, data):
        hidden = {} if complete is None else complete(key, draw, data)
        return quantities(draw | hidden, data)

    over_draws = jax.vmap(quantities_of_draw, in_axes=(0, 0, None))
    keys = random.split(complete_key, (num_datasets, num_draws))
    drawn = jax.jit(jax.vmap(over_draws))(keys, draws, data)
    true = jax.jit(jax.vmap(quantities))(truth, data)
    generator = np.random.default_rng(int(random.bits(ties_key)))
    return {name: ranks(generator, true[name], drawn[name]) for name in true}


def ranks(generator, true, drawn):
    """How many of the draws ``(data sets, draws)`` are below the truth ``(data sets,)``; ties are broken at random."""
    true, drawn = np.asarray(true)[:, None], np.asarray(drawn)
    return (drawn < true).sum(1) + generator.integers(0, (drawn == true).sum(1) + 1)


def uniformity_p_values(ranks, num_draws, num_bins=8):
    """p-value of the chi-square test that ranks are uniform over ``0 .. num_draws``, for each quantity."""
    if (num_draws + 1) % num_bins:
        raise ValueError(f"{num_draws} draws make {num_draws + 1} ranks, which {num_bins} bins do not divide evenly")
    width = (num_draws + 1) // num_bins
    return {
        name: float(stats.chisquare(np.bincount(values // width, minlength=num_bins)).pvalue)
        for name, values in ranks.items()
    }
