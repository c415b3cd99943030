"""Gibbs sampling of an autoregressive hidden Markov model: what a sweep costs, and what it is worth beside NUTS.

The states are drawn by forward-backward sampling, weights and noise by the matrix-normal inverse-Wishart, transition rows by
Dirichlet distributions. NUTS runs on the same model with the states summed out, from the same start.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from _timing import _emit, _environment, _row, write_section
from jax import random
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, init_to_value

import tsppl.distributions as tsd
from tsppl import messages
from tsppl.conjugate import regression_statistics
from tsppl.inference import auto_gibbs
from tsppl.inference.gibbs.states.complete_data import CompleteData
from tsppl.inference.gibbs.states.state_regression import regression_conditional

NUM_CALLS = 7


def model(series, num_states, num_lags):
    """Sticky rows; every state its own weights, bias and covariance."""
    size = series.shape[-1]
    sticky = jnp.ones((num_states, num_states)) + 20 * jnp.eye(num_states)
    rows = numpyro.sample("rows", dist.Dirichlet(sticky).to_event(1))
    covariance = numpyro.sample(
        "covariance", dist.InverseWishart(size + 2.0, 0.1 * jnp.eye(size)).expand([num_states]).to_event(1)
    )
    matrix = dist.MatrixNormal(
        jnp.zeros((size, num_lags * size + 1)), jnp.linalg.cholesky(covariance), jnp.eye(num_lags * size + 1)
    )
    weights, bias = tsd.lag_weights(numpyro.sample("coefficients", matrix.to_event(1)))
    process = tsd.AutoregressiveHMM(
        jnp.full(num_states, 1 / num_states),
        rows,
        weights,
        dist.MultivariateNormal(bias, covariance),
        num_steps=len(series),
    )
    numpyro.sample("y", process, obs=series)


def simulate(num_states, size, num_lags, num_steps, seed=0):
    """A series, and the parameters it was drawn from, by site."""
    rng = np.random.default_rng(seed)
    rows = np.full((num_states, num_states), 0.02 / max(num_states - 1, 1))
    np.fill_diagonal(rows, 0.98)
    weights = rng.normal(size=(num_states, num_lags, size, size)) * 0.3 / np.sqrt(num_lags * size)
    weights[:, 0] += np.eye(size) * rng.uniform(-0.6, 0.6, (num_states, 1, 1))
    bias = rng.normal(size=(num_states, size))
    noise = np.broadcast_to(0.3 * np.eye(size), (num_states, size, size))
    process = tsd.AutoregressiveHMM(
        jnp.full(num_states, 1 / num_states),
        jnp.asarray(rows),
        jnp.asarray(weights),
        dist.MultivariateNormal(jnp.asarray(bias), scale_tril=jnp.asarray(noise)),
        num_steps=num_steps,
        initial=dist.Normal(jnp.zeros((num_lags, size)), 1.0).to_event(2),
    )
    coefficients = tsd.lag_coefficients(weights, jnp.asarray(bias))
    values = {"rows": rows, "covariance": noise @ noise.swapaxes(1, 2), "coefficients": coefficients}
    return process.sample(random.key(seed)), {name: jnp.asarray(value) for name, value in values.items()}


def sweep_costs(num_states, size, num_lags, num_steps):
    """Milliseconds of a whole sweep and of its parts."""
    series, values = simulate(num_states, size, num_lags, num_steps)
    arguments = (series, num_states, num_lags)
    (block, _), *_ = auto_gibbs(model, *arguments).blocks
    state = block.init(random.key(0), 0, values, arguments, {})

    def data(values, series):
        return CompleteData(model, "y", (series, num_states, num_lags), {}, values)

    def potentials(values, series):
        return data(values, series).distribution.potentials(series)

    def statistics(series, states):
        rows = data(values, series).distribution.regression_rows(series, states.shape[:-1])
        return regression_statistics(rows.inputs, rows.outputs, rows.labels(states), num_states)

    def regression(values, series, states):
        conditional = regression_conditional(data(values, series), states, "coefficients", "covariance")
        return conditional.sample(random.key(1))

    parts = {
        "whole sweep": (lambda state, series: block.sample(state, (series, num_states, num_lags), {}), (state, series)),
        "log-likelihoods of all steps and states": (potentials, (values, series)),
        "states given those (FFBS)": (
            lambda *potentials: messages.sample_path(random.key(0), *potentials),
            jax.jit(potentials)(values, series),
        ),
        "second moments of the regressions": (statistics, (series, state.states)),
        "the same, and weights and noise drawn": (regression, (values, series, state.states)),
    }
    return {name: 1e3 * _seconds(jax.jit(function), arguments) for name, (function, arguments) in parts.items()}


def _seconds(function, arguments):
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(NUM_CALLS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def effective_rates(num_states, size, num_lags, num_steps, num_draws):
    """Effective draws of the weights per second after warm-up, lowest and median over entries, by kernel."""
    series, values = simulate(num_states, size, num_lags, num_steps)
    arguments = (series, num_states, num_lags)
    kernels = {
        "Gibbs": (auto_gibbs(model, *arguments), values, num_draws[0]),
        "NUTS": (NUTS(model, init_strategy=init_to_value(values=values)), None, num_draws[1]),
    }
    found = {}
    for name, (kernel, start, draws) in kernels.items():
        chain = MCMC(kernel, num_warmup=draws, num_samples=draws, progress_bar=False)
        chain.warmup(random.key(0), *arguments, init_params=start)
        chain.run(random.key(1), *arguments)
        chain.post_warmup_state = chain.last_state
        clock = time.perf_counter()
        chain.run(random.key(2), *arguments)
        jax.block_until_ready(chain.get_samples())
        seconds = time.perf_counter() - clock
        effective = effective_sample_size(np.asarray(chain.get_samples()["coefficients"])[None]) / seconds
        found[name] = (draws, seconds, float(effective.min()), float(np.median(effective)))
    return found


def main():
    """Print both tables; keep those of a full run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, only printed")
    quick = parser.parse_args().quick
    heading = f"Gibbs sampling, XLA flags: {os.environ.get('XLA_FLAGS') or 'default'}"
    lines = [_emit(f"## {heading}\n"), _emit(_environment(["numpyro"]) + "\n")]
    num_steps = 5_000 if quick else 100_000
    for dtype in ("float32", "float64"):
        jax.config.update("jax_enable_x64", dtype == "float64")
        lines.append(
            _emit(f"### One sweep, {dtype}: K = 10 states, N = 10 components, L = 3 lags, T = {num_steps:,}\n")
        )
        lines += [_emit(_row(["part", "ms"])), _emit("|---|---:|")]
        lines += [_emit(_row([part, f"{cost:.1f}"])) for part, cost in sweep_costs(10, 10, 3, num_steps).items()]
        lines.append(_emit(""))
    sizes = (3, 2, 2, 300 if quick else 2_000)
    lines.append(
        _emit("### Effective draws of the weights, float64: K = {}, N = {}, L = {}, T = {:,}\n".format(*sizes))
    )
    lines += [
        _emit(_row(["kernel", "draws", "seconds", "effective / s, lowest", "effective / s, median"])),
        _emit("|---" + "|---:" * 4 + "|"),
    ]
    rates = effective_rates(*sizes, (200, 100) if quick else (2_000, 500))
    for name, (draws, seconds, lowest, middle) in rates.items():
        lines.append(_emit(_row([name, f"{draws:,}", f"{seconds:.1f}", f"{lowest:.1f}", f"{middle:.1f}"])))
    ratios = [rates["Gibbs"][i] / rates["NUTS"][i] for i in (2, 3)]
    lines.append(_emit("\nGibbs over NUTS: {:.0f} (lowest entries), {:.0f} (medians).\n".format(*ratios)))
    if not quick:
        write_section(heading, "\n".join(lines))


if __name__ == "__main__":
    main()
