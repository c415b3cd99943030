"""Checks of algorithms over several devices, run by test_sharded.py in processes of their own.

The number of devices is an option of XLA that must be set before JAX starts, and several processes are several hosts.

    python -m tests.messages.sharded_worker checks NAME ...      these checks, on all devices of this process
    python -m tests.messages.sharded_worker process INDEX PORT   this process's half of `two_processes`

The first prints a JSON object that maps the name of each check to null or a traceback.
"""

import json
import re
import sys
import traceback
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.helpers import assert_allclose
from tsppl import messages
from tsppl.messages import AffineGaussian, Gaussian
from tsppl.messages.hidden_markov.sharded import sharded_log_normalizer, sharded_smooth
from tsppl.messages.linear_gaussian.sharded import (
    sharded_kalman_filter,
    sharded_kalman_log_likelihood,
    sharded_kalman_smoother,
)
from tsppl.recurrence import deer_scan

NUM_STEPS, NUM_STATES = 40, 3
SIZE, NUM_OUTPUTS = 3, 2
CHECKS, SLOW_CHECKS = {}, {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def slow_check(function):
    SLOW_CHECKS[function.__name__] = function
    return function


@cache
def time_mesh():
    return Mesh(jax.devices(), ("time",))


def divide(tree, mesh=None):
    """Arrays with time first, divided over the devices of the mesh; each process passes on its own rows alone."""
    sharding = NamedSharding(mesh or time_mesh(), PartitionSpec("time"))
    return jax.tree.map(
        lambda rows: jax.make_array_from_callback(rows.shape, sharding, lambda index: np.asarray(rows)[index]), tree
    )


def on_time(function, **kwargs):
    return partial(function, mesh=time_mesh(), **kwargs)


def assert_own_rows(actual, desired, **tolerances):
    """What this process holds of an array equals the same part of ``desired``."""
    for shard in actual.addressable_shards:
        assert_allclose(np.asarray(shard.data), np.asarray(desired)[shard.index], **tolerances)


# Hidden Markov models


def log(array):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(array, float))


def random_potentials(num_steps=NUM_STEPS, num_states=NUM_STATES, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    initial, transition = rng.dirichlet(np.ones(num_states)), rng.dirichlet(np.ones(num_states), size=num_states)
    return np.log(initial), np.log(transition), scale * rng.normal(size=(num_steps, num_states))


def with_transition(transition, scale=2.0):
    initial, _, log_likelihoods = random_potentials(scale=scale)
    return initial, log(transition), log_likelihoods


def missing_steps():
    initial, transition, log_likelihoods = random_potentials()
    log_likelihoods[3:17] = 0.0
    log_likelihoods[-6:] = 0.0
    return initial, transition, log_likelihoods


def impossible_states():
    """Zeros among the initial and transition probabilities, and steps that some states cannot have made."""
    _, _, log_likelihoods = random_potentials(seed=2)
    log_likelihoods[[4, 5, 21], [0, 1, 0]] = -np.inf
    return log([0.5, 0.5, 0.0]), log([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]), log_likelihoods


def decided_late():
    """State 1 is all but impossible until the last step says that it was state 1 from the first."""
    log_likelihoods = np.zeros((NUM_STEPS, 3))
    log_likelihoods[:-1, 1] = -300.0
    log_likelihoods[-1] = [-np.inf, 0.0, -np.inf]
    return log([0.5, 0.25, 0.25]), log(np.eye(3)), log_likelihoods


def level_far_from_zero():
    initial, transition, log_likelihoods = random_potentials()
    return initial, transition, log_likelihoods - 1e4


HIDDEN_MARKOV = {
    "random": random_potentials(),
    "missing steps": missing_steps(),
    "identity": with_transition(np.eye(3)),
    "left to right": with_transition([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]]),
    "near absorbing": with_transition([[1 - 2e-12, 1e-12, 1e-12], [1e-12, 1 - 2e-12, 1e-12], [1e-9, 1e-9, 1 - 2e-9]]),
    "huge gaps": with_transition([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], scale=1000.0),
    "impossible states": impossible_states(),
    "decided late": decided_late(),
    "level far from zero": level_far_from_zero(),
}


def gradient_of(function):
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))


@cache
def sharded_gradient():
    return gradient_of(on_time(sharded_log_normalizer))


hidden_markov_gradient = gradient_of(messages.log_normalizer)
hidden_markov_smooth = jax.jit(messages.hidden_markov_smooth)


