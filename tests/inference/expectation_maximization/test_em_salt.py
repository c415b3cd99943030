"""Expectation maximisation of SALT: each update against a dense solve, fixed points, monotone traces, starts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import em as reference
from tsppl.inference import data_driven_start, em, grow_rank, low_rank_factors, select_low_rank
from tsppl.inference.expectation_maximization.families import prepare, steps_of
from tsppl.inference.expectation_maximization.low_rank_regression import (
    Factors,
    NormalPrior,
    maximize_low_rank_regression,
)

K, N, L, STEPS = 2, 3, 4, 60
RANKS = {"output": 2, "input": 2, "lag": 2}
SIZES = {"output": N, "input": N, "lag": L}


def problem(seed, *, tucker, shared=()):
    rng = np.random.default_rng(seed)
    shape = {name: (1 if name in shared else K, SIZES[name], RANKS[name]) for name in RANKS}
    factors = {name: rng.normal(size=shape[name]) for name in shape}
    factors["core"] = rng.normal(size=(1 if "core" in shared else K, 2, 2, 2)) if tucker else None
    roots = rng.normal(size=(K, N, 2 * N))
    return {
        "factors": factors,
        "offset": rng.normal(size=(K, N)),
        "past": rng.normal(size=(STEPS, L, N)) + 1.0,
        "outputs": rng.normal(size=(STEPS, N)) + 2.0,
        "weights": rng.random((STEPS, K)),
        "covariance": np.einsum("kia,kja->kij", roots, roots),
    }


@partial(jax.jit, static_argnames=("free", "num_sweeps"))
def improve(factors, offset, past, outputs, weights, covariance, priors, *, free, num_sweeps=1):
    """Priors are pairs of location and scale."""
    rows = jnp.concatenate([jnp.ones((len(past), 1)), past.reshape(len(past), -1), outputs], 1)
    products = jnp.einsum("tk,ta,tb->kab", weights, rows, rows)
    scale_tril = jnp.linalg.cholesky(covariance)
    priors = {name: NormalPrior(jnp.full(scale.shape, loc), scale**-2) for name, (loc, scale) in priors.items()}
    return maximize_low_rank_regression(
        Factors(**factors), offset, products, scale_tril, priors=priors, free=free, num_sweeps=num_sweeps
    )


@partial(jax.jit, static_argnames=("fields", "joint_offset"))
def every_block(*, fields, joint_offset, **data):
    """Each block moved alone, all from the same start."""
    free = {field: (field, "offset") if joint_offset else (field,) for field in fields} or {"offset": ("offset",)}
    return {field: improve(**data, free=names) for field, names in free.items()}


@pytest.mark.parametrize(
    ("tucker", "shared", "with_prior", "offset"),
    [
        (True, ("output", "core"), True, "held"),
        (False, ("lag",), False, "joint"),
        pytest.param(True, ("input", "lag"), False, "joint", marks=pytest.mark.slow),
        pytest.param(False, (), True, "joint", marks=pytest.mark.slow),
    ],
)
def test_each_block_equals_one_dense_least_squares_problem(tucker, shared, with_prior, offset):
    data = problem(0, tucker=tucker, shared=shared)
    fields = ("output", "input", "lag", "core")[: 4 if tucker else 3]
    scales = {field: np.linspace(0.1, 0.5, data["factors"][field].size) for field in fields}
    priors = {field: (0.3, scales[field].reshape(data["factors"][field].shape)) for field in fields if with_prior}
    for field, (factors, found) in every_block(
        **data, priors=priors, fields=fields, joint_offset=offset == "joint"
    ).items():
        expected, expected_offset = reference.low_rank_block(
            field=field, prior=priors.get(field), joint_offset=offset == "joint", **data
        )
        assert_allclose(getattr(factors, field), expected, rtol=1e-8, atol=1e-8)
        assert_allclose(found, expected_offset, rtol=1e-8, atol=1e-8)
        for other in set(fields) - {field}:
            assert_allclose(getattr(factors, other), data["factors"][other])


def test_constant_term_with_a_prior_equals_its_weighted_mean():
    data = problem(1, tucker=False)
    priors = {"offset": (1.0, np.full((K, N), 0.2))}
    _, found = every_block(**data, priors=priors, fields=(), joint_offset=True)["offset"]
    tensor = reference.low_rank_weights(data["factors"])
    for k in range(K):
        residuals = data["outputs"] - np.einsum("lij,nlj->ni", tensor[k], data["past"])
        precision, weights = np.linalg.inv(data["covariance"][k]), data["weights"][:, k]
        normal = weights.sum() * precision + np.eye(N) / 0.2**2
        assert_allclose(found[k], np.linalg.solve(normal, precision @ (weights @ residuals) + 1.0 / 0.2**2), rtol=1e-8)


def test_what_the_data_leave_open_keeps_its_value():
    data = problem(2, tucker=True)
    data["weights"][:, 1] = 0.0
    data["past"][..., 1:] = data["past"][..., :1]
    factors, offset = improve(**data, priors={}, free=("output", "core", "input", "lag", "offset"), num_sweeps=30)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((factors, offset)))
    for name, factor in data["factors"].items():
        assert_allclose(getattr(factors, name)[1], factor[1])
    assert_allclose(offset[1], data["offset"][1])


INITIAL, TRANSITION = np.full(2, 0.5), np.array([[0.9, 0.1], [0.1, 0.9]])
LENGTHS = np.array([120, 90])


def series(seed, num_steps=120, size=2):
    """Two series, the states in turn: ten steps each."""
    rng = np.random.default_rng(seed)
    weights, value = 0.4 * rng.normal(size=(2, 2, size, size)), np.zeros((2, num_steps, size))
    for t in range(2, num_steps):
        k = t // 10 % 2
        value[:, t] = value[:, t - 1] @ weights[k, 0].T + value[:, t - 2] @ weights[k, 1].T + 1 - 2 * k
        value[:, t] += 0.5 * rng.normal(size=(2, size))
    return weights, value


LOC = np.array([[0.5, -0.5], [-0.5, 0.5]])
NOISES = {"full": dist.MultivariateNormal(LOC, np.eye(2)), "diagonal": dist.Normal(LOC, 1.0).to_event(1)}


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_full_rank_reaches_the_fixed_point_of_the_dense_model_through_gaps_and_ragged_ends(noise):
    weights, value = series(1)
    mask = np.random.default_rng(2).random(value.shape) > 0.05
    options = {"num_steps": 120, "lengths": LENGTHS, "mask": mask}
    identity = np.broadcast_to(np.eye(2), (2, 2, 2))
    start = 0.1 * weights
    dense = tsd.AutoregressiveHMM(INITIAL, TRANSITION, start, NOISES[noise], **options)
    low_rank = tsd.SALT(
        INITIAL, TRANSITION, identity, identity, identity, NOISES[noise], core=np.moveaxis(start, 1, -1), **options
    )
    dense, low_rank = (em(model, value, num_iters=500, tol=1e-12) for model in (dense, low_rank))
    assert np.diff(low_rank.log_likelihoods).min() > -1e-9
    assert_allclose(low_rank.log_likelihoods[-1], dense.log_likelihoods[-1], rtol=1e-8)
    assert_allclose(low_rank.distribution.weights, dense.distribution.weights, atol=1e-5)


def random_problem(key, *, tucker, shared, with_priors, num_steps=80):
    """A random start on a random walk with noise: nothing that the model would fit well."""
    keys = jax.random.split(key, 6)
    value = 0.3 * jax.random.normal(keys[0], (num_steps, N)).cumsum(0) + jax.random.normal(keys[1], (num_steps, N))
    output, inputs = (jax.random.normal(k, (s, N, 2)) for k, s in zip(keys[2:4], (1 if shared else K, K), strict=True))
    lag = 0.3 * jax.random.normal(keys[4], (K, L, 2))
    core = jax.random.normal(keys[5], (K, 2, 2, 2)) if tucker else None
    noise = dist.MultivariateNormal(jnp.zeros(N), jnp.eye(N))
    model = tsd.SALT(INITIAL, TRANSITION, output, inputs, lag, noise, core=core, num_steps=num_steps)
    priors = {"noise.covariance_matrix": dist.InverseWishart(N + 2.0, scale_matrix=jnp.eye(N)).expand([K])}
    if with_priors:
        priors |= {
            "output_factors": dist.Normal(0.0, 1.0),
            "input_factors": dist.Normal(0.1, jnp.ones((N, 2))).to_event(2),
            "lag_factors": dist.Normal(0.0, 0.5 ** jnp.arange(L)[:, None]),
            "noise.loc": dist.Normal(0.0, 1.0),
        }
    return model, value, priors


@partial(jax.jit, static_argnames=("num_iters",))
def objectives(model, value, priors, num_iters):
    """Log-likelihood plus log prior along EM's own steps; `em` itself would hide a fall."""
    steps = steps_of(model)

    def step(model, _):
        log_likelihood, statistics = steps.expect(model, value)
        updated = steps.maximize(model, value, statistics, priors, ())
        return updated, log_likelihood + steps.log_prior(model, priors)

    return jax.lax.scan(step, prepare(model, value, ()), length=num_iters)[1]


