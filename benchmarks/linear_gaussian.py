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

from tsppl.messages import AffineGaussian, Gaussian, kalman_filter, kalman_smoother, sample_trajectory

OPERATIONS = ("value", "value and gradient", "smoother", "FFBS")
# dynamax adds 1e-9 to the diagonals it inverts, which moves its float64 gradients in the seventh digit.
TOLERANCE = {"float32": 2e-3, "float64": 1e-5}


class Model(NamedTuple):
    """As many observed as latent dimensions; roots are Cholesky factors of covariances."""

    initial_mean: Any
    initial_root: Any
    weights: Any
    noise_root: Any
    emission_matrix: Any
    emission_root: Any


def simulate(case, dtype):
    """A stable model that turns slowly, and its observations ``(batch, T, D)``."""
    size, num_steps, batch = case
    generator = np.random.default_rng(size)
    rotation, _ = np.linalg.qr(np.eye(size) + 0.2 * np.tril(generator.standard_normal((size, size)), -1))
    noise_root = 0.3 * (np.eye(size) + 0.2 * np.tril(generator.standard_normal((size, size)), -1))
    emission_matrix = generator.standard_normal((size, size))
    emission_root = 0.5 * (np.eye(size) + 0.2 * np.tril(generator.standard_normal((size, size)), -1))
    model = Model(np.zeros(size), np.eye(size), 0.95 * rotation, noise_root, emission_matrix, emission_root)
    trajectory = np.empty((num_steps, batch, size))
    trajectory[0] = generator.standard_normal((batch, size))
    noise = generator.standard_normal((num_steps, batch, size)) @ noise_root.T
    for step in range(1, num_steps):
        trajectory[step] = trajectory[step - 1] @ model.weights.T + noise[step]
    values = trajectory @ emission_matrix.T + generator.standard_normal(trajectory.shape) @ emission_root.T
    return Model(*(array.astype(dtype) for array in model)), np.ascontiguousarray(values.swapaxes(0, 1), dtype)


def tsppl_functions():
    def parts(model):
        zero = jnp.zeros_like(model.initial_mean)
        return (
            Gaussian(model.initial_mean, model.initial_root),
            AffineGaussian(model.weights, zero, model.noise_root),
            AffineGaussian(model.emission_matrix, zero, model.emission_root),
        )

    def smoother(key, model, values):
        marginals = kalman_smoother(*parts(model), values)
        return marginals.means, marginals.scale_trils

    return {
        "value": lambda key, model, values: kalman_filter(*parts(model), values).log_normalizers.sum(),
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

    return {
        "value": lambda key, model, values: inference.lgssm_filter(params(model), values).marginal_loglik,
        "smoother": smoother,
        "FFBS": lambda key, model, values: inference.lgssm_posterior_sample(key, params(model), values),
    }


def jax_entry(functions, operation, key, model, values):
    """One jitted function for the whole operation, so that what is not returned is not computed."""
    function = functions["value" if operation == "value and gradient" else operation]
    if len(values) == 1:
        values = values[0]
    else:
        key = jax.random.split(key, len(values))
        function = jax.vmap(function, in_axes=(0, None, 0))
    arguments = key, jax.tree.map(jnp.asarray, model), jnp.asarray(values)
    if operation == "value and gradient":
        return Entry(jax.jit(jax.value_and_grad(lambda *a: function(*a).sum(), argnums=1)), arguments)
    return Entry(jax.jit(function), arguments)


def statsmodels_entry(operation, model, sequences):
    """statsmodels' compiled filter and smoothers with their default options, one sequence after another."""
    from statsmodels.tsa.statespace.kalman_smoother import SMOOTHER_STATE, SMOOTHER_STATE_COV
    from statsmodels.tsa.statespace.simulation_smoother import SIMULATION_STATE, SimulationSmoother

    def bind(values):
        size = values.shape[1]
        ssm = SimulationSmoother(k_endog=size, k_states=size, k_posdef=size)
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

    function = {"value": lambda ssm, _: ssm.loglike(), "smoother": smoother, "FFBS": draw}[operation]

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
        for name, output in outputs.items():
            assert_close(f"{operation}: {name} and {OURS}, {case}", outputs[OURS], output, TOLERANCE[dtype])

    functions = {OURS: tsppl_functions()} | ({"dynamax": dynamax_functions()} if "dynamax" in libraries else {})
    for operation in OPERATIONS:
        entries = {name: jax_entry(functions[name], operation, key, model, values) for name in functions}
        if "statsmodels" in libraries and operation != "value and gradient":
            entries["statsmodels"] = statsmodels_entry(operation, model, values)
        yield Comparison(operation, entries, lambda outputs, operation=operation: check(operation, outputs))


BENCHMARK = Benchmark(
    title="Linear-Gaussian models",
    size_name="D",
    peers={"dynamax": ("float32", "float64"), "statsmodels": ("float64",)},
    quick_cases=(Case(2, 1_000, 1), Case(4, 1_000, 16)),
    full_cases=(
        *(Case(size, 1_000, 1) for size in (2, 4, 8)),
        *(Case(2, 100_000, 1), Case(4, 100_000, 1), Case(8, 10_000, 1)),
        *(Case(size, 1_000, 256) for size in (2, 4, 8)),
    ),
    comparisons=comparisons,
    notes="As many observed as latent dimensions. To bound the run, D = 8 has 10,000 steps where others have 100,000.",
)

if __name__ == "__main__":
    run(BENCHMARK)