def check_hidden_markov(potentials, **tolerances):
    """Value, gradient and smoother against one device, for constant transitions."""
    initial, transition, log_likelihoods = potentials
    divided = (initial, transition, divide(log_likelihoods))
    value, gradient = sharded_gradient()(*divided)
    statistics = on_time(sharded_smooth)(*divided)
    expected_value, expected = hidden_markov_gradient(*potentials)
    assert_allclose(on_time(sharded_log_normalizer)(*divided), expected_value, **tolerances)
    assert_allclose(value, expected_value, **tolerances)
    assert_allclose(gradient, expected, **tolerances)
    assert_allclose(tuple(statistics), tuple(hidden_markov_smooth(*potentials)), **tolerances)
    return gradient, statistics


@check
def hidden_markov_equals_one_device():
    for name, potentials in HIDDEN_MARKOV.items():
        try:
            check_hidden_markov(potentials)
        except AssertionError as error:
            raise AssertionError(f"case {name!r}: {error}") from error


@check
def results_that_belong_to_steps_stay_divided():
    gradient, statistics = check_hidden_markov(random_potentials())
    for rows in (gradient[2], statistics.state_probs):
        assert {shard.data.shape for shard in rows.addressable_shards} == {(NUM_STEPS // 8, NUM_STATES)}
    assert statistics.transition_counts.sharding.is_fully_replicated


@slow_check
def nonlinear_recurrences_keep_their_steps_divided():
    weights = 0.2 * np.random.default_rng(0).normal(size=(SIZE, SIZE))
    inputs = np.random.default_rng(1).normal(size=(320, SIZE))

    def states(weights, inputs):
        def step(state, x):
            state = jnp.tanh(weights @ state + x)
            return state, state

        return deer_scan(step, jnp.zeros(SIZE), inputs, solver="chunked", num_chunks=8)[1]

    def loss(weights, inputs):
        return (states(weights, inputs) ** 3).sum()

    divided = divide(inputs)
    result = jax.jit(states)(weights, divided)
    assert result.sharding.spec == PartitionSpec("time")
    assert_allclose(result, jax.jit(states)(weights, inputs), atol=1e-10)
    gradients = [jax.jit(jax.grad(loss))(weights, rows) for rows in (divided, inputs)]
    assert_allclose(*gradients, rtol=1e-8)


@slow_check
def hidden_markov_with_blocks_of_one_step():
    initial, transition, log_likelihoods = potentials = random_potentials(num_steps=8)
    actual = sharded_gradient()(initial, transition, divide(log_likelihoods))
    assert_allclose(actual, hidden_markov_gradient(*potentials))


@slow_check
def hidden_markov_time_varying():
    initial, _, log_likelihoods = random_potentials()
    transition = np.log(np.random.default_rng(3).dirichlet(np.ones(3), size=(NUM_STEPS, 3)))
    transition[7, 0], transition[19, :, 2], transition[-1] = log([1, 0, 0]), -np.inf, 7.0
    divided = (initial, divide(transition), divide(log_likelihoods))
    value, (first, counts, rows) = sharded_gradient()(*divided)
    expected_value, expected = hidden_markov_gradient(initial, transition[:-1], log_likelihoods)
    assert_allclose(value, expected_value)
    assert_allclose((first, np.asarray(counts)[:-1], rows), expected)
    statistics = on_time(sharded_smooth)(*divided)
    for result in (counts, statistics.transition_counts):
        assert_allclose(np.asarray(result)[:-1], expected[1])
        assert not np.asarray(result)[-1].any()
        assert {shard.data.shape for shard in result.addressable_shards} == {(NUM_STEPS // 8, 3, 3)}


@check
def impossible_sequence_has_gradient_zero():
    initial, transition, log_likelihoods = random_potentials()
    log_likelihoods[22] = -np.inf
    divided = (initial, transition, divide(log_likelihoods))
    value, gradient = sharded_gradient()(*divided)
    assert value == -jnp.inf
    assert all((np.asarray(array) == 0).all() for array in gradient)
    assert all((np.asarray(array) == 0).all() for array in on_time(sharded_smooth)(*divided))


@slow_check
def hidden_markov_float32():
    """4000 steps far from level zero, in float32 against float64; one state is all but absorbing."""
    potentials = with_transition([[1 - 2e-6, 1e-6, 1e-6], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    potentials = (*potentials[:2], random_potentials(num_steps=4000)[2] - 1e5)
    narrow = tuple(np.float32(array) for array in potentials)
    wide = tuple(np.float64(array) for array in narrow)
    divided = (*narrow[:2], divide(narrow[2]))
    value, gradient = sharded_gradient()(*divided)
    expected_value, expected = hidden_markov_gradient(*wide)
    assert {array.dtype for array in (value, *gradient)} == {jnp.dtype("float32")}
    assert_allclose(value, np.float64(expected_value), rtol=1e-6, atol=0)
    assert_allclose(gradient[2], expected[2], rtol=0, atol=1e-4)
    assert_allclose(gradient[1], expected[1], rtol=1e-3, atol=1e-3)


@slow_check
def hidden_markov_forward_mode_and_second_derivatives():
    initial, transition, log_likelihoods = random_potentials(num_steps=8)
    rng = np.random.default_rng(4)
    direction = tuple(rng.normal(size=array.shape) for array in (initial, transition, log_likelihoods))

    def derivatives(function, *potentials):
        def along(step):
            return function(*(array + step * change for array, change in zip(potentials, direction, strict=True)))

        slope = jax.jvp(along, (0.0,), (1.0,))[1]
        return slope, jax.grad(jax.grad(along))(0.0)

    actual = jax.jit(partial(derivatives, on_time(sharded_log_normalizer)))(
        initial, transition, divide(log_likelihoods)
    )
    expected = jax.jit(partial(derivatives, messages.log_normalizer))(initial, transition, log_likelihoods)
    assert_allclose(actual, expected)


@slow_check
def other_meshes_and_batches():
    """A mesh with an axis more, one with explicit axes, and a batch of sequences."""
    initial, transition, log_likelihoods = random_potentials()
    expected = messages.log_normalizer(initial, transition, log_likelihoods)
    for mesh in (
        Mesh(np.array(jax.devices()).reshape(2, 4), ("batch", "time")),
        jax.make_mesh((8,), ("time",), axis_types=(AxisType.Explicit,)),
    ):
        rows = divide(log_likelihoods, mesh)
        gradient = jax.jit(jax.grad(partial(sharded_log_normalizer, mesh=mesh), argnums=2))(initial, transition, rows)
        assert_allclose(sharded_log_normalizer(initial, transition, rows, mesh=mesh), expected)
        assert_allclose(gradient, messages.hidden_markov_smooth(initial, transition, log_likelihoods).state_probs)
    batch = np.stack([log_likelihoods, log_likelihoods[::-1]])
    rows = jax.device_put(batch, NamedSharding(time_mesh(), PartitionSpec(None, "time")))
    actual = jax.jit(jax.vmap(sharded_gradient(), in_axes=(None, None, 0)))(initial, transition, rows)
    assert_allclose(actual, jax.vmap(hidden_markov_gradient, in_axes=(None, None, 0))(initial, transition, batch))


# Linear-Gaussian models


def constant_model(num_steps=NUM_STEPS, seed=0):
    """Noise of two dimensions drives a trajectory of three."""
    rng = np.random.default_rng(seed)
    initial = Gaussian(rng.normal(size=SIZE), rng.normal(size=(SIZE, SIZE)))
    dynamics = AffineGaussian(0.4 * rng.normal(size=(SIZE, SIZE)), rng.normal(size=SIZE), rng.normal(size=(SIZE, 2)))
    outputs = (NUM_OUTPUTS, NUM_OUTPUTS)
    emission = AffineGaussian(
        rng.normal(size=(NUM_OUTPUTS, SIZE)), rng.normal(size=NUM_OUTPUTS), rng.normal(size=outputs)
    )
    return initial, dynamics, emission, 2 * rng.normal(size=(num_steps, NUM_OUTPUTS))


def varying_model(seed=1):
    """Weights of the dynamics and all of the emission vary; dynamics have one row more than one device needs."""
    rng = np.random.default_rng(seed)
    initial, dynamics, emission, values = constant_model(seed=seed)
    dynamics = dynamics._replace(weights=0.4 * rng.normal(size=(NUM_STEPS, SIZE, SIZE)))
    emission = jax.tree.map(lambda field: field + 0.3 * rng.normal(size=(NUM_STEPS,) + field.shape), emission)
    observed = rng.random(values.shape) < 0.7
    observed[9:16] = False
    return initial, dynamics, emission, values, observed


def evidence(*model):
    return messages.kalman_filter(*model).log_normalizers.sum()


def model_gradient(function):
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2, 3)))


@cache
def sharded_model_gradient():
    return model_gradient(on_time(sharded_kalman_log_likelihood))


reference_model_gradient = model_gradient(evidence)
kalman_smoother = jax.jit(messages.kalman_smoother)


def squares(roots):
    return roots @ np.swapaxes(roots, -1, -2)


def assert_same_moments(actual, expected, **tolerances):
    """Filters agree in everything that does not depend on the choice of roots."""
    assert_allclose(actual.log_normalizers, expected.log_normalizers, **tolerances)
    for left, right in zip(actual[1:], expected[1:], strict=True):
        assert_allclose(left.mean, right.mean, **tolerances)
        assert_allclose(squares(np.asarray(left.root)), squares(np.asarray(right.root)), **tolerances)


@check
def linear_gaussian_equals_one_device():
    *parameters, values = model = constant_model()
    divided = (*parameters, divide(values))
    actual = sharded_model_gradient()(*divided)
    assert_allclose(actual, reference_model_gradient(*model))
    assert_same_moments(on_time(sharded_kalman_filter)(*divided), jax.jit(messages.kalman_filter)(*model))


@slow_check
def linear_gaussian_varying_with_gaps():
    initial, dynamics, emission, values, observed = varying_model()
    moves = dynamics._replace(weights=dynamics.weights[:-1])
    model = (initial, moves, emission, values, observed)
    divided = (
        initial,
        dynamics._replace(weights=divide(dynamics.weights)),
        divide(emission),
        divide(values),
        divide(observed),
    )
    value, (first, steps, *rest) = sharded_model_gradient()(*divided)
    assert not np.asarray(steps.weights)[-1].any()
    gradient = (first, steps._replace(weights=np.asarray(steps.weights)[:-1]), *rest)
    assert_allclose((value, gradient), reference_model_gradient(*model))
    actual, expected = on_time(sharded_kalman_smoother)(*divided), kalman_smoother(*model)
    assert_allclose(tuple(actual[:2]), tuple(expected[:2]))
    assert_allclose(np.asarray(actual.cross_covariances)[:-1], expected.cross_covariances)
    assert not np.asarray(actual.cross_covariances)[-1].any()
    for rows in (actual.means, actual.cross_covariances):
        assert {shard.data.shape[0] for shard in rows.addressable_shards} == {NUM_STEPS // 8}


@slow_check
def linear_gaussian_float32():
    """A random walk that drifts through thousands, observed with little noise, in float32 against float64."""
    one = np.eye(2)
    step, look = (
        AffineGaussian(one, 0.1 * np.ones(2), 0.3 * one),
        AffineGaussian(one[:1], np.zeros(1), 0.01 * one[:1, :1]),
    )
    values = np.cumsum(0.3 * np.random.default_rng(5).normal(size=(4000, 1)) + 0.1, axis=0)
    model = (Gaussian(np.zeros(2), one), step, look, values)
    narrow = jax.tree.map(np.float32, model)
    wide = jax.tree.map(np.float64, narrow)
    divided = (*narrow[:3], divide(narrow[3]))
    value = on_time(sharded_kalman_log_likelihood)(*divided)
    assert value.dtype == jnp.float32
    assert_allclose(value, np.float64(jax.jit(evidence)(*wide)), rtol=0, atol=0.5)
    expected = kalman_smoother(*wide)
    assert_allclose(on_time(sharded_kalman_smoother)(*divided).means[:, 0], expected.means[:, 0], rtol=1e-5, atol=1e-2)


@slow_check
def linear_gaussian_forward_mode_and_second_derivatives():
    initial, dynamics, emission, values = constant_model(num_steps=8)
    rng = np.random.default_rng(6)
    direction = rng.normal(size=dynamics.weights.shape)

    def derivatives(function, values):
        def along(step):
            return function(initial, dynamics._replace(weights=dynamics.weights + step * direction), emission, values)

        slope = jax.jvp(along, (0.0,), (1.0,))[1]
        return slope, jax.grad(jax.grad(along))(0.0)

    actual = jax.jit(partial(derivatives, on_time(sharded_kalman_log_likelihood)))(divide(values))
    assert_allclose(actual, jax.jit(partial(derivatives, evidence))(values))


# What is exchanged


COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def exchanged(function, *arguments):
    """``(operation, result shape)`` of everything that travels between devices, read off the compiled program."""
    program = jax.jit(function).lower(*arguments).compile().as_text()
    shapes = [
        (operation, tuple(int(n) for n in dimensions.split(",") if n))
        for shape, operation in COLLECTIVE.findall(program)
        for dimensions in re.findall(r"\w+\[([\d,]*)\]", shape)
    ]
    return sorted(shapes)


def hidden_markov_arguments(num_steps):
    initial, transition, log_likelihoods = random_potentials(num_steps)
    return initial, transition, divide(log_likelihoods)


def linear_gaussian_arguments(num_steps):
    *parameters, values = constant_model(num_steps)
    return *parameters, divide(values)


@check
def a_gather_of_the_data_would_be_seen():
    few, many = (exchanged(messages.log_normalizer, *hidden_markov_arguments(steps)) for steps in (40, 80))
    assert few != many


def check_exchange(function, arguments, most_numbers):
    few, many = (exchanged(function, *arguments(steps)) for steps in (40, 80))
    assert few == many, f"what travels grows with the number of steps: {few} and {many}"
    assert sum(operation == "all-gather" for operation, _ in few) == 1, few
    numbers = sum(int(np.prod(shape)) for _, shape in few)
    assert numbers <= most_numbers, few


@check
def hidden_markov_exchange_does_not_grow():
    table, sums = 8 * NUM_STATES**2, 1 + NUM_STATES + NUM_STATES**2
    check_exchange(on_time(sharded_log_normalizer), hidden_markov_arguments, table + 1)
    check_exchange(sharded_gradient(), hidden_markov_arguments, table + sums)
    check_exchange(on_time(sharded_smooth), hidden_markov_arguments, table + sums)


@check
def linear_gaussian_exchange_does_not_grow():
    element = 3 * SIZE**2 + 3 * SIZE + 1
    parameters = sum(array.size for array in jax.tree.leaves(constant_model()[:3]))
    check_exchange(sharded_model_gradient(), linear_gaussian_arguments, 8 * element + 1 + parameters)
    check_exchange(on_time(sharded_kalman_smoother), linear_gaussian_arguments, 8 * element)


# Errors


def assert_raises(text, function, *arguments):
    with pytest.raises(ValueError, match=text):
        function(*arguments)


@check
def bad_input_says_what_to_pass():
    initial, transition, log_likelihoods = random_potentials(num_steps=42)
    model = constant_model(num_steps=42)
    assert_raises(
        "log_likelihoods has 42 steps.*8 devices.*pad to 48 steps with rows of zeros",
        on_time(sharded_log_normalizer),
        initial,
        transition,
        log_likelihoods,
    )
    assert_raises("values has 42 steps.*pad to 48 steps.*observed", on_time(sharded_kalman_smoother), *model)
    assert_raises(
        "axis_name is 'tme', but mesh has the axes",
        on_time(sharded_smooth, axis_name="tme"),
        initial,
        transition,
        log_likelihoods,
    )
    rows = np.broadcast_to(transition, (39, 3, 3))
    assert_raises(
        r"log_transition has shape \(39, 3, 3\).*40 steps",
        on_time(sharded_log_normalizer),
        initial,
        rows,
        log_likelihoods[:40],
    )
    initial, dynamics, emission, values, observed = varying_model()
    short = dynamics._replace(weights=dynamics.weights[:-1])
    assert_raises(
        r"dynamics.weights has shape \(39, 3, 3\)",
        on_time(sharded_kalman_log_likelihood),
        initial,
        short,
        emission,
        values,
    )
    assert_raises(
        r"observed has shape \(40,\)",
        on_time(sharded_kalman_log_likelihood),
        initial,
        dynamics,
        emission,
        values,
        observed[:, 0],
    )


# Two processes


def two_processes(index, port):
    """Value, gradient and smoother where each of two processes holds half of the steps, on two devices of its own."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
    assert jax.process_count() == 2
    assert len(jax.devices()) == 2 * len(jax.local_devices()) == 4

    initial, transition, log_likelihoods = potentials = random_potentials()
    divided = (initial, transition, divide(log_likelihoods))
    held = np.concatenate([np.asarray(shard.data) for shard in divided[2].addressable_shards])
    assert_allclose(held, log_likelihoods[20 * index : 20 * (index + 1)])
    value, gradient = sharded_gradient()(*divided)
    expected_value, expected = hidden_markov_gradient(*potentials)
    for result, desired in zip((value, *gradient), (expected_value, *expected), strict=True):
        assert_own_rows(result, desired)
    for result, desired in zip(on_time(sharded_smooth)(*divided), hidden_markov_smooth(*potentials), strict=True):
        assert_own_rows(result, desired)

    *parameters, values = model = constant_model()
    divided = (*parameters, divide(values))
    actual = sharded_model_gradient()(*divided)
    jax.tree.map(assert_own_rows, actual, reference_model_gradient(*model))
    smoothed, expected = on_time(sharded_kalman_smoother)(*divided), kalman_smoother(*model)
    assert_own_rows(smoothed.means, expected.means)
    jax.distributed.shutdown()


def run_checks(names):
    results = {}
    for name in names:
        try:
            (CHECKS | SLOW_CHECKS)[name]()
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
    return results


if __name__ == "__main__":
    if sys.argv[1] == "checks":
        print(json.dumps(run_checks(sys.argv[2:])))
    else:
        two_processes(int(sys.argv[2]), int(sys.argv[3]))