MONOTONE = [
    (True, True, True, 4, 30),
    (True, False, False, 50, 100),
    (False, True, False, 50, 100),
    (False, False, True, 50, 100),
]


@pytest.mark.slow
@pytest.mark.parametrize(("tucker", "shared", "with_priors", "num_problems", "num_iters"), MONOTONE)
def test_objective_never_falls(tucker, shared, with_priors, num_problems, num_iters, key):
    make = partial(random_problem, tucker=tucker, shared=shared, with_priors=with_priors)

    def run(key):
        model, value, priors = make(key)
        return objectives(model, value, priors, num_iters)

    traces = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(key, num_problems)))
    assert np.isfinite(traces).all()
    assert (traces[:, -1] - traces[:, 0]).min() > 50
    assert np.diff(traces).min() > -1e-9


def low_rank_truth(rng, num_steps=1500):
    """Three states of 50 steps in turn, six channels, eight lags, rank two, largest companion eigenvalue 0.95."""
    num_states, size, num_lags = 3, 6, 8
    output, inputs = rng.normal(size=(2, num_states, size, 2))
    lag = rng.normal(size=(num_states, num_lags, 2))
    for k, weights in enumerate(np.einsum("kid,kjd,kld->klij", output, inputs, lag)):
        companion = np.eye(size * num_lags, k=-size)
        companion[:size] = np.concatenate(list(weights), axis=1)
        radius = np.abs(np.linalg.eigvals(companion)).max()
        lag[k] *= (0.95 / radius) ** np.arange(1, num_lags + 1)[:, None]
    loc = 0.3 * rng.normal(size=(num_states, size))
    noise = dist.MultivariateNormal(loc, 0.25 * np.eye(size))
    chain = np.full(num_states, 1 / 3), 0.03 / 2 * (1 - np.eye(num_states)) + 0.97 * np.eye(num_states)
    truth = tsd.SALT(*chain, output, inputs, lag, noise, num_steps=num_steps)
    weights, states = np.asarray(truth.weights), np.repeat(rng.integers(0, num_states, num_steps // 50), 50)
    value = np.zeros((num_steps, size))
    for t in range(num_lags, num_steps):
        mean = sum(weights[states[t], lag] @ value[t - 1 - lag] for lag in range(num_lags))
        value[t] = mean + loc[states[t]] + 0.5 * rng.normal(size=size)
    return truth, states, value


@pytest.mark.slow
def test_starts_from_the_data_recover_a_tensor_of_rank_two_and_a_higher_rank_begins_where_it_ended(key):
    truth, states, value = low_rank_truth(np.random.default_rng(0))
    start = data_driven_start(key, truth, value)
    best = float(truth.log_prob(value))
    result = em(start, value, num_iters=200, tol=1e-5, num_restarts=3, key=jax.random.key(1))
    assert result.converged
    assert float(start.log_prob(value)) < best - 100
    assert best < result.log_likelihoods[-1] < best + 200
    found = np.asarray(result.distribution.weights)
    distances = np.abs(found[:, None] - np.asarray(truth.weights)).max((2, 3, 4))
    assert sorted(distances.argmin(1)) == [0, 1, 2]
    assert distances.min(1).max() < 0.15
    path = np.asarray(result.distribution.latent_mode(value)["states"])[8:]
    assert (distances.argmin(1)[path] == states[8:]).mean() > 0.97
    grown = grow_rank(result.distribution, 3, key)
    assert_allclose(grown.log_prob(value), result.log_likelihoods[-1])
    again = em(grown, value, num_iters=5)
    assert again.log_likelihoods[1] > again.log_likelihoods[0] + 1
    tucker = tsd.SALT(
        INITIAL_3, TRANSITION_3, **low_rank_factors(found, (2, 2, 2)), noise=truth.noise, num_steps=len(value)
    )
    assert_allclose(tucker.weights, found, atol=1e-9)
    grown = grow_rank(tucker, (3, 2, 4), key)
    assert_allclose(grown.log_prob(value), tucker.log_prob(value))


INITIAL_3, TRANSITION_3 = np.full(3, 1 / 3), np.full((3, 3), 1 / 3)


@pytest.mark.parametrize("shared", [(), ("output_factors",)])
def test_factors_of_a_tensor_of_low_rank_are_exact_and_shared_ones_have_one_state(shared):
    rng = np.random.default_rng(3)
    factors = {
        "output": rng.normal(size=(1, 4, 2)),
        "input": rng.normal(size=(3, 4, 2)),
        "lag": rng.normal(size=(3, 5, 2)),
    }
    for core in (None, rng.normal(size=(3, 2, 2, 2))):
        weights = reference.low_rank_weights(factors | {"core": core})
        for ranks in ((2, 2, 2),) if core is not None else (2, (2, 2, 2)):
            found = low_rank_factors(weights, ranks, shared=shared)
            again = dict(zip(("output", "input", "lag", "core"), found.values(), strict=True))
            assert_allclose(reference.low_rank_weights(again), weights, atol=1e-6)
            assert len(found["output_factors"]) == (1 if shared else 3)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [(), ("output_factors",)])
def test_low_rank_factors_of_any_tensor_are_as_good_as_a_random_search(shared):
    weights = np.random.default_rng(4).normal(size=(2, 5, 3, 3))
    # Regression on unit vectors, in each state its own, is least squares on the tensor itself.
    past = np.tile(np.eye(15), (2, 1)).reshape(30, 5, 3)
    outputs = weights.transpose(0, 1, 3, 2).reshape(30, 3)
    data = {
        "past": past,
        "outputs": outputs,
        "weights": np.repeat(np.eye(2), 15, 0),
        "covariance": np.stack([np.eye(3)] * 2),
    }

    def distance(factors):
        again = dict(zip(("output", "input", "lag", "core"), factors.values(), strict=True))
        return np.linalg.norm(reference.low_rank_weights(again) - weights)

    for ranks in (2, (2, 2, 2)):
        mine = distance(low_rank_factors(weights, ranks, shared=shared, num_sweeps=300))
        others = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            start = {"output": rng.normal(size=(1 if shared else 2, 3, 2)), "input": rng.normal(size=(2, 3, 2))}
            core = None if ranks == 2 else rng.normal(size=(2, 2, 2, 2))
            start |= {"lag": rng.normal(size=(2, 5, 2)), "core": core}
            free = ("output", "input", "lag") + (() if core is None else ("core",))
            factors, _ = improve(start, np.zeros((2, 3)), **data, priors={}, free=free, num_sweeps=300)
            others.append(distance(factors._asdict()))
        assert min(others) * 0.999 < mine < min(others) * 1.02


def test_log_prior_is_the_sum_over_the_entries_of_every_factor():
    arrays = np.random.default_rng(0).normal(size=(2, 2, 2, 1))
    model = tsd.SALT(INITIAL, TRANSITION, arrays[0][:1], arrays[1], arrays[0], NOISES["full"], num_steps=10)
    scale = np.array([[0.5], [0.2]])
    priors = {
        "output_factors": dist.Normal(0.5, 2.0).expand([2, 1]).to_event(2),
        "lag_factors": dist.Normal(0.0, scale),
        "noise.loc": dist.Normal(1.0, 0.3),
    }
    expected = (
        scipy.stats.norm(0.5, 2.0).logpdf(arrays[0][:1]).sum()
        + scipy.stats.norm(0.0, scale).logpdf(arrays[0]).sum()
        + scipy.stats.norm(1.0, 0.3).logpdf(LOC).sum()
    )
    assert_allclose(steps_of(model).log_prior(model, priors), expected)


@pytest.mark.slow
def test_held_parameters_stay_and_other_noises_and_priors_climb():
    weights, value = series(3)
    arrays = np.ones((1, 2, 1)), np.ones((2, 2, 1)), np.array([[[0.3], [0.1]], [[-0.3], [0.1]]])
    gaussian = tsd.SALT(INITIAL, TRANSITION, *arrays, NOISES["full"], num_steps=120)
    student = tsd.SALT(
        INITIAL,
        TRANSITION,
        *arrays,
        dist.StudentT(5.0, LOC, 1.0).to_event(1),
        core=np.ones((2, 1, 1, 1)),
        num_steps=120,
    )
    for model, held, priors in (
        (gaussian, ("output_factors", "noise.loc"), {}),
        (gaussian, ("lag_factors", "noise.covariance_matrix"), {"input_factors": dist.Normal(0.5, 0.1)}),
        (gaussian, ("input_factors", "transition_probs"), {"lag_factors": dist.Laplace(0.0, 0.1)}),
        (student, ("core", "initial_probs"), {"noise.df": dist.Gamma(2.0, 0.1)}),
        (student, ("output_factors", "core", "input_factors", "lag_factors", "noise"), {}),
    ):
        result = em(model, value, num_iters=30, tol=-1.0, fixed=held, priors=priors)
        assert np.diff(result.log_likelihoods).min() >= 0
        assert result.log_likelihoods[-1] > result.log_likelihoods[0] + 1
        fitted = result.distribution
        for name in ("output_factors", "input_factors", "lag_factors", "core"):
            if getattr(model, name) is not None:
                assert np.array_equal(getattr(fitted, name), getattr(model, name)) == (name in held), name
        if "noise.loc" in held:
            assert_allclose(fitted.noise.loc, LOC)
        if "noise.covariance_matrix" in held:
            assert_allclose(fitted.noise.covariance_matrix, np.broadcast_to(np.eye(2), (2, 2, 2)))
        if "transition_probs" in held:
            assert_allclose(fitted.transition_probs, TRANSITION)


@pytest.mark.slow
def test_single_precision_far_from_zero_agrees_with_double():
    truth, _, value = low_rank_truth(np.random.default_rng(0), num_steps=500)
    arrays = {name: getattr(truth, name) for name in ("output_factors", "input_factors", "lag_factors")}
    arrays = {name: 0.9 * np.asarray(array) for name, array in arrays.items()}
    loc = np.asarray(truth.noise.loc)
    moved = (
        100.0
        - np.einsum(
            "kid,kd->ki", arrays["output_factors"], arrays["input_factors"].sum(1) * arrays["lag_factors"].sum(1)
        )
        * 100.0
    )
    double = tsd.SALT(INITIAL_3, TRANSITION_3, **arrays, noise=dist.MultivariateNormal(loc, np.eye(6)), num_steps=500)
    single = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32),
        tsd.SALT(
            INITIAL_3, TRANSITION_3, **arrays, noise=dist.MultivariateNormal(loc + moved, np.eye(6)), num_steps=500
        ),
    )
    double = em(double, value, num_iters=20)
    single = em(single, jnp.asarray(value + 100.0, jnp.float32), num_iters=20)
    assert {leaf.dtype for leaf in jax.tree.leaves(single.distribution)} == {jnp.dtype("float32")}
    assert_allclose(single.log_likelihoods[-1], double.log_likelihoods[-1], rtol=2e-3)
    assert_allclose(single.distribution.weights, double.distribution.weights, atol=2e-2)


