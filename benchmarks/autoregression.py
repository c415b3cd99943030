"""Means of a switching autoregression: one product in stretches beside a copy of the data with a lag axis, a sum over
lags, and a convolution. The gradient is with respect to weights and series.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _timing import OURS, Benchmark, Case, Comparison, Entry, assert_close, run
from jax import lax

from tsppl.messages.autoregression import conditional_means

NUM_STATES = 10
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}


def _lagged(values, num_lags, lag):
    return jnp.pad(values, ((num_lags, 0), (0, 0)))[num_lags - 1 - lag : num_lags - 1 - lag + len(values)]


def by_copy(weights, values):
    num_lags = weights.shape[1]
    lags = jnp.stack([_lagged(values, num_lags, lag) for lag in range(num_lags)], axis=1)
    return jnp.einsum("klij,tlj->tki", weights, lags)


def by_lag(weights, values):
    num_lags = weights.shape[1]
    terms = (jnp.einsum("kij,tj->tki", weights[:, lag], _lagged(values, num_lags, lag)) for lag in range(num_lags))
    return sum(terms)


def by_convolution(weights, values):
    num_states, num_lags, size, _ = weights.shape
    kernel = weights[:, ::-1].transpose(1, 3, 0, 2).reshape(num_lags, size, num_states * size)
    padded = jnp.pad(values[:-1], ((num_lags, 0), (0, 0)))
    means = lax.conv_general_dilated(padded[None], kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    return means.reshape(len(values), num_states, size)


FORMS = {"copy of lags": by_copy, "lag by lag": by_lag, "convolution": by_convolution}


def comparisons(case, dtype, libraries):
    size, num_steps, _ = case
    generator = np.random.default_rng(0)
    values = jnp.asarray(generator.standard_normal((num_steps, size)), dtype)
    for num_lags in (3, 20):
        weights = generator.standard_normal((NUM_STATES, num_lags, size, size)) / (num_lags * size)
        arguments = jnp.asarray(weights, dtype), values
        functions = {OURS: conditional_means} | {name: FORMS[name] for name in libraries if name in FORMS}
        if dtype == "float64":
            functions.pop("convolution")  # it has no fast form in float64, and takes minutes

        def check(outputs, num_lags=num_lags):
            for name, output in outputs.items():
                assert_close(f"{name}, {case}, {num_lags} lags", outputs[OURS], output, TOLERANCE[dtype])

        for operation in ("value", "gradient"):
            entries = {}
            for name, function in functions.items():
                total = jax.grad(lambda *a, function=function: (function(*a) ** 2).sum(), argnums=(0, 1))
                entries[name] = Entry(jax.jit(function if operation == "value" else total), arguments)
            yield Comparison(f"{operation}, {num_lags} lags", entries, check)


BENCHMARK = Benchmark(
    title="Autoregressive means",
    size_name="N",
    peers={},
    forms=tuple(FORMS),
    quick_cases=(Case(10, 1_000, 1),),
    full_cases=(Case(10, 10_000, 1), Case(50, 2_000, 1)),
    comparisons=comparisons,
    notes=f"K = {NUM_STATES} states.",
)

if __name__ == "__main__":
    run(BENCHMARK)
