"""Covariances that settle: evidence, gradients, smoother and draws against the sequential square-root forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from tests.helpers import assert_allclose
from tsppl.messages import AffineGaussian, Gaussian, kalman_filter, kalman_log_likelihood
from tsppl.messages.linear_gaussian.chunked import chunked_value
from tsppl.messages.linear_gaussian.smoother import kalman_smoother, sample_trajectory
from tsppl.messages.linear_gaussian.steady import steady_value
from tsppl.messages.methods import linear_gaussian_method
from tsppl.messages.summation import summed_products
from tsppl.recurrence.affine import constant_recurrence, varying_recurrence

T = 300
NAMES = ("regular", "one driving noise", "more channels")
SLOW = ("unit root, tiny noise", "undetectable")


def make_model(name, seed=0):
    """Biases vary in time. The slow ones settle only after far more than `T` steps, or never."""
    generator = np.random.default_rng(seed)
    size, width, channels = {"regular": (2, 2, 2), "more channels": (2, 3, 5)}.get(name, (2, 1, 1))
    rotation = np.array([[0.6, -0.3], [0.4, 0.5]])
    weights, root = rotation, generator.normal(size=(size, width))
    look = generator.normal(size=(channels, size))
    if name == "unit root, tiny noise":
        weights, root = np.array([[1.0, 1.0], [0.0, 1.0]]), 1e-4 * np.ones((2, 1))
    if name == "undetectable":
        weights, root, look = np.diag([1.05, 0.5]), np.array([[0.0], [1.0]]), np.array([[0.0, 1.0]])
    noise = np.tril(0.3 * generator.normal(size=(channels, channels)), -1) + np.eye(channels)
    initial = Gaussian(generator.normal(size=size), np.array([[3.0, 0.0], [0.5, 1.0]]))
    dynamics = AffineGaussian(weights, generator.normal(size=(T - 1, size)) * (name in NAMES), root)
    emission = AffineGaussian(look, generator.normal(size=(T, channels)), noise)
    values = generator.normal(size=(T, channels)).cumsum(0) * 0.3
    return jax.tree.map(jnp.asarray, (initial, dynamics, emission, values))


def reference(*model, observed=None):
    return kalman_filter(*model, observed, method="sequential").log_normalizers.sum()


def relative_error(actual, desired):
    """Largest error of each leaf relative to its largest entry."""
    errors = jax.tree.map(lambda a, b: jnp.abs(a - b).max() / jnp.abs(b).max(), actual, desired)
    return max(float(error) for error in jax.tree.leaves(errors))


value_and_gradient = jax.jit(jax.value_and_grad(partial(kalman_log_likelihood, method="steady"), argnums=(0, 1, 2, 3)))
reference_gradient = jax.jit(jax.value_and_grad(reference, argnums=(0, 1, 2, 3)))


@pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in (*NAMES[1:], *SLOW))]
)
def test_evidence_and_gradient_equal_the_sequential_ones(name):
    model = make_model(name)
    _, vouched = steady_value(64, *model)
    assert bool(vouched) == (name in NAMES)
    value, gradient = value_and_gradient(*model)
    expected, expected_gradient = reference_gradient(*model)
    assert_allclose(value, expected, rtol=1e-11)
    assert_allclose(kalman_log_likelihood(*model, method="steady"), expected, rtol=1e-11)
    assert relative_error(gradient, expected_gradient) < 1e-8


@pytest.mark.parametrize("name", ["one driving noise", "undetectable"])
def test_smoother_and_draws_equal_the_sequential_ones(name, key):
    """Draw for draw, from the same random numbers."""
    model = make_model(name)

    @partial(jax.jit, static_argnames="method")
    def answers(*model, method):
        return kalman_smoother(*model, method=method), sample_trajectory(key, *model, method=method)

    (marginals, draw), (expected, expected_draw) = (answers(*model, method=m) for m in ("steady", "sequential"))
    assert_allclose(marginals.means, expected.means, rtol=1e-8)
    assert_allclose(marginals.scale_trils @ marginals.scale_trils.mT, expected.scale_trils @ expected.scale_trils.mT)
    assert_allclose(jnp.triu(marginals.scale_trils, 1), 0.0)
    assert_allclose(marginals.cross_covariances, expected.cross_covariances)
    assert_allclose(draw, expected_draw, rtol=1e-8)


@pytest.mark.slow
def test_first_and_second_derivatives_in_both_modes(key):
    """Along a line in all parameters, where everything is a number; and of a smoother and a draw."""
    model = make_model("regular")
    direction = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape)), model)

    def along(function, step):
        return function(*jax.tree.map(lambda a, b: a + step * b, model, direction))

    steady = partial(along, partial(kalman_log_likelihood, method="steady"))
    slow = partial(along, reference)

    @jax.jit
    def derivatives(step):
        def of(function):
            return jax.jacfwd(function)(step), jax.grad(function)(step), jax.hessian(function)(step)

        return of(steady), of(slow)

    assert_allclose(*derivatives(jnp.zeros(())), rtol=1e-8)

    @partial(jax.jit, static_argnames="method")
    def slope(step, method):
        def posterior(*model):
            smoothed, draw = kalman_smoother(*model, method=method), sample_trajectory(key, *model, method=method)
            return jnp.sin(smoothed.means).sum() + jnp.sin(smoothed.cross_covariances).sum() + jnp.sin(draw).sum()

        return jax.grad(partial(along, posterior))(step)

    assert_allclose(slope(jnp.zeros(()), "steady"), slope(jnp.zeros(()), "sequential"), rtol=1e-8)


@pytest.mark.slow
def test_vmap_over_values_and_over_parameters():
    """Shared parameters; then parameters of a settled and of a slow model in one batch."""
    model = make_model("one driving noise")
    slow = make_model("undetectable")
    steady = partial(kalman_log_likelihood, method="steady")
    values = jnp.stack([model[3], 2 * model[3]])

    def total(initial, dynamics, emission, values, function):
        return jax.vmap(function, (None, None, None, 0))(initial, dynamics, emission, values).sum()

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)), static_argnames="function")
    assert relative_error(gradient(*model[:3], values, steady), gradient(*model[:3], values, reference)) < 1e-8
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), model, slow)
    together = jax.jit(jax.vmap(jax.value_and_grad(steady, argnums=(0, 1, 2))))(*both)
    for row, single in enumerate((model, slow)):
        value, expected = reference_gradient(*single)
        assert_allclose(together[0][row], value, rtol=1e-11)
        assert relative_error(jax.tree.map(lambda a, row=row: a[row], together[1]), expected[:3]) < 1e-8


@pytest.mark.slow
def test_float32_stays_close_to_float64(key):
    """One sequence of 100,000 steps; the sum, -1.1e6 nats, is spaced by 0.125 in float32."""
    model = make_model("regular")
    steps = 100_000
    initial, dynamics, emission, _ = jax.tree.map(lambda a: a.astype(jnp.float32), model)
    dynamics, emission = dynamics._replace(bias=dynamics.bias[0]), emission._replace(bias=emission.bias[0])
    values = random.normal(key, (steps, 2), jnp.float32)
    single = (initial, dynamics, emission, values)
    double = jax.tree.map(lambda a: a.astype(jnp.float64), single)
    value, gradient = value_and_gradient(*single)
    expected, expected_gradient = value_and_gradient(*double)
    assert value.dtype == jnp.float32
    assert_allclose(float(value), float(expected), rtol=2e-6)
    assert relative_error(gradient, expected_gradient) < 1e-4


def test_general_gradient_with_missing_data_and_varying_matrices():
    """The analytic gradient of the sequential form, against that of the filter by automatic differentiation."""
    generator = np.random.default_rng(3)
    initial, dynamics, emission, values = make_model("more channels")
    steps = 12
    varying = AffineGaussian(
        dynamics.weights + 0.1 * generator.normal(size=(steps - 1, 2, 2)),
        dynamics.bias[: steps - 1],
        dynamics.root * generator.uniform(0.5, 2, size=(steps - 1, 1, 1)),
    )
    looking = AffineGaussian(
        emission.weights + 0.1 * generator.normal(size=(steps, 5, 2)),
        emission.bias[0],
        emission.root * generator.uniform(0.5, 2, size=(steps, 1, 1)),
    )
    observed = jnp.asarray(generator.random((steps, 5)) < 0.6).at[4].set(False)
    model = (initial, varying, looking, values[:steps])

    @jax.jit
    def gradients(*model):
        def fast(*model):
            return kalman_log_likelihood(*model, observed)

        def slow(*model):
            return reference(*model, observed=observed)

        return [jax.value_and_grad(function, argnums=(0, 1, 2, 3))(*model) for function in (fast, slow)]

    (value, gradient), (expected, expected_gradient) = gradients(*model)
    assert_allclose(value, expected)
    assert relative_error(gradient, expected_gradient) < 1e-9


def test_singular_covariances_have_exact_gradients():
    """A noise of zero and a deterministic component; the parameters enter through the covariances alone."""
    generator = np.random.default_rng(4)
    values = jnp.asarray(generator.normal(size=(20, 1)))

    def model(parameters):
        root = jnp.zeros((3, 2)).at[0, 0].set(parameters[0]).at[1, 1].set(parameters[1])
        weights = jnp.array([[0.5, 0.2, 0.1], [0.0, 0.3, 0.0], [0.0, 0.0, 0.9]])
        emission = AffineGaussian(jnp.ones((1, 3)), jnp.zeros(1), parameters[2] * jnp.eye(1))
        start = Gaussian(jnp.ones(3), jnp.diag(jnp.array([1.0, 0.5, 0.0])))
        return start, AffineGaussian(weights, jnp.zeros(3), root), emission, values

    @jax.jit
    def gradients(parameters):
        functions = (partial(kalman_log_likelihood, method=m) for m in ("sequential", "steady"))
        return [jax.grad(lambda p, f=f: f(*model(p)))(parameters) for f in (*functions, reference)]

    sequential, steady, expected = gradients(jnp.array([0.7, 0.0, 0.3]))
    assert_allclose(sequential, expected)
    assert_allclose(steady, expected)


@pytest.mark.parametrize("steps", [1, 64, 65, 2000])
def test_recurrences_agree_with_a_loop(steps):
    generator = np.random.default_rng(5)
    weights = jnp.array([[0.9, 0.3], [-0.3, 0.9]])
    start, inputs = jnp.asarray(generator.normal(size=2)), jnp.asarray(generator.normal(size=(steps, 2)))
    rows, state = [], start
    for row in inputs:
        state = weights @ state + row
        rows.append(state)
    stacked = jnp.broadcast_to(weights, (steps, 2, 2))
    assert_allclose(constant_recurrence(weights, start, inputs), np.array(rows))
    assert_allclose(varying_recurrence(stacked, start, inputs), np.array(rows))
    reverse = constant_recurrence(weights, start, inputs, reverse=True)
    assert_allclose(reverse, constant_recurrence(weights, start, inputs[::-1])[::-1])
    assert_allclose(varying_recurrence(stacked, start, inputs, reverse=True), reverse)


def test_the_choice_follows_from_shapes():
    initial, dynamics, emission, values = make_model("regular")
    varying = dynamics._replace(weights=jnp.broadcast_to(dynamics.weights, (T - 1, 2, 2)))
    observed = jnp.ones(values.shape, bool)
    assert linear_gaussian_method("auto", dynamics, emission, T) == "steady"
    assert linear_gaussian_method("auto", dynamics, emission, 100) == "sequential"
    assert linear_gaussian_method("steady", dynamics, emission, 100) == "steady"
    assert linear_gaussian_method("steady", varying, emission, T) == "sequential"
    assert linear_gaussian_method("steady", dynamics, emission, T, observed) == "sequential"
    assert linear_gaussian_method("parallel", dynamics, emission, T) == "parallel"
    with pytest.raises(ValueError, match="method must be one of"):
        linear_gaussian_method("quick", dynamics, emission, T)


def long_model(name):
    """Matrices that vary in time and a fifth of the entries missing, `T` = 4100."""
    generator, steps = np.random.default_rng(6), 4100
    weights = np.array([[0.6, -0.3], [0.4, 0.5]]) * generator.uniform(0.8, 1.2, size=(steps - 1, 1, 1))
    root = generator.normal(size=(2, 1)) * (1e-4 if name == "slow" else 1)
    if name == "slow":
        weights = np.broadcast_to(np.eye(2), weights.shape)
    noise = np.tril(generator.normal(size=(2, 2)), -1) + np.eye(2)
    noise = noise * (1e-5 if name == "exact" else 1)
    look = generator.normal(size=(steps, 2, 2))
    model = (
        Gaussian(np.ones(2), np.array([[1.0, 0.0], [0.5, 1.0]])),
        AffineGaussian(weights, np.zeros(2), root),
        AffineGaussian(look, generator.normal(size=(steps, 2)), noise),
        generator.normal(size=(steps, 2)),
        generator.random((steps, 2)) < 0.8,
    )
    return jax.tree.map(jnp.asarray, model)


@pytest.mark.parametrize(("name", "vouches"), [("regular", True), ("slow", False), ("exact", False)])
def test_lanes_equal_the_sequential_evidence(name, vouches):
    """Also where what was guessed is not forgotten, and where rounding would spoil covariances."""
    model = long_model(name)
    value, vouched = jax.jit(chunked_value)(*model)
    expected = jax.jit(lambda *model: reference(*model[:4], observed=model[4]))(*model)
    assert bool(vouched) == vouches
    if vouches:
        assert_allclose(value, expected, rtol=1e-11)
    assert_allclose(jax.jit(kalman_log_likelihood)(*model), expected, rtol=1e-11)


def test_long_sums_of_products_keep_their_digits_in_float32():
    """One product of 100,000 rows is a hundred times worse, and gradients are differences of such sums."""
    rows = jnp.asarray(np.random.default_rng(7).normal(size=(100_000, 2)), jnp.float32)
    exact = np.asarray(rows, np.float64).T @ np.asarray(rows, np.float64)
    error = np.abs(np.asarray(jax.jit(summed_products)(rows, rows)) - exact).max() / np.abs(exact).max()
    assert error < 1e-6
