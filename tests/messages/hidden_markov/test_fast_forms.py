"""Fast hidden Markov algorithms: they vouch for what is right, refuse what is not, and log space then answers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from tests.helpers import assert_allclose
from tsppl import messages
from tsppl.messages.certified import certified
from tsppl.messages.hidden_markov.chunked import WARM_UP, chunked_statistics, mismatch, number_of_chunks, until_met
from tsppl.messages.hidden_markov.chunked_paths import (
    _backtrace,
    _scores_meet,
    chunked_most_likely_path,
    chunked_sample_path,
    pick,
)
from tsppl.messages.hidden_markov.forward_backward import log_space_statistics
from tsppl.messages.hidden_markov.scaled import scaled_log_normalizer, scaled_statistics
from tsppl.messages.methods import hidden_markov_method

NUM_STEPS = 20_011  # not a multiple of the number of chunks
INITIAL = np.array([0.5, 0.3, 0.2])


def log(array):
    with np.errstate(divide="ignore"):
        return np.log(array)


def sticky(stay):
    return stay * np.eye(3) + (1 - stay) * np.array([[0.0, 0.6, 0.4], [0.5, 0.0, 0.5], [0.3, 0.7, 0.0]])


TRANSITIONS = {
    "ordinary": sticky(0.9),
    "slow": sticky(1 - 1e-5),
    "near absorbing": sticky(1 - 1e-12),
    "identity": np.eye(3),
    "left to right": np.array([[1 - 1e-4, 1e-4, 0.0], [0.0, 1 - 1e-4, 1e-4], [0.0, 0.0, 1.0]]),
    "restless": np.array([[0.1, 0.6, 0.3], [0.4, 0.1, 0.5], [0.5, 0.4, 0.1]]),
    "alternating": np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
}


@cache
def log_likelihoods(spread=0.05):
    """Noise that says little about the state, but for one stretch that shifts the balance."""
    rng = np.random.default_rng(0)
    terms = spread * rng.normal(size=(NUM_STEPS, 3))
    terms[12_000:12_100, 1] += 0.3
    return terms


def potentials(name, dtype=jnp.float64, spread=0.05):
    arrays = log(INITIAL), log(TRANSITIONS[name]), log_likelihoods(spread)
    return tuple(jnp.asarray(array, dtype) for array in arrays)


in_log_space = jax.jit(lambda *arguments: log_space_statistics(*arguments, method="sequential"))
fast = {
    "value": jax.jit(scaled_log_normalizer),
    "scaled": jax.jit(scaled_statistics),
    "chunked": jax.jit(chunked_statistics),
}
bare_value = jax.jit(messages.log_normalizer, static_argnames="method")
by_chunks = jax.jit(jax.value_and_grad(lambda *a: messages.log_normalizer(*a, method="chunked"), argnums=(0, 1, 2)))


WEAK, STRONG = 0.05, 5.0


@pytest.mark.parametrize("spread", [WEAK, STRONG])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_every_chain_equals_log_space_however_badly_it_mixes(name, spread):
    arrays = potentials(name, spread=spread)
    value, gradient = by_chunks(*arrays)
    desired, statistics = in_log_space(*arrays)
    assert_allclose(value, desired)
    assert_allclose(bare_value(*arrays, method="sequential"), desired)
    assert_allclose(gradient, statistics, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "spread", "algorithms"),
    [
        ("ordinary", WEAK, ("value", "scaled", "chunked")),
        ("ordinary", STRONG, ("value", "scaled", "chunked")),
        ("alternating", WEAK, ("scaled",)),  # even and odd steps never mix
        ("slow", WEAK, ("value", "scaled")),
        ("near absorbing", WEAK, ("value", "scaled")),
        ("identity", WEAK, ("scaled",)),
        ("identity", STRONG, ()),  # one state falls hundreds of nats behind
        ("left to right", STRONG, ()),
    ],
)
def test_who_vouches_for_what(name, spread, algorithms):
    assert number_of_chunks(NUM_STEPS, jnp.dtype("float64")) > 8
    for algorithm, function in fast.items():
        _, vouched = function(*potentials(name, spread=spread))
        assert bool(vouched) == (algorithm in algorithms), algorithm


def test_a_rare_state_at_the_border_of_a_chunk_is_not_overlooked():
    """The comparison is of ratios: an absolute one would pass a state of probability 1e-9."""
    column = jnp.array([[1.0], [1e-9]])
    assert mismatch(column, 3 * column) < 1e-15
    assert_allclose(mismatch(column, column * jnp.array([[1.0], [1.001]])), 0.001)
    assert mismatch(column, jnp.array([[1.0], [0.0]])) == np.inf
    assert not mismatch(jnp.zeros((2, 1)), jnp.zeros((2, 1))) < np.inf


def test_a_near_miss_is_mended_by_one_more_pass():
    """Every pass of this map halves a difference 45 times: from 0.001 one more is enough, from 0.5 none is tried."""
    ends = jnp.array([[0.5], [0.5]])

    def run(start):
        end = ends * (1 + (start / ends - 1) * 0.5**45)
        return end, start, mismatch(start, end)

    for miss, expected in ((0.0, ends), (0.001, ends), (0.5, ends * jnp.array([[1.5], [1.0]]))):
        start, met = until_met(run, ends * jnp.array([[1 + miss], [1.0]]))
        assert_allclose(start, expected, atol=1e-8)
        assert met == (miss < 0.5)

    near, far = (
        jnp.stack([ends * jnp.array([[1 + miss], [1.0]]) for miss in misses]) for misses in ((0, 0.1), (0, 0.5))
    )
    starts, met = jax.vmap(lambda guess: until_met(run, guess))(near)
    assert_allclose(starts, jnp.stack([ends, ends]), atol=1e-8)
    assert met.tolist() == [True, True]
    assert jax.vmap(lambda guess: until_met(run, guess))(far)[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("num_steps", "num_states", "expected"),
    [
        (8191, 4, "sequential"),
        (8192, 4, "chunked"),
        (8192, 5, "sequential"),
        (65535, 12, "sequential"),
        (65536, 12, "chunked"),
        (65536, 13, "sequential"),
    ],
)
def test_the_rule_table(num_steps, num_states, expected):
    potentials = (
        jax.ShapeDtypeStruct((num_states, num_states), "float32"),
        jax.ShapeDtypeStruct((num_steps, num_states), "float32"),
    )
    assert hidden_markov_method("auto", *potentials) == expected


def test_two_sequences_in_one_where_the_loser_of_the_first_half_wins():
    """Under `P = I` a state 200 nats behind, zero in float32 and in float64 too if it were 800, comes back."""
    for dtype, gap in ((jnp.float32, 200.0), (jnp.float64, 800.0)):
        terms = jnp.zeros((40, 2), dtype).at[:10, 1].set(-gap / 10).at[10:, 1].set(gap / 10)
        log_transition = jnp.log(jnp.eye(2, dtype=dtype))
        log_initial = jnp.log(jnp.full(2, 0.5, dtype))
        value, gradient = jax.jit(jax.value_and_grad(messages.log_normalizer, argnums=2))(
            log_initial, log_transition, terms
        )
        assert_allclose(value, np.log(0.5) + 2 * gap, rtol=1e-6)
        assert_allclose(bare_value(log_initial, log_transition, terms), value, rtol=1e-6)
        assert_allclose(gradient[:, 1], jnp.ones(40, dtype))
        path = jax.jit(messages.sample_path)(random.key(0), log_initial, log_transition, terms)
        assert (path == 1).all()


def test_an_impossible_sequence_of_a_chain_that_mixes_has_a_bare_value_of_minus_infinity():
    log_initial, log_transition, terms = potentials("ordinary")
    impossible_step = terms.at[2].set(-jnp.inf)
    assert bare_value(log_initial, log_transition, impossible_step) == -jnp.inf
    first_only, second_only = jnp.array([0.0, -jnp.inf, -jnp.inf]), jnp.array([-jnp.inf, 0.0, -jnp.inf])
    assert bare_value(first_only, log_transition, terms.at[0].set(second_only)) == -jnp.inf


def test_wide_likelihoods_need_no_log_space_where_every_transition_is_possible():
    """States hundreds of nats apart, as with many neurons: zero in probability space, and rightly so."""
    arrays = log(INITIAL), log(sticky(0.9)), 500 * np.random.default_rng(1).normal(size=(50, 3))
    arrays = tuple(jnp.asarray(array, jnp.float32) for array in arrays)
    (value, gradient), vouched = fast["scaled"](*arrays)
    assert vouched
    assert_allclose((value, gradient), in_log_space(*arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [2, 9])
def test_one_member_that_needs_log_space_does_not_spoil_the_batch(shared, size):
    """Two members advance in chunks, nine without; the last needs log space."""
    names = ["ordinary"] * (size - 1) + ["identity"]
    batch = [
        tuple(array[:600] if array.ndim == 2 and len(array) > 3 else array for array in potentials(n)) for n in names
    ]
    if shared:
        batch = [(a, batch[-1][1], c) for a, _, c in batch]
        arrays = batch[0][0], batch[0][1], jnp.stack([c for *_, c in batch])
    else:
        arrays = tuple(map(jnp.stack, zip(*batch, strict=True)))
    in_axes = (None, None, 0) if shared else 0

    def value(*arguments):
        return messages.log_normalizer(*arguments, method="chunked")

    actual = jax.jit(jax.vmap(jax.value_and_grad(value, argnums=(1, 2)), in_axes))(*arrays)
    for row, member in enumerate(batch):
        desired, (_, *statistics) = in_log_space(*member)
        own = [array[row] for array in jax.tree.leaves(actual)]
        assert_allclose(own, [desired, *statistics], rtol=1e-7, atol=1e-9)


def test_the_certificate_takes_the_slow_answer_for_the_whole_batch():
    answer = certified(lambda x: (x, x > 0), lambda x: 10 * x)
    assert_allclose(jax.vmap(answer)(jnp.array([1.0, 2.0])), jnp.array([1.0, 2.0]))
    assert_allclose(jax.vmap(answer)(jnp.array([1.0, -2.0])), jnp.array([10.0, -20.0]))
    nested = jax.vmap(jax.vmap(answer))
    assert_allclose(nested(jnp.array([[1.0, 2.0], [3.0, -1.0]])), jnp.array([[10.0, 20.0], [30.0, -10.0]]))
    never = certified(lambda x: (x, x == x), lambda x: 10 * x, largest_batch=1)
    assert_allclose(jax.vmap(never)(jnp.array([1.0, 2.0])), jnp.array([10.0, 20.0]))


# Paths


def test_draws_in_chunks_are_those_of_the_sequential_form():
    draw = jax.jit(messages.sample_path, static_argnames="method")
    for name in ("ordinary", "restless", "slow"):
        paths = [draw(random.key(3), *potentials(name), method=method) for method in ("sequential", "chunked")]
        np.testing.assert_array_equal(*paths)
    uniforms = random.uniform(random.key(0), (NUM_STEPS,))
    assert jax.jit(chunked_sample_path)(uniforms, *potentials("ordinary"))[1]


@pytest.mark.parametrize("name", TRANSITIONS)
def test_most_likely_path_in_chunks_is_that_of_the_sequential_form(name):
    decode = jax.jit(messages.most_likely_path, static_argnames="method")
    paths = [np.asarray(decode(*potentials(name), method=method)) for method in ("sequential", "chunked")]

    def score(path):
        log_initial, log_transition, terms = map(np.asarray, potentials(name))
        steps = terms[np.arange(NUM_STEPS), path].sum() + log_transition[path[:-1], path[1:]].sum()
        return log_initial[path[0]] + steps

    assert_allclose(score(paths[1]), score(paths[0]), rtol=1e-12)


@pytest.mark.parametrize(("name", "decoded"), [("ordinary", True), ("restless", True), ("identity", False)])
def test_which_chains_are_decoded_in_chunks(name, decoded):
    assert jax.jit(chunked_most_likely_path)(*potentials(name, spread=1.0))[1] == decoded


def test_both_guesses_of_a_decoder_are_checked():
    scores = jnp.array([[0.0], [-3.0], [-jnp.inf]])
    columns = [scores + 2, scores.at[1].add(1e-3), scores.at[2].set(-50.0)]
    met = _scores_meet(jnp.broadcast_to(scores, (3, 3)), jnp.concatenate(columns, axis=1))
    assert met.tolist() == [True, False, False]
    forgetful, mindful = jnp.zeros((40, 2, 3), jnp.int32), jnp.broadcast_to(jnp.arange(2)[:, None], (40, 2, 3))
    assert _backtrace(forgetful, jnp.int32(1), 120)[1]
    assert not _backtrace(mindful, jnp.int32(1), 120)[1]


def test_a_backtrace_that_few_chunks_miss_goes_once_more():
    """Chunks of 2 * WARM_UP steps keep the state that they are given, but for one step that the warm-up does not see."""
    num_steps, num_chunks = 2 * WARM_UP, 8
    tables = jnp.zeros((num_steps, 2, num_chunks), jnp.int8)
    late = jnp.broadcast_to(jnp.arange(2, dtype=jnp.int8)[:, None], (num_steps, 2, num_chunks)).at[-1].set(1)
    path, met = _backtrace(tables.at[:, :, 3].set(late[:, :, 3]), jnp.int32(0), num_steps * num_chunks)
    expected = np.repeat(np.arange(num_chunks) == 3, num_steps)
    assert met
    np.testing.assert_array_equal(path[:-1], expected[:-1])


def test_most_likely_path_of_many_states():
    rng = np.random.default_rng(2)
    arrays = np.log(rng.dirichlet(np.ones(20))), np.log(rng.dirichlet(np.ones(20), 20)), rng.normal(size=(6, 20))
    path = np.asarray(messages.most_likely_path(*map(jnp.asarray, arrays)))
    scores = arrays[0] + arrays[2][0]
    back = []
    for t in range(1, 6):
        moves = scores[:, None] + arrays[1]
        back.append(moves.argmax(0))
        scores = moves.max(0) + arrays[2][t]
    desired = [scores.argmax()]
    for table in reversed(back):
        desired.append(table[desired[-1]])
    np.testing.assert_array_equal(path, desired[::-1])


def test_pick_never_takes_what_has_no_weight():
    weights = jnp.array([0.0, 2.0, 0.0, 1.0, 0.0], jnp.float32)
    numbers = jnp.array([0.0, 0.5, 0.667, 1 - 2**-24], jnp.float32)
    assert [int(pick(weights, number, axis=0)) for number in numbers] == [1, 1, 3, 3]


# Long data


@cache
def million():
    """A million steps of a four-state chain with overlapping Gaussian emissions."""
    rng = np.random.default_rng(0)
    transition = 0.95 * np.eye(4) + 0.05 * rng.dirichlet(np.ones(4), 4)
    stays, jumps = rng.uniform(size=1_000_000), rng.integers(4, size=1_000_000)
    changes = np.where(stays < 0.04, np.arange(1_000_000), 0)
    states = jumps[np.maximum.accumulate(changes)]
    values = states + rng.normal(size=1_000_000)
    terms = -0.5 * (values[:, None] - np.arange(4)) ** 2 - 0.5 * np.log(2 * np.pi)
    return np.full(4, -np.log(4)), np.log(transition), terms


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sequential", "chunked"])
def test_a_million_steps_in_float32(method):
    """Within four float32 spacings (half a nat) of float64, the same path but for ties, and no ``(T, K, K)`` array."""
    single, double = (tuple(jnp.asarray(a, dtype) for a in million()) for dtype in (jnp.float32, jnp.float64))
    value = jax.jit(messages.log_normalizer, static_argnames="method")
    assert abs(value(*single, method=method) - value(*double, method="sequential")) < 0.5
    decode = jax.jit(messages.most_likely_path, static_argnames="method")
    differ = decode(*single, method=method) != decode(*double, method="sequential")
    assert differ.mean() < 1e-5
    gradient = jax.jit(jax.grad(messages.log_normalizer, argnums=1), static_argnames="method")
    memory = gradient.lower(*single, method=method).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 12 * single[2].nbytes
    counts = [gradient(*arrays, method=method) for arrays in (single, double)]
    assert abs(counts[0] / counts[1] - 1).max() < 1e-3
