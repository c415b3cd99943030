"""Linear-Gaussian messages beside dynamax and statsmodels.

All libraries get the same model and observations, and return the same quantities. Covariances are passed as Cholesky
factors; a library that wants the covariance multiplies them out itself, inside what is timed. statsmodels has float64
only and no gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _timing import OURS, Benchmark, Case, Comparison, Entry, assert_close, run

from tsppl.messages import AffineGaussian, Gaussian, kalman_log_likelihood, kalman_smoother, sample_trajectory

OPERATIONS = ("value", "value and gradient", "smoother", "FFBS")
GENERAL = ("general value", "general value and gradient", "value, missing")
CHANNELS = {8: 20}
MISSING = 0.1
# dynamax adds 1e-9 to the diagonals it inverts, which moves its float64 gradients in the seventh digit.
TOLERANCE = {"float32": 2e-3, "float64": 1e-5}


class Model(NamedTuple):
    """As many observed as latent dimensions, or as ``CHANNELS`` says; roots are Cholesky factors of covariances."""

    initial_mean: Any
    initial_root: Any
    weights: Any
    noise_root: Any
    emission_matrix: Any
    emission_root: Any


def simulate(case, dtype):
    """A stable model that turns slowly, and its observations ``(batch, T, N)``."""
    size, num_steps, batch = case
    channels = CHANNELS.get(size, size)
    generator = np.random.default_rng(size)
    rotation, _ = np.linalg.qr(np.eye(size) + 0.2 * np.tril(generator.standard_normal((size, size)), -1))
    noise_root = 0.3 * (np.eye(size) + 0.2 * np.tril(generator.standard_normal((size, size)), -1))
    emission_matrix = generator.standard_normal((channels, size))
    emission_root = 0.5 * (np.eye(channels) + 0.2 * np.tril(generator.standard_normal((channels, channels)), -1))
    model = Model(np.zeros(size), np.eye(size), 0.95 * rotation, noise_root, emission_matrix, emission_root)
    trajectory = np.empty((num_steps, batch, size))
    trajectory[0] = generator.standard_normal((batch, size))
    noise = generator.standard_normal((num_steps, batch, size)) @ noise_root.T
    for step in range(1, num_steps):
        trajectory[step] = trajectory[step - 1] @ model.weights.T + noise[step]
    values = trajectory @ emission_matrix.T
    values += generator.standard_normal(values.shape) @ emission_root.T
    return Model(*(array.astype(dtype) for array in model)), np.ascontiguousarray(values.swapaxes(0, 1), dtype)


def parts(model):
    """Initial, dynamics and emission, as this library takes them."""
    zeros = [jnp.zeros_like(matrix[:, 0]) for matrix in (model.weights, model.emission_matrix)]
    return (
        Gaussian(model.initial_mean, model.initial_root),
        AffineGaussian(model.weights, zeros[0], model.noise_root),
        AffineGaussian(model.emission_matrix, zeros[1], model.emission_root),
    )


def tsppl_functions():
    def smoother(key, model, values):
        marginals = kalman_smoother(*parts(model), values)
        return marginals.means, marginals.scale_trils

    def general(key, model, values):
        return kalman_log_likelihood(*parts(model), values, jnp.ones(values.shape, bool))

    def missing(key, model, values):
        observed = ~jnp.isnan(values)
        return kalman_log_likelihood(*parts(model), jnp.where(observed, values, 0), observed)

    return {
        "value": lambda key, model, values: kalman_log_likelihood(*parts(model), values),
        "general value": general,
        "value, missing": missing,
        "smoother": smoother,
        "FFBS": lambda key, model, values: sample_trajectory(key, *parts(model), values),
    }


def dynamax_functions():
    from dynamax.linear_gaussian_ssm import inference

    def params(model):
        covariances = [root @ root.T for root in (model.initial_root, model.noise_root, model.emission_root)]
        return inference.make_lgssm_params(
            model.initial_mean, covariances[0], model.weights, covariances[1], model.emission_matrix, covariances[2]
        )

    def smoother(key, model, values):
        posterior = inference.lgssm_smoother(params(model), values)
        return posterior.smoothed_means, posterior.smoothed_covariances

    def value(key, model, values):
        return inference.lgssm_filter(params(model), values).marginal_loglik

    return {
        "value": value,
        "general value": value,
        "value, missing": value,
        "smoother": smoother,
        "FFBS": lambda key, model, values: inference.lgssm_posterior_sample(key, params(model), values),
    }


def jax_entry(functions, operation, key, model, values):
    """One jitted function for the whole operation, so that what is not returned is not computed."""
    function = functions[operation.removesuffix(" and gradient")]
    if len(values) == 1:
        values = values[0]
    else:
        key = jax.random.split(key, len(values))
        function = jax.vmap(function, in_axes=(0, None, 0))
    arguments = key, jax.tree.map(jnp.asarray, model), jnp.asarray(values)
    if operation.endswith(" and gradient"):
        return Entry(jax.jit(jax.value_and_grad(lambda *a: function(*a).sum(), argnums=1)), arguments)
    return Entry(jax.jit(function), arguments)


def statsmodels_entry(operation, model, sequences):
    """statsmodels' compiled filter and smoothers with their default options, one sequence after another."""
    from statsmodels.tsa.statespace.kalman_smoother import SMOOTHER_STATE, SMOOTHER_STATE_COV
    from statsmodels.tsa.statespace.simulation_smoother import SIMULATION_STATE, SimulationSmoother

    def bind(values):
        channels, size = model.emission_matrix.shape
        ssm = SimulationSmoother(k_endog=channels, k_states=size, k_posdef=size)
        if operation == "general value":
            ssm.tolerance = 0
        ssm.smoother_output = SMOOTHER_STATE | SMOOTHER_STATE_COV
        ssm.bind(values)
        ssm["design"], ssm["transition"], ssm["selection"] = model.emission_matrix, model.weights, np.eye(size)
        ssm["obs_cov"] = model.emission_root @ model.emission_root.T
        ssm["state_cov"] = model.noise_root @ model.noise_root.T
        ssm.initialize_known(model.initial_mean, model.initial_root @ model.initial_root.T)
        return ssm, ssm.simulation_smoother() if operation == "FFBS" else None

    def smoother(ssm, _):
        results = ssm.smooth()
        return results.smoothed_state.T, results.smoothed_state_cov.transpose(2, 0, 1)

    def draw(_, simulation):
        simulation.simulate(SIMULATION_STATE)
        return simulation.simulated_state.T

    function = {"smoother": smoother, "FFBS": draw}.get(operation, lambda ssm, _: ssm.loglike())

    def each(bound):
        outputs = [function(*pair) for pair in bound]
        return jax.tree.map(lambda *leaves: np.stack(leaves).squeeze(), *outputs)

    return Entry(each, ([bind(values) for values in sequences],))


