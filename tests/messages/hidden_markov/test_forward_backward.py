"""Messages of a hidden Markov chain against enumeration of every path."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from jax import random
from jax.flatten_util import ravel_pytree

from tests.helpers import assert_allclose
from tests.reference import hidden_markov as reference
from tsppl import messages

NUM_STEPS, NUM_STATES = 5, 3
METHODS = ("sequential", "chunked", "parallel")
LONG = {
    "sequential": 20_000,
    "chunked": 20_000,
    "parallel": 1_000,
}  # the compile time of a parallel scan grows with its length


def log(array):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(array, float))


def random_potentials(seed=0, *, varying=False, num_steps=NUM_STEPS, num_states=NUM_STATES):
    rng = np.random.default_rng(seed)
    lead = (num_steps - 1,) if varying else ()
    initial = rng.dirichlet(np.ones(num_states))
    transition = rng.dirichlet(np.ones(num_states), size=lead + (num_states,))
    return np.log(initial), np.log(transition), 2.0 * rng.normal(size=(num_steps, num_states)) - 1.0


def with_transition(transition):
    initial, _, log_likelihoods = random_potentials(1)
    return initial, log(transition), log_likelihoods


def impossible_states():
    """Transitions and initial probabilities with zeros, and steps that some states cannot have made."""
    _, _, log_likelihoods = random_potentials(2)
    log_likelihoods[1, 0] = log_likelihoods[3, 1] = -np.inf
    return log([0.5, 0.5, 0.0]), log([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]), log_likelihoods


def missing_steps():
    initial, transition, log_likelihoods = random_potentials(3)
    log_likelihoods[[0, 2, 4]] = 0.0
    return initial, transition, log_likelihoods


CASES = {
    "constant": random_potentials(),
    "time-varying": random_potentials(varying=True),
    "one step": random_potentials(num_steps=1),
    "left to right": with_transition([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]]),
    "identity": with_transition(np.eye(3)),
    "near absorbing": with_transition([[1 - 2e-12, 1e-12, 1e-12], [1e-12, 1 - 2e-12, 1e-12], [1e-9, 1e-9, 1 - 2e-9]]),
    "impossible states": impossible_states(),
    "missing steps": missing_steps(),
}


@cache
def compiled(function, method):
    return jax.jit(partial(function, method=method))


def value_and_gradient(*potentials, method):
    return jax.value_and_grad(partial(messages.log_normalizer, method=method), argnums=(0, 1, 2))(*potentials)


def arrays(potentials, dtype=jnp.float64):
    return tuple(jnp.asarray(array, dtype) for array in potentials)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.smoke if name == "constant" else ()) for name in CASES])
def potentials(request):
    return CASES[request.param]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_forward(potentials, method):
    messages_ = compiled(messages.hidden_markov_forward, method)(*arrays(potentials))
    assert_allclose(messages_.log_normalizers, reference.log_normalizers(*potentials))
    assert_allclose(jnp.exp(messages_.log_filtered), reference.filtered(*potentials))
    assert_allclose(jnp.exp(messages_.log_predicted), reference.predicted(*potentials))


def test_backward(potentials, method):
    log_backward = compiled(messages.hidden_markov_backward, method)(*arrays(potentials[1:]))
    weights = reference.filtered(*potentials) * np.exp(log_backward)
    assert_allclose(weights / weights.sum(-1, keepdims=True), reference.smoothed(*potentials))
    assert_allclose(jnp.exp(log_backward[:-1]).sum(-1), 1.0)
    assert (log_backward[-1] == 0).all()


def test_smooth(potentials, method):
    statistics = compiled(messages.hidden_markov_smooth, method)(*arrays(potentials))
    pairs = reference.pair_marginals(*potentials)
    assert_allclose(statistics.state_probs, reference.smoothed(*potentials))
    assert_allclose(statistics.transition_counts, pairs if potentials[1].ndim == 3 else pairs.sum(0))


def test_log_normalizer_and_left_out(potentials, method):
    assert_allclose(
        compiled(messages.log_normalizer, method)(*arrays(potentials)), reference.log_normalizer(*potentials)
    )
    assert_allclose(
        compiled(messages.hidden_markov_left_out, method)(*arrays(potentials)), reference.left_out(*potentials)
    )


def test_most_likely_path(potentials, method):
    path = compiled(messages.most_likely_path, method)(*arrays(potentials))
    assert path.dtype == jnp.int32
    np.testing.assert_array_equal(path, reference.most_likely_path(*potentials))


def compare_with_probabilities(draws, paths, probs):
    """Chi-square test that int draws `(S, T)` come from the given distribution over paths."""
    num_states = int(paths.max()) + 1
    place = num_states ** np.arange(paths.shape[1])
    counts = np.bincount(np.asarray(draws) @ place, minlength=num_states ** paths.shape[1])[paths @ place]
    assert counts[probs == 0].sum() == 0
    expected = probs * len(draws)
    frequent = expected >= 5
    observed = np.append(counts[frequent], counts[~frequent].sum())
    expected = np.append(expected[frequent], expected[~frequent].sum())
    keep = expected > 0
    assert scipy.stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


@pytest.mark.parametrize("name", ["constant", "time-varying", "left to right", "impossible states", "one step"])
def test_sample_path_has_the_posterior_frequencies(name, key):
    potentials = CASES[name]
    paths, weights = reference.path_weights(*potentials)
    draws = {}
    for method in METHODS:
        draw = jax.vmap(compiled(messages.sample_path, method), in_axes=(0, None, None, None))
        draws[method] = draw(random.split(key, 10_000), *arrays(potentials))
        assert draws[method].dtype == jnp.int32
    np.testing.assert_array_equal(draws["sequential"], draws["parallel"])
    compare_with_probabilities(draws["sequential"], paths, weights / weights.sum())


@pytest.mark.parametrize("name", ["constant", "time-varying"])
def test_simulate_path_follows_the_chain(name, key):
    log_initial, log_transition, log_likelihoods = CASES[name]
    paths, probs = reference.path_weights(log_initial, log_transition, np.zeros_like(log_likelihoods))
    chain = arrays((log_initial, log_transition))
    simulate = jax.vmap(messages.simulate_path, in_axes=(0, None, None, None))
    draws = simulate(random.split(key, 10_000), *chain, NUM_STEPS)
    assert draws.dtype == jnp.int32
    compare_with_probabilities(draws, paths, probs)
    log_prob = jax.vmap(lambda path: messages.path_log_prob(*chain, path).sum())(jnp.asarray(paths))
    assert_allclose(jnp.exp(log_prob), probs)


# Derivatives


@pytest.mark.parametrize("name", ["constant", "time-varying"])
def test_derivatives_equal_those_of_the_enumeration(name, method):
    point, unravel = ravel_pytree(arrays(CASES[name]))

    def by_messages(flat):
        return messages.log_normalizer(*unravel(flat), method=method)

    def by_enumeration(flat):
        return reference.differentiable_log_normalizer(*unravel(flat))

    def derivatives(function):
        return jax.value_and_grad(function)(point), jax.jacfwd(function)(point), jax.hessian(function)(point)

    assert_allclose(
        jax.jit(derivatives, static_argnums=0)(by_messages), jax.jit(derivatives, static_argnums=0)(by_enumeration)
    )


def test_third_derivative_by_reverse_over_reverse():
    log_initial, log_transition, log_likelihoods = arrays(CASES["constant"])

    def along(function):
        return lambda scale: function(log_initial, log_transition, scale * log_likelihoods)

    def third(function):
        return jax.jit(jax.grad(jax.grad(jax.grad(along(function)))))(1.0)

    assert_allclose(third(messages.log_normalizer), third(reference.differentiable_log_normalizer))


def test_gradient_under_vmap(method):
    batch = tuple(map(jnp.stack, zip(*(arrays(random_potentials(seed)) for seed in range(3)), strict=True)))
    actual = jax.jit(jax.vmap(jax.grad(partial(messages.log_normalizer, method=method), argnums=(0, 1, 2))))(*batch)
    desired = jax.vmap(jax.grad(reference.differentiable_log_normalizer, argnums=(0, 1, 2)))(*batch)
    assert_allclose(actual, desired)


@pytest.mark.parametrize("name", ["impossible states", "left to right", "identity"])
def test_gradient_with_impossible_states_is_the_expected_statistics(name, method):
    potentials = CASES[name]
    _, gradient = compiled(value_and_gradient, method)(*arrays(potentials))
    state_probs = reference.smoothed(*potentials)
    assert_allclose(gradient, (state_probs[0], reference.pair_marginals(*potentials).sum(0), state_probs))


@pytest.mark.parametrize("method", ["sequential", pytest.param("parallel", marks=pytest.mark.slow)])
def test_second_derivatives_are_finite_with_impossible_states(method):
    potentials = CASES["impossible states"]
    possible = [np.isfinite(array) for array in potentials]

    def along(function, *changes):
        moved = [jnp.where(p, a + d, -jnp.inf) for p, a, d in zip(possible, arrays(potentials), changes, strict=True)]
        return function(*moved)

    zeros = tuple(jnp.zeros(array.shape) for array in potentials)
    actual = jax.jit(jax.hessian(partial(along, partial(messages.log_normalizer, method=method)), argnums=(0, 1, 2)))(
        *zeros
    )
    desired = jax.hessian(partial(along, reference.differentiable_log_normalizer), argnums=(0, 1, 2))(*zeros)
    assert_allclose(actual, desired)


@pytest.mark.parametrize(
    "impossible_rows", [slice(0, 1), slice(2, 3), slice(None)], ids=["first step", "one step", "every step"]
)
def test_impossible_data(impossible_rows, method):
    log_initial, log_transition, log_likelihoods = arrays(CASES["constant"])
    log_likelihoods = log_likelihoods.at[impossible_rows].set(-jnp.inf)
    potentials = log_initial, log_transition, log_likelihoods
    value, gradient = compiled(value_and_gradient, method)(*potentials)
    assert value == -jnp.inf
    assert all((array == 0).all() for array in jax.tree.leaves(gradient))
    statistics = compiled(messages.hidden_markov_smooth, method)(*potentials)
    assert all((array == 0).all() for array in jax.tree.leaves(statistics))
    left_out = compiled(messages.hidden_markov_left_out, method)(*potentials)
    assert not jnp.isnan(left_out).any()
    assert (left_out[impossible_rows] == -jnp.inf).all()
    draw = compiled(messages.sample_path, method)(random.key(0), *potentials)
    for path in (compiled(messages.most_likely_path, method)(*potentials), draw):
        assert ((path >= 0) & (path < NUM_STATES)).all()


# Numbers


def test_a_state_below_the_smallest_float_still_decides_the_future(method):
    """With a prior of `exp(-120)`, which is zero in float32, the only state that can make the last step wins."""
    log_initial = jax.nn.log_softmax(jnp.array([0.0, -120.0], jnp.float32))
    log_transition = jnp.log(jnp.eye(2, dtype=jnp.float32))
    log_likelihoods = jnp.zeros((4, 2), jnp.float32).at[3].set(jnp.array([-jnp.inf, -1.0], jnp.float32))
    value_and_grad = jax.jit(jax.value_and_grad(partial(messages.log_normalizer, method=method), argnums=0))
    value, gradient = value_and_grad(log_initial, log_transition, log_likelihoods)
    assert value.dtype == jnp.float32
    assert_allclose(value, -121.0)
    assert_allclose(gradient, jnp.array([0.0, 1.0]))


def test_far_away_observations_in_float32(method):
    """Log-likelihoods of -1e6 and a spread of 1e5 between states."""
    log_initial, log_transition, log_likelihoods = CASES["constant"]
    log_likelihoods = np.round(1e5 * log_likelihoods) - 1e6
    potentials = log_initial, log_transition, log_likelihoods
    value = compiled(messages.log_normalizer, method)(*arrays(potentials, jnp.float32))
    assert_allclose(value, reference.log_normalizer_by_largest(*potentials), rtol=1e-6)


def long_potentials(num_steps, num_states=4):
    """Data simulated from a sticky chain with overlapping Gaussian emissions."""
    rng = np.random.default_rng(0)
    transition = 0.95 * np.eye(num_states) + 0.05 * rng.dirichlet(np.ones(num_states), num_states)
    states = np.zeros(num_steps, int)
    uniforms = rng.uniform(size=num_steps)
    for t in range(1, num_steps):
        states[t] = min(np.searchsorted(transition[states[t - 1]].cumsum(), uniforms[t]), num_states - 1)
    values = states + rng.normal(size=num_steps)
    log_likelihoods = scipy.stats.norm.logpdf(values[:, None], np.arange(num_states), 1.0)
    return np.full(num_states, -np.log(num_states)), np.log(transition), log_likelihoods


@pytest.mark.parametrize("method", ["sequential", "chunked", pytest.param("parallel", marks=pytest.mark.slow)])
def test_long_series_in_float32(method):
    """Within 0.003 nats of float64 at T = 2e4, where the value is -30275; state probabilities within 1e-5."""
    potentials = long_potentials(LONG[method])
    single = arrays(potentials, jnp.float32)
    exact = compiled(messages.log_normalizer, "sequential")(*arrays(potentials))
    assert abs(compiled(messages.log_normalizer, method)(*single) - exact) < 0.003
    desired = compiled(messages.hidden_markov_smooth, "sequential")(*arrays(potentials))
    actual = compiled(messages.hidden_markov_smooth, method)(*single)
    assert abs(actual.state_probs - desired.state_probs).max() < 1e-5
    assert abs(actual.transition_counts / desired.transition_counts - 1).max() < 1e-4
    left_out = compiled(messages.hidden_markov_left_out, method)(*single)
    assert abs(left_out - compiled(messages.hidden_markov_left_out, "sequential")(*arrays(potentials))).max() < 1e-5


def test_long_most_likely_path_in_float32(method):
    potentials = long_potentials(LONG[method])
    exact = compiled(messages.most_likely_path, "sequential")(*arrays(potentials))
    path = compiled(messages.most_likely_path, method)(*arrays(potentials, jnp.float32))
    np.testing.assert_array_equal(path, exact)


# Properties


@st.composite
def potentials_with_zeros(draw):
    """Random potentials of one shape, in which any entry but one per row may be impossible."""
    potentials = random_potentials(draw(st.integers(0, 2**31)), varying=True)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    chance = draw(st.sampled_from([0.0, 0.2, 0.5]))
    for array in potentials:
        impossible = rng.uniform(size=array.shape) < chance
        impossible[..., rng.integers(NUM_STATES)] = False
        array[impossible] = -np.inf
    initial, transition, log_likelihoods = potentials
    return initial, transition - np.logaddexp.reduce(transition, axis=-1, keepdims=True), log_likelihoods


few = settings(max_examples=15, deadline=None, derandomize=True, database=None)


@few
@given(potentials_with_zeros(), st.sampled_from(METHODS))
def test_any_chain_equals_enumeration(potentials, method):
    desired = reference.log_normalizer(*potentials)
    assert_allclose(compiled(messages.log_normalizer, method)(*arrays(potentials)), desired)
    assert_allclose(
        compiled(messages.hidden_markov_forward, method)(*arrays(potentials)).log_normalizers.sum(), desired
    )
    if np.isfinite(desired):
        assert_allclose(
            compiled(messages.hidden_markov_smooth, method)(*arrays(potentials)).state_probs,
            reference.smoothed(*potentials),
        )
        path = np.asarray(compiled(messages.most_likely_path, method)(*arrays(potentials)))
        best = reference.path_log_weight(reference.most_likely_path(*potentials), *potentials)
        assert reference.path_log_weight(path, *potentials) == pytest.approx(best, abs=1e-9)


@few
@given(potentials_with_zeros(), st.permutations(range(NUM_STATES)), st.floats(-50, 50))
def test_labels_and_units_do_not_matter(potentials, order, shift):
    """Renaming the states changes nothing; a change of units adds a constant to each step."""
    log_initial, log_transition, log_likelihoods = potentials
    order = np.array(order)
    renamed = log_initial[order], log_transition[:, order][:, :, order], log_likelihoods[:, order] + shift
    value = compiled(messages.log_normalizer, "sequential")
    assert_allclose(value(*arrays(renamed)), value(*arrays(potentials)) + NUM_STEPS * shift, atol=1e-8)


@few
@given(potentials_with_zeros(), st.integers(0, 2**31))
def test_every_draw_is_possible(potentials, seed):
    if np.isfinite(reference.log_normalizer(*potentials)):
        path = np.asarray(compiled(messages.sample_path, "sequential")(random.key(seed), *arrays(potentials)))
        assert np.isfinite(reference.path_log_weight(path, *potentials))


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        messages.hidden_markov_forward(*arrays(CASES["constant"]), method="fast")