@pytest.mark.slow
def test_selection_finds_rank_and_lags_of_the_truth(key):
    truth, _, value = low_rank_truth(np.random.default_rng(0), num_steps=1500)
    table = select_low_rank(
        value[:1000],
        value[1000:],
        ranks=[2, None],
        num_lags=[2, 8],
        num_states=3,
        key=key,
        num_restarts=1,
        num_iters=30,
        priors=lambda lags: {"lag_factors": dist.Normal(0.0, 3.0 * 0.9 ** jnp.arange(lags)[:, None])},
        progress_bar=False,
    )
    assert table.ranks == (2, None) * 2
    assert table.num_lags == (2, 2, 8, 8)
    assert table.num_weights.tolist() == [84, 216, 120, 864]
    assert table.held_out.argmax() == 2
    best = table.distributions[2]
    conditioned = tsd.SALT(
        best.initial_probs,
        best.transition_probs,
        best.output_factors,
        best.input_factors,
        best.lag_factors,
        best.noise,
        num_steps=500,
    )
    assert_allclose(table.held_out[2], conditioned.log_prob(value[1000:]) / 492)


ARRAYS = np.ones((2, 2, 1)), np.ones((2, 2, 1)), np.full((2, 2, 1), 0.1)
CP = tsd.SALT(INITIAL, TRANSITION, *ARRAYS, NOISES["full"], num_steps=10)
BATCH = tsd.SALT(INITIAL, TRANSITION, np.ones((3, 2, 2, 1)), *ARRAYS[1:], NOISES["full"], num_steps=10)
VALUE = np.random.default_rng(0).normal(size=(10, 2))
ERRORS = [
    (lambda: em(CP, VALUE, fixed=("core",)), ValueError, "fixed names 'core'; the parameters are .*'lag_factors'"),
    (
        lambda: em(CP, VALUE, priors={"lag_factors": dist.Normal(np.zeros((3, 2, 2, 1)))}),
        ValueError,
        r"shape \(3, 2, 2, 1\)",
    ),
    (lambda: em(BATCH, VALUE), NotImplementedError, r"output_factors has batch shape \(3, 2\)"),
    (lambda: grow_rank(CP, (2, 2, 2), jax.random.key(0)), ValueError, "this SALT is CP: pass an integer from 1 up"),
    (lambda: low_rank_factors(np.ones((1, 2, 3, 3)), (3, 3, 3)), ValueError, r"from 1 to \(N, N, L\) = \(3, 3, 2\)"),
    (lambda: low_rank_factors(np.ones((2, 3, 3)), 1), ValueError, r"weights has shape \(2, 3, 3\)"),
    (lambda: low_rank_factors(np.ones((1, 2, 3, 3)), 1, shared=("lag",)), ValueError, "shared names 'lag'"),
    (
        lambda: select_low_rank(VALUE, VALUE[:, :1], ranks=[1], num_lags=[1], num_states=1, key=None),
        ValueError,
        r"held_out has shape \(10, 1\)",
    ),
    (
        lambda: select_low_rank(VALUE, VALUE, ranks=[], num_lags=[1], num_states=1, key=None),
        ValueError,
        "at least one of each",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
