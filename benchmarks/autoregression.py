"""Means of a switching autoregression: one product in stretches beside a copy of the data with a lag axis, a sum over
lags, and a convolution. The gradient is with respect to weights and series.

Where the weights have low rank, the means go through the factors, with one product for each block of steps; beside that a
sum over the lags of the projected series, and the dense weights. The gradient is with respect to factors and series.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _timing import OURS, Benchmark, Case, Comparison, Entry, assert_close, run
from jax import lax

from tsppl.messages.autoregressive.conditional_means import conditional_means
from tsppl.messages.autoregressive.low_rank import dense_weights, low_rank_means

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


def low_rank(factors, values):
    output_factors, input_factors, lag_factors, core = factors
    return low_rank_means(output_factors, input_factors, lag_factors, core, values)


def low_rank_by_dense_weights(factors, values):
    return conditional_means(dense_weights(*factors), values)


def low_rank_by_lag(factors, values):
    output_factors, input_factors, lag_factors, core = factors
    num_lags = lag_factors.shape[1]
    projected = jnp.einsum("tj,kje->tke", values, input_factors)
    flat = projected.reshape(len(values), -1)
    lagged = [_lagged(flat, num_lags, lag).reshape(projected.shape) for lag in range(num_lags)]
    if core is None:
        combined = sum(lag_factors[:, lag] * series for lag, series in enumerate(lagged))
    else:
        matrices = jnp.einsum("kdef,klf->klde", core, lag_factors)
        combined = sum(jnp.einsum("kde,tke->tkd", matrices[:, lag], series) for lag, series in enumerate(lagged))
    return jnp.einsum("tkd,kid->tki", combined, output_factors)


FORMS = {"copy of lags": by_copy, "lag by lag": by_lag, "convolution": by_convolution, "dense weights": None}
LOW_RANK_FORMS = {"lag by lag": low_rank_by_lag, "dense weights": low_rank_by_dense_weights}


def comparisons(case, dtype, libraries):
    size, num_steps, _ = case
    generator = np.random.default_rng(0)
    values = jnp.asarray(generator.standard_normal((num_steps, size)), dtype)

    def draw(*shape):
        return jnp.asarray(generator.standard_normal((NUM_STATES,) + shape), dtype)

    for num_lags in (3, 20):
        weights = draw(num_lags, size, size) / (num_lags * size)
        functions = {OURS: conditional_means} | {name: FORMS[name] for name in libraries if FORMS.get(name)}
        yield from _value_and_gradient(f"{num_lags} lags", functions, (weights, values), dtype)
    functions = {OURS: low_rank} | {name: LOW_RANK_FORMS[name] for name in libraries if name in LOW_RANK_FORMS}
    for kind, rank in (("CP", 5), ("CP", 10), ("Tucker", 5)):
        for num_lags in (3, 50):
            factors = [draw(size, rank), draw(size, rank) / size, draw(num_lags, rank) / num_lags, None]
            if kind == "Tucker":
                factors[3] = draw(rank, rank, rank) / rank
            label = f"{kind} of rank {rank}, {num_lags} lags"
            yield from _value_and_gradient(label, functions, (factors, values), dtype)


def _value_and_gradient(label, functions, arguments, dtype):
    if dtype == "float64":
        functions = {name: function for name, function in functions.items() if name != "convolution"}  # takes minutes

    def check(outputs):
        for name, output in outputs.items():
            assert_close(f"{name}, {label}", outputs[OURS], output, TOLERANCE[dtype])

    for operation in ("value", "gradient"):
        entries = {}
        for name, function in functions.items():
            total = jax.grad(lambda *a, function=function: (function(*a) ** 2).sum(), argnums=(0, 1))
            entries[name] = Entry(jax.jit(function if operation == "value" else total), arguments)
        yield Comparison(f"{operation}, {label}", entries, check)


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