def comparisons(case, dtype, libraries):
    model, values = simulate(case, dtype)
    key = jax.random.key(0)
    smoothed = None

    def check(operation, outputs):
        nonlocal smoothed
        if operation == "smoother":
            means, roots = outputs[OURS]
            outputs = outputs | {OURS: (means, roots @ jnp.swapaxes(roots, -1, -2))}
            smoothed = means, roots
        if operation == "FFBS":
            # A draw, whitened by the smoothed marginals, has unit mean square, whichever way it was drawn.
            for name, draws in outputs.items():
                whitened = np.linalg.solve(smoothed[1], (np.asarray(draws) - smoothed[0])[..., None])
                assert abs((whitened**2).mean() - 1) < 10 / np.sqrt(whitened.size), (name, case, (whitened**2).mean())
            return
        if operation == "value, missing":
            outputs = {name: output for name, output in outputs.items() if name != "dynamax"}
        for name, output in outputs.items():
            assert_close(f"{operation}: {name} and {OURS}, {case}", outputs[OURS], output, TOLERANCE[dtype])

    functions = {OURS: tsppl_functions()} | ({"dynamax": dynamax_functions()} if "dynamax" in libraries else {})
    gaps = np.where(np.random.default_rng(0).random(values.shape) < MISSING, np.nan, values).astype(dtype)
    for operation in OPERATIONS + (GENERAL if case.batch == 1 else ()):
        missing = operation == "value, missing"
        entries = {
            name: jax_entry(functions[name], operation, key, model, gaps if missing and name == OURS else values)
            for name in functions
        }
        if "statsmodels" in libraries and not operation.endswith(" and gradient"):
            entries["statsmodels"] = statsmodels_entry(operation, model, gaps if missing else values)
        yield Comparison(operation, entries, lambda outputs, operation=operation: check(operation, outputs))


BENCHMARK = Benchmark(
    title="Linear-Gaussian models",
    size_name="D",
    peers={"dynamax": ("float32", "float64"), "statsmodels": ("float64",)},
    quick_cases=(Case(2, 1_000, 1), Case(4, 1_000, 16)),
    full_cases=(
        *(Case(size, 1_000, 1) for size in (2, 4, 8)),
        *(Case(2, 100_000, 1), Case(2, 10_000, 1), Case(4, 10_000, 1), Case(8, 10_000, 1)),
        *(Case(size, 1_000, 256) for size in (2, 4, 8)),
    ),
    comparisons=comparisons,
    notes=(
        "D = 8 is observed in 20 channels, others in D. To bound the run, only D = 2 has 100,000 steps. The general value "
        "is the same number by the code for matrices that vary in time and data that are missing: tsppl gets a mask that "
        "is True everywhere, statsmodels is kept from taking covariances as constant, and dynamax does what it always "
        "does. In the last operation a tenth of the entries is missing; dynamax cannot express that and gets them all."
    ),
)

if __name__ == "__main__":
    run(BENCHMARK)
