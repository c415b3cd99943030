"""Kalman filter, smoother, draws and left-out terms against dense joint Gaussians; roots; float32; derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.test_util import check_grads

from tests.helpers import assert_allclose
from tests.reference.linear_gaussian import DenseModel, blocks, condition, normal_divergence, normal_log_density
from tsppl.messages.linear_gaussian.chain import (
    chain_divergence,
    chain_entropy,
    chain_left_out,
    chain_log_prob_steps,
    chain_marginals,
    simulate_chain,
)
from tsppl.messages.linear_gaussian.filter import kalman_filter
from tsppl.messages.linear_gaussian.information import InformationMatrix
from tsppl.messages.linear_gaussian.roots import lower_root
from tsppl.messages.linear_gaussian.smoother import kalman_left_out, kalman_smoother, sample_trajectory, tilt_chain
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian

T, D, N = 6, 3, 2
METHODS = ("sequential", "parallel")
BOTH = ("sequential", pytest.param("parallel", marks=pytest.mark.slow))  # associative scans are slow to compile


def covariance(root):
    return np.asarray(root) @ np.swapaxes(root, -1, -2)


def make_model(seed, *, width=D, varying=False, singular=False, offset=0.0):
    """Initial, dynamics, emission, values and an elementwise mask with one empty step."""
    generator = np.random.default_rng(seed)
    rows = ((T - 1,), (T,)) if varying else ((), ())
    weights, root = 0.5 * generator.normal(size=rows[0] + (D, D)), generator.normal(size=rows[0] + (D, width))
    if singular:
        weights[..., -1, :], root[..., -1, :] = 0, 0
    initial = Gaussian(offset + generator.normal(size=D), np.tril(generator.normal(size=(D, D))) + 2 * np.eye(D))
    dynamics = AffineGaussian(weights, generator.normal(size=rows[0] + (D,)), root)
    emission = AffineGaussian(
        generator.normal(size=rows[1] + (N, D)),
        generator.normal(size=(T, N)),
        np.tril(generator.normal(size=rows[1] + (N, N))) + 2 * np.eye(N),
    )
    observed = generator.random((T, N)) < 0.6
    observed[2] = False
    return jax.tree.map(jnp.asarray, (initial, dynamics, emission, offset + generator.normal(size=(T, N)), observed))


def as_dense(initial, dynamics, emission=None):
    def rows(step, count):
        parts = (step.weights, step.bias, covariance(step.root))
        return [np.broadcast_to(a, (count,) + a.shape[a.ndim - n :]) for a, n in zip(parts, (2, 1, 2), strict=True)]

    emission = [] if emission is None else rows(emission, T)
    return DenseModel(np.asarray(initial.mean), covariance(initial.root), *rows(dynamics, T - 1), *emission)


CASES = {
    "full noise": {"seed": 0},
    "one driving noise": {"seed": 1, "width": 1},
    "singular prediction": {"seed": 2, "width": 1, "singular": True},
    "time-varying": {"seed": 3, "width": 5, "varying": True},
}


@partial(jax.jit, static_argnames="method")
def answers(*arguments, method="auto"):
    """Filtered, smoothed and left-out terms in one program."""
    return [function(*arguments, method=method) for function in (kalman_filter, kalman_smoother, kalman_left_out)]


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("case", CASES)
def test_messages_equal_the_dense_joint_gaussian(case, method):
    initial, dynamics, emission, values, observed = make_model(**CASES[case])
    dense = as_dense(initial, dynamics, emission)
    filtered, smoothed, left_out = answers(initial, dynamics, emission, values, observed, method=method)
    values, observed = np.asarray(values), np.asarray(observed)
    assert_allclose(filtered.log_normalizers.sum(), dense.log_prob(values, observed))
    assert_allclose(filtered.log_normalizers, dense.log_prob_steps(values, observed))
    assert_allclose(left_out, dense.log_prob_left_out(values, observed))
    means, covariances = dense.filtered(values, observed)
    assert_allclose(filtered.filtered.mean, means)
    assert_allclose(covariance(filtered.filtered.root), covariances)
    means, covariances, cross_covariances = blocks(*dense.posterior(values, observed), D)
    assert_allclose(smoothed.means, means)
    assert_allclose(covariance(smoothed.scale_trils), covariances)
    assert_allclose(smoothed.cross_covariances, cross_covariances)
    assert_allclose(jnp.triu(smoothed.scale_trils, 1), 0.0)
    assert (jnp.diagonal(smoothed.scale_trils, axis1=-2, axis2=-1) >= 0).all()


@pytest.mark.parametrize("method", BOTH)
def test_full_data_and_a_large_initial_mean(method):
    initial, dynamics, emission, values, observed = make_model(4, offset=1e6)
    everything = np.ones((T, N), bool)
    dense = as_dense(initial, dynamics, emission)
    filtered, smoothed, left_out = answers(initial, dynamics, emission, values, None, method=method)
    assert_allclose(filtered.log_normalizers, dense.log_prob_steps(np.asarray(values), everything), rtol=1e-8)
    assert_allclose(left_out, dense.log_prob_left_out(np.asarray(values), everything), rtol=1e-8)
    assert_allclose(smoothed.means, blocks(*dense.posterior(np.asarray(values), everything), D)[0], rtol=1e-12)


@pytest.mark.parametrize("method", BOTH)
def test_one_step(method):
    initial, dynamics, emission, values, _ = make_model(0)
    emission = emission._replace(bias=emission.bias[0])
    expected = normal_log_density(
        np.asarray(values[0]),
        np.asarray(emission.weights @ initial.mean + emission.bias),
        covariance(emission.weights @ initial.root) + covariance(emission.root),
    )
    filtered, smoothed, left_out = answers(initial, dynamics, emission, values[:1], None, method=method)
    assert_allclose(filtered.log_normalizers, np.array([expected]))
    assert_allclose(left_out, np.array([expected]))
    assert_allclose(smoothed.means, filtered.filtered.mean)


@pytest.mark.parametrize("case", [pytest.param("full noise", marks=pytest.mark.slow), "singular prediction"])
def test_draws_have_the_posterior_moments(case, key):
    initial, dynamics, emission, values, observed = make_model(**CASES[case])
    mean, expected = as_dense(initial, dynamics, emission).posterior(np.asarray(values), np.asarray(observed))
    keys = random.split(key, 20_000)
    draws = {
        method: jax.vmap(
            lambda key, method=method: sample_trajectory(
                key, initial, dynamics, emission, values, observed, method=method
            )
        )
        for method in METHODS
    }
    sequential = jax.jit(draws["sequential"])(keys)
    assert_allclose(jax.jit(draws["parallel"])(keys[:2]), sequential[:2])
    flat = np.asarray(sequential).reshape(len(keys), -1)
    scales = np.sqrt(np.diag(expected))
    error = np.where(scales > 1e-9, np.abs(flat.mean(0) - mean) / np.maximum(scales, 1e-9), np.abs(flat.mean(0) - mean))
    assert error.max() < 5 / np.sqrt(len(keys))
    floor = np.maximum(np.outer(scales, scales), 1e-12)
    assert np.abs((np.cov(flat.T) - expected) / floor).max() < 8 / np.sqrt(len(keys))


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("case", ["full noise", "one driving noise", "time-varying"])
def test_tilted_chain_equals_the_dense_product(case, method):
    initial, dynamics, *_ = make_model(**CASES[case])
    generator = np.random.default_rng(5)
    factors = generator.normal(size=(T, D, 2))
    precisions, shifts = factors @ np.swapaxes(factors, -1, -2), generator.normal(size=(T, D))
    precisions[1], shifts[1] = 0, 0

    @jax.jit
    def answers(initial, dynamics, information):
        tilted = tilt_chain(initial, dynamics, information, method=method)
        return tilted.log_normalizer, chain_marginals(tilted.initial, tilted.dynamics, T, method=method)

    information = InformationMatrix(jnp.asarray(precisions), jnp.asarray(shifts))
    log_normalizer, marginals = answers(initial, dynamics, information)
    dense = as_dense(initial, dynamics)
    precision = np.zeros((T * D, T * D))
    for t in range(T):
        precision[t * D : (t + 1) * D, t * D : (t + 1) * D] = precisions[t]
    shift = shifts.ravel()
    inner = np.eye(T * D) + dense.covariance @ precision
    posterior = np.linalg.solve(inner, dense.covariance)
    mean = np.linalg.solve(inner, dense.mean + dense.covariance @ shift)
    quadratic = dense.mean @ shift - 0.5 * dense.mean @ precision @ dense.mean
    residual = shift - precision @ dense.mean
    expected = quadratic + 0.5 * residual @ posterior @ residual - 0.5 * np.linalg.slogdet(inner)[1]
    assert_allclose(log_normalizer, expected)
    means, covariances, cross_covariances = blocks(mean, posterior, D)
    assert_allclose(marginals.means, means)
    assert_allclose(covariance(marginals.scale_trils), covariances)
    assert_allclose(marginals.cross_covariances, cross_covariances)


@pytest.mark.parametrize("method", BOTH)
def test_tilting_by_nothing_changes_nothing(method):
    initial, dynamics, *_ = make_model(0)
    nothing = InformationMatrix(jnp.zeros((T, D, D)), jnp.zeros((T, D)))
    tilted = jax.jit(lambda *a: tilt_chain(*a, method=method))(initial, dynamics, nothing)
    assert float(tilted.log_normalizer) == 0.0
    assert (tilted.initial.mean == initial.mean).all()
    assert (tilted.initial.root == initial.root).all()
    for tilted_field, field in zip(tilted.dynamics, dynamics, strict=True):
        assert (tilted_field == field).all()


def test_chain_quantities_equal_the_dense_joint_gaussian():
    initial, dynamics, *_ = make_model(6)
    other_initial, other_dynamics, *_ = make_model(7, varying=True)
    triangular = [step._replace(root=lower_root(step.root, D)) for step in (dynamics, other_dynamics)]
    dense, other = as_dense(initial, dynamics), as_dense(other_initial, other_dynamics)
    flat = np.random.default_rng(8).normal(size=T * D)
    trajectory = jnp.asarray(flat).reshape(T, D)

    terms = jax.jit(chain_log_prob_steps)(initial, triangular[0], trajectory)
    totals = [0.0] + [
        normal_log_density(flat[: t * D], dense.mean[: t * D], dense.covariance[: t * D, : t * D])
        for t in range(1, T + 1)
    ]
    assert_allclose(terms, np.diff(totals))

    left_out = []
    for t in range(T):
        here = np.arange(t * D, (t + 1) * D)
        rest = np.setdiff1d(np.arange(T * D), here)
        law = condition(
            dense.mean[here],
            dense.covariance[np.ix_(here, here)],
            dense.covariance[np.ix_(here, rest)],
            dense.covariance[np.ix_(rest, rest)],
            flat[rest] - dense.mean[rest],
        )
        left_out.append(normal_log_density(flat[here], *law))
    assert_allclose(jax.jit(chain_left_out)(initial, triangular[0], trajectory), np.array(left_out), rtol=1e-8)

    log_determinant = np.linalg.slogdet(2 * np.pi * np.e * dense.covariance)[1]
    assert_allclose(chain_entropy(initial, triangular[0], T), 0.5 * log_determinant)
    divergence = jax.jit(lambda *arguments: chain_divergence(*arguments, T))
    for step, other_step, direction in ((*triangular, 1), (*triangular[::-1], -1)):
        (first, law), (second, other_law) = [(initial, dense), (other_initial, other)][::direction]
        expected = normal_divergence(law.mean, law.covariance, other_law.mean, other_law.covariance)
        assert_allclose(divergence(first, step, second, other_step), expected, rtol=1e-8)


def test_simulated_chain_has_the_dense_moments_and_keeps_known_steps(key):
    initial, dynamics, *_ = make_model(1, width=1)
    dense = as_dense(initial, dynamics)
    keys = random.split(key, 20_000)
    draws = jax.jit(jax.vmap(lambda key: simulate_chain(key, initial, dynamics, T)))(keys)
    flat, scales = np.asarray(draws).reshape(len(keys), -1), np.sqrt(np.diag(dense.covariance))
    assert np.abs((flat.mean(0) - dense.mean) / scales).max() < 5 / np.sqrt(len(keys))
    assert np.abs((np.cov(flat.T) - dense.covariance) / np.outer(scales, scales)).max() < 8 / np.sqrt(len(keys))
    assert_allclose(simulate_chain(keys[0], initial, dynamics, T, method="parallel"), draws[0])

    known, kept = jnp.arange(T) < 3, jnp.full((T, D), 7.0).at[3:].set(jnp.nan)

    @partial(jax.jit, static_argnames="method")
    def continue_chain(key, initial, dynamics, method):
        return simulate_chain(key, initial, dynamics, T, values=kept, known=known, method=method)

    for method in METHODS:
        continued = continue_chain(keys[1], initial, dynamics, method=method)
        assert (continued[:3] == 7.0).all()
        assert jnp.isfinite(continued).all()


def companion(parameters):
    """An ARMA(2, 1) series observed with noise, in the two-dimensional form with one driving noise."""
    coefficients, moving, scale, noise = parameters
    weights = jnp.array([[0.0, 1.0], [0.0, 0.0]]).at[:, 0].set(coefficients)
    root = scale * jnp.stack([jnp.ones(()), moving])[:, None]
    emission = AffineGaussian(jnp.array([[1.0, 0.0]]), jnp.zeros(1), noise * jnp.eye(1))
    return Gaussian(jnp.zeros(2), jnp.eye(2)), AffineGaussian(weights, jnp.zeros(2), root), emission


def seasonal(parameters):
    """Level plus a seasonal of period 4: four dimensions, two driving noises."""
    scales, noise = parameters
    weights = jnp.zeros((4, 4)).at[0, 0].set(1).at[1, 1:].set(-1).at[2, 1].set(1).at[3, 2].set(1)
    root = jnp.zeros((4, 2)).at[0, 0].set(scales[0]).at[1, 1].set(scales[1])
    emission = AffineGaussian(jnp.array([[1.0, 1.0, 0.0, 0.0]]), jnp.zeros(1), noise * jnp.eye(1))
    return Gaussian(jnp.ones(4), 2 * jnp.eye(4)), AffineGaussian(weights, jnp.zeros(4), root), emission


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (companion, (np.array([0.5, 0.3]), 0.4, 0.7, 0.3)),
        (companion, (np.array([0.5, 0.0]), 0.0, 0.7, 0.3)),
        (seasonal, (np.array([0.5, 0.2]), 0.3)),
        (seasonal, (np.array([0.5, 0.0]), 0.3)),
    ],
    ids=["companion", "companion, singular prediction", "seasonal", "seasonal, a noise of zero"],
)
def test_gradients_with_singular_noise_and_missing_data(build, parameters):
    generator = np.random.default_rng(9)
    values = jnp.asarray(generator.normal(size=(8, 1)))
    observed = jnp.asarray(generator.random((8, 1)) < 0.6).at[3].set(False)
    parameters = jax.tree.map(jnp.asarray, parameters)

    @jax.jit
    def log_prob(parameters):
        return kalman_filter(*build(parameters), values, observed).log_normalizers.sum()

    @jax.jit
    def posterior(parameters):
        draw = sample_trajectory(random.key(1), *build(parameters), values, observed)
        smoothed = kalman_smoother(*build(parameters), values, observed)
        return jnp.sin(draw).sum() + jnp.sin(smoothed.means).sum() + jnp.sin(smoothed.cross_covariances).sum()

    check_grads(log_prob, (parameters,), 1, atol=1e-6, rtol=1e-6)
    check_grads(posterior, (parameters,), 1, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_second_derivatives_and_the_parallel_gradient():
    generator = np.random.default_rng(10)
    values = jnp.asarray(generator.normal(size=(5, 1)))
    parameters = (jnp.array([0.5, 0.3]), jnp.asarray(0.4), jnp.asarray(0.7), jnp.asarray(0.3))

    def log_prob(parameters, method="sequential"):
        return kalman_filter(*companion(parameters), values, method=method).log_normalizers.sum()

    check_grads(jax.jit(log_prob), (parameters,), 2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)
    sequential = jax.jit(jax.grad(log_prob))(parameters)
    assert_allclose(jax.jit(jax.grad(lambda p: log_prob(p, "parallel")))(parameters), sequential)


@pytest.mark.parametrize("num_pivots", [0, 2, 4])
def test_derivative_of_a_root_is_that_of_its_covariance(num_pivots):
    root = jnp.asarray(np.random.default_rng(11).normal(size=(4, 6)))

    @jax.jit
    def derivatives(root):
        def through_root(root):
            factor = lower_root(root, num_pivots)
            return jnp.sin(factor @ factor.T).sum()

        def direct(root):
            return jnp.sin(root @ root.T).sum()

        values = lower_root(root, num_pivots), jnp.linalg.cholesky(root @ root.T)
        gradients = jax.grad(through_root)(root), jax.grad(direct)(root)
        hessians = jax.hessian(through_root)(root), jax.hessian(direct)(root)
        pivots = jax.jacobian(lambda root: lower_root(root, num_pivots)[:num_pivots])(root)
        expected = jax.jacobian(lambda root: jnp.linalg.cholesky(root @ root.T)[:num_pivots])(root)
        return values, gradients, hessians, (pivots, expected)

    for actual, desired in derivatives(root):
        assert_allclose(actual, desired)
    if num_pivots < 4:
        assert_allclose(*derivatives(root.at[3].set(root[0] - root[2]))[1])


def stress_model(name):
    """Hard cases for float32, `T` = 2000: weights, noise root, emission weights, emission scale, initial mean."""
    trend = np.array([[1.0, 1.0], [0.0, 1.0]])
    season = np.zeros((5, 5))
    season[:2, :2], season[2, 2:], season[3, 2], season[4, 3] = trend, -1, 1, 1
    season_root = np.zeros((5, 3))
    season_root[0, 0], season_root[1, 1], season_root[2, 2] = 1, 0.01, 0.1
    return {
        "long random walk": (np.eye(1), np.eye(1), np.eye(1), 1.0, 0.0),
        "exact observations": (np.eye(1), np.eye(1), np.eye(1), 1e-3, 0.0),
        "tiny noise": (np.eye(1), 1e-4 * np.eye(1), np.eye(1), 1.0, 0.0),
        "seasonal, nearly exact": (season, season_root, np.array([[1.0, 0, 1, 0, 0]]), 1e-2, 0.0),
        "large initial mean": (0.99 * np.eye(1), np.eye(1), np.eye(1), 1.0, 1e4),
    }[name]


@pytest.mark.parametrize(
    ("name", "step_bound", "sum_bound"),
    [
        ("long random walk", 1e-4, 2e-3),
        ("exact observations", 2e-3, 2e-2),
        ("tiny noise", 1e-4, 2e-3),
        pytest.param("seasonal, nearly exact", 2e-3, 2e-2, marks=pytest.mark.slow),
        ("large initial mean", 1e-2, 1e-1),
    ],
)
def test_float32_stays_close_to_float64(name, step_bound, sum_bound, key):
    """Bounds in nats, for one step and for the sum of 2000; on the same, float32, numbers."""
    weights, root, look, noise, mean = stress_model(name)
    size, steps = len(weights), 2000
    initial = Gaussian(jnp.full(size, mean), jnp.eye(size))
    dynamics = AffineGaussian(weights, jnp.zeros(size), root)
    emission = AffineGaussian(look, jnp.zeros(1), noise * jnp.eye(1))
    chain_key, noise_key, mask_key = random.split(key, 3)
    trajectory = simulate_chain(chain_key, initial, dynamics, steps)
    values = trajectory @ look.T + noise * random.normal(noise_key, (steps, 1))
    observed = random.bernoulli(mask_key, 0.9, (steps, 1))
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (initial, dynamics, emission, values))
    double = jax.tree.map(lambda a: a.astype(jnp.float64), single)

    filtered32, smoothed32, left_out32 = answers(*single, observed)
    filtered64, smoothed64, left_out64 = answers(*double, observed)
    steps32, steps64 = filtered32.log_normalizers, filtered64.log_normalizers
    assert steps32.dtype == left_out32.dtype == smoothed32.scale_trils.dtype == jnp.float32
    assert jnp.abs(steps32 - steps64).max() < step_bound
    assert jnp.abs(left_out32 - left_out64).max() < step_bound
    assert jnp.abs(steps32.astype(jnp.float64).sum() - steps64.sum()) < sum_bound
    scales = jnp.sqrt((smoothed64.scale_trils**2).sum(-1))
    assert (jnp.abs(smoothed32.means - smoothed64.means) / scales).max() < 2e-2
