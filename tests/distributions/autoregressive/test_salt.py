"""SALT against sums over all indices, the dense autoregressive HMM, and the Kalman filter."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import low_rank as reference
from tsppl.messages.autoregressive import low_rank as messages

K, L, N, T = 2, 3, 2, 9
RNG = np.random.default_rng(0)
INITIAL, TRANSITION = np.array([0.3, 0.7]), np.array([[0.9, 0.1], [0.3, 0.7]])
BIAS, COVARIANCE = RNG.normal(size=(K, N)), np.stack([0.5 * np.eye(N) + 0.1 * (k + 1) for k in range(K)])
NOISE = dist.MultivariateNormal(BIAS, COVARIANCE)
VALUE = RNG.normal(size=(T, N))


def draw_factors(ranks, *, states=(K, K, K, K), size=N, num_lags=L, tucker=True, seed=1):
    rng = np.random.default_rng(seed)
    shapes = [(size, ranks[0]), (size, ranks[1]), (num_lags, ranks[2]), ranks]
    factors = [0.5 * rng.normal(size=(n,) + tuple(shape)) for n, shape in zip(states, shapes, strict=True)]
    return factors if tucker else [*factors[:3], None]


def build(outputs, inputs, lags, core=None, **options):
    options = {"noise": NOISE, "num_steps": T} | options
    return tsd.SALT(INITIAL, TRANSITION, outputs, inputs, lags, core=core, **options)


def build_dense(weights, **options):
    return tsd.AutoregressiveHMM(INITIAL, TRANSITION, weights, **({"noise": NOISE, "num_steps": T} | options))


@jax.jit
def log_prob(model, value):
    return model.log_prob(value)


@jax.jit
def steps(model, value):
    return model.log_prob_steps(value)


FACTORS = {
    "CP": draw_factors((2, 2, 2), tucker=False),
    "Tucker": draw_factors((2, 1, 3)),
    "CP, shared outputs": draw_factors((2, 2, 2), states=(1, K, K, K), tucker=False),
    "Tucker, shared inputs and core": draw_factors((3, 2, 2), states=(K, 1, K, 1)),
}
each_form = pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)


def of_each_state(factors):
    return [None if factor is None else np.broadcast_to(factor, (K,) + factor.shape[1:]) for factor in factors]


# Means through the factors


@each_form
def test_weights_and_means_equal_sums_over_all_indices(factors):
    desired = reference.dense_weights(*of_each_state(factors))
    assert_allclose(messages.dense_weights(*factors), desired)
    assert_allclose(jax.jit(messages.low_rank_means)(*factors, VALUE), reference.means(desired, VALUE))


@pytest.mark.parametrize("tucker", [False, True], ids=["CP", "Tucker"])
@pytest.mark.parametrize("size", [1, 4])
def test_means_and_their_gradient_are_the_same_however_the_series_is_cut(size, tucker, monkeypatch):
    monkeypatch.setattr(messages, "_block_size", lambda num_lags: size)
    factors = draw_factors((2, 2, 2), num_lags=5, tucker=tucker)
    target = np.random.default_rng(3).normal(size=(T, K, N))

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def through_factors(factors, values):
        return (target * messages.low_rank_means(*factors, values)).sum()

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def through_weights(factors, values):
        lagged = [jnp.pad(values, ((lag + 1, 0), (0, 0)))[:T] for lag in range(5)]
        means = jnp.einsum("klij,ltj->tki", messages.dense_weights(*factors), jnp.stack(lagged))
        return (target * means).sum()

    arguments = [jnp.asarray(factor) for factor in factors if factor is not None] + [None] * (not tucker)
    assert_allclose(through_factors(arguments, VALUE), through_weights(arguments, VALUE))


@pytest.mark.parametrize("num_lags", [8, 33, 200])
def test_blocks_of_long_lags(num_lags):
    factors = draw_factors((1, 1, 1), num_lags=num_lags, tucker=False)
    values = np.random.default_rng(4).normal(size=(90, N))
    desired = reference.means(reference.dense_weights(*factors), values)
    assert_allclose(jax.jit(messages.low_rank_means)(*factors, values), desired)


def largest_array(jaxpr):
    sizes = [variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars]
    inner = [largest_array(inner) for equation in jaxpr.eqns for inner in jax.core.jaxprs_in_params(equation.params)]
    return max(sizes + inner)


@pytest.mark.parametrize("ranks", [None, (2, 2, 2)], ids=["CP", "Tucker"])
def test_neither_the_weights_nor_a_copy_of_the_lags_is_built(ranks):
    size, num_lags, num_steps = 50, 40, 300
    factors = draw_factors((2, 2, 2), size=size, num_lags=num_lags, tucker=ranks is not None)
    values = np.zeros((num_steps, size))
    gradient = jax.grad(lambda factors, values: messages.low_rank_means(*factors, values).sum(), argnums=(0, 1))
    largest = largest_array(jax.make_jaxpr(gradient)(factors, values).jaxpr)
    assert largest == num_steps * K * size < min(K * num_lags * size**2, num_steps * num_lags * size)


# The distribution


@pytest.mark.smoke
def test_full_rank_tucker_equals_the_dense_model_in_value_gradient_and_states():
    factors = [jnp.asarray(factor) for factor in draw_factors((N, N, L))]
    desired, dense_gradient = jax.jit(
        jax.value_and_grad(lambda f: build_dense(messages.dense_weights(*f)).log_prob(VALUE))
    )(factors)
    actual, gradient = jax.jit(jax.value_and_grad(lambda f: build(*f).log_prob(VALUE)))(factors)
    assert_allclose(actual, desired)
    assert_allclose(gradient, dense_gradient)
    ask = jax.jit(lambda model: (model.latent_marginals(VALUE), model.latent_mode(VALUE)))
    assert_allclose(ask(build(*factors)), ask(build_dense(reference.dense_weights(*map(np.asarray, factors)))))


@pytest.mark.parametrize("name", ["CP, shared outputs", "Tucker, shared inputs and core"])
def test_student_noise_masks_and_scored_steps_equal_the_dense_model_of_its_weights(name):
    mask = np.arange(T) != 5
    noise = dist.StudentT(5.0, BIAS, np.array([[0.5], [1.0]])).to_event(1)
    options = {"noise": noise, "mask": mask, "num_conditioned": 4}
    value = np.where(mask[:, None], VALUE, np.nan)
    model = build(*FACTORS[name], **options)
    dense = build_dense(model.weights, **options)
    assert_allclose(model.log_prob_steps(value), dense.log_prob_steps(value))
    assert (
        model.scored_steps(value).tolist() == dense.scored_steps(value).tolist() == [False] * 4 + [True] + [False] * 4
    )


def test_all_factors_shared_leave_the_noise_and_the_chain_to_the_states():
    factors = draw_factors((2, 2, 2), states=(1, 1, 1, 1))
    model = build(*factors)
    assert model.weights.shape == (1, L, N, N)
    assert_allclose(log_prob(model, VALUE), log_prob(build_dense(np.repeat(model.weights, K, 0)), VALUE))


def test_batch_of_ragged_series_equals_the_series_one_by_one():
    lengths = np.array([T, 5])
    factors = draw_factors((2, 2, 2), tucker=False)[:3]
    inputs = np.stack([factors[1], -0.5 * factors[1]])
    values = np.random.default_rng(5).normal(size=(2, T, N))
    padded = np.where(np.arange(T)[:, None] < lengths[:, None, None], values, np.nan)
    together = log_prob(build(factors[0], inputs, factors[2], lengths=lengths), padded)
    for each, value, length, actual in zip(inputs, values, lengths, together, strict=True):
        weights = reference.dense_weights(factors[0], each, factors[2])
        assert_allclose(actual, log_prob(build_dense(weights, num_steps=int(length)), value[:length]))


def test_forecast_without_noise_follows_the_weights():
    factors = draw_factors((2, 2, 2), tucker=False)
    noise = dist.Normal(jnp.zeros((1, N)), 1e-9).to_event(1)
    model = tsd.SALT(np.ones(1), np.ones((1, 1)), *(factor[:1] for factor in factors[:3]), noise, num_steps=T)
    ahead = jax.jit(lambda model: model.forecast(jax.random.key(0), VALUE, 2)["value"])(model)
    series = np.concatenate([VALUE, ahead])
    assert_allclose(ahead, reference.means(np.asarray(model.weights), series)[T:, 0], atol=1e-7)


# Impulse responses and stability


def test_impulse_response_is_what_an_impulse_does():
    model = build(*FACTORS["CP"])
    weights, steps = np.asarray(model.weights), 6
    desired = np.zeros((K, steps + 1, N, N))
    for k, channel in np.ndindex(K, N):
        series = np.zeros((L + steps + 1, N))
        series[L, channel] = 1.0
        for t in range(L + 1, L + steps + 1):
            series[t] = sum(weights[k, lag] @ series[t - 1 - lag] for lag in range(L))
        desired[k, :, :, channel] = series[L:]
    assert_allclose(model.impulse_response(steps), desired)
    assert_allclose(build_dense(weights).impulse_response(steps), desired)
    assert model.expand((4,)).impulse_response(2).shape == (4, K, 3, N, N)


def test_impulse_response_of_a_scalar_series_is_a_sequence_of_numbers():
    model = tsd.AutoregressiveHMM(INITIAL, TRANSITION, np.array([[0.5], [-0.5]]), dist.Normal(0.0, 1.0), num_steps=T)
    assert_allclose(model.impulse_response(3), np.array([[1, 0.5, 0.25, 0.125], [1, -0.5, 0.25, -0.125]]))


def test_companion_eigenvalues_are_the_roots_of_the_autoregression():
    model = build(*FACTORS["Tucker"])
    for weights, eigenvalues in zip(np.asarray(model.weights), model.companion_eigenvalues(), strict=True):
        companion = np.zeros((L * N, L * N))
        companion[:N] = np.concatenate(weights, axis=1)
        companion[N:, :-N] = np.eye((L - 1) * N)
        assert_allclose(np.sort_complex(eigenvalues), np.sort_complex(np.linalg.eigvals(companion)), atol=1e-7)


def test_weights_that_vary_in_time_have_no_impulse_response():
    model = build_dense(np.zeros((T, K, L, N, N)), time_varying=("weights",))
    with pytest.raises(ValueError, match="weights vary in time"):
        model.impulse_response(3)


# The predictor of a linear-Gaussian model


def oscillators(seed=0, size=3, radius=0.97, **options):
    """Five dimensions: two slow oscillations and a level, all mixed into the channels."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((5, 5))
    for index, angle in enumerate((0.5, 1.4)):
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        transition[2 * index : 2 * index + 2, 2 * index : 2 * index + 2] = radius * rotation
    transition[4, 4] = 0.9
    return tsd.LinearGaussianSSM(
        dist.Normal(jnp.zeros(5), 1.0).to_event(1),
        transition,
        dist.Normal(rng.normal(size=5), 0.3).to_event(1),
        rng.normal(size=(size, 5)),
        dist.MultivariateNormal(rng.normal(size=size), np.eye(size) + 0.5),
        **({"num_steps": 80} | options),
    )


def test_predictor_equals_the_kalman_filter_once_it_has_settled():
    ssm = oscillators(radius=0.8)
    value = np.random.default_rng(6).normal(size=(80, 3))
    model = tsd.SALT.from_linear_gaussian(ssm, 60)
    assert model.core.shape == (1, 5, 5, 5)
    settled = slice(70, None)
    assert_allclose(steps(model, value)[settled], steps(ssm, value)[settled])


def test_predictor_equals_a_filter_run_until_it_settles():
    ssm = oscillators()
    weights, covariance, _ = reference.settled_predictor(
        np.asarray(ssm.transition_matrix), 0.09 * np.eye(5), np.asarray(ssm.emission_matrix), np.eye(3) + 0.5, 12
    )
    model = tsd.SALT.from_linear_gaussian(ssm, 12)
    assert_allclose(model.weights[0], weights)
    assert_allclose(model.noise.covariance_matrix[0], covariance)


def test_few_lags_predict_the_mean_of_the_series_at_its_mean():
    """The bias puts what the lags left out would have added at its mean."""
    ssm = oscillators()
    mean = np.linalg.solve(
        np.eye(5) - np.asarray(ssm.transition_matrix), np.asarray(ssm.transition_noise.base_dist.loc)
    )
    series_mean = np.asarray(ssm.emission_matrix) @ mean + np.asarray(ssm.emission_noise.loc)
    model = tsd.SALT.from_linear_gaussian(ssm, 2)
    assert_allclose(model.weights[0].sum(0) @ series_mean + model.noise.loc[0], series_mean)


def test_driven_random_walks_and_batches_of_models_have_predictors_too():
    """A local level that is driven through a noise matrix, of another size for each series."""
    one, driving = dist.Normal(jnp.zeros(1), 1.0).to_event(1), np.array([0.5, 2.0])
    walk = tsd.LinearGaussianSSM(
        one, jnp.eye(1), one, jnp.ones((1, 1)), one, num_steps=T, noise_matrix=driving[:, None, None]
    )
    model, report = tsd.SALT.from_linear_gaussian(walk, 4), tsd.low_rank_report(walk, 4)
    assert model.batch_shape == (2,)
    for index, scale in enumerate(driving):
        weights, covariance, gamma = reference.settled_predictor(
            np.eye(1), np.full((1, 1), scale**2), np.eye(1), np.eye(1), 4
        )
        assert_allclose(model.weights[index, 0], weights)
        assert_allclose(model.noise.covariance_matrix[index, 0], covariance)
        assert_allclose(report.eigenvalues[index].real, gamma[0])
        assert_allclose(report.truncation_error[index], gamma.item() ** 4)


def test_ranks_and_truncation_error_of_the_theory():
    ssm = oscillators()
    report = tsd.low_rank_report(ssm, 10)
    _, _, gamma = reference.settled_predictor(
        np.asarray(ssm.transition_matrix), 0.09 * np.eye(5), np.asarray(ssm.emission_matrix), np.eye(3) + 0.5, 1
    )
    assert_allclose(np.sort_complex(report.eigenvalues), np.sort_complex(np.linalg.eigvals(gamma)), atol=1e-9)
    assert (report.num_real, report.num_pairs, report.tucker_rank, report.cp_rank) == (1, 2, 5, 7)
    tensor = np.asarray(tsd.SALT.from_linear_gaussian(oscillators(size=6), 40).weights[0])
    for axis in range(3):
        unfolded = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
        assert np.linalg.matrix_rank(unfolded, tol=1e-9) == 5
    errors = [tsd.low_rank_report(ssm, num_lags).truncation_error for num_lags in (10, 30, 50)]
    rate = abs(report.eigenvalues[0]) ** 20
    assert errors[1] / errors[0] == pytest.approx(rate, rel=0.5)
    assert errors[2] / errors[1] == pytest.approx(rate, rel=0.5)


def test_truncation_error_is_the_sum_of_the_weights_left_out():
    ssm = oscillators()
    all_weights = np.abs(tsd.SALT.from_linear_gaussian(oscillators(num_steps=500), 400).weights[0])
    assert_allclose(tsd.low_rank_report(ssm, 4).truncation_error, all_weights[4:].sum(0).max(), rtol=1e-7)


# Errors


def unseen(eigenvalue):
    """The first dimension does not reach the series."""
    two, one = (dist.Normal(jnp.zeros(n), 1.0).to_event(1) for n in (2, 1))
    return tsd.LinearGaussianSSM(
        two, jnp.diag(jnp.array([eigenvalue, 0.5])), two, jnp.array([[0.0, 1.0]]), one, num_steps=T
    )


def undriven():
    """A constant that is learnt ever better."""
    one = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    return tsd.LinearGaussianSSM(
        one, jnp.eye(1), one, jnp.ones((1, 1)), one, num_steps=T, noise_matrix=jnp.zeros((1, 1))
    )


def scalar():
    one = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    return tsd.LinearGaussianSSM(one, jnp.eye(1), one, jnp.ones(1), dist.Normal(0.0, 1.0), num_steps=T)


OUTPUTS, INPUTS, LAGS, CORE = FACTORS["Tucker"]
MISTAKES = {
    "ranks differ without a core": (
        lambda: build(OUTPUTS, INPUTS, LAGS),
        r"ranks \(2, 1, 3\), and without a core \(CP\) they must be equal.*core of shape \(\.\.\., 2, 2, 1, 3\)",
    ),
    "core of other ranks": (
        lambda: build(OUTPUTS, INPUTS, LAGS, CORE[:, :, :, :2]),
        r"core has shape \(2, 2, 1, 2\); the shape \(\.\.\., 2, 2, 1, 3\) is needed",
    ),
    "channels differ from the noise": (
        lambda: build(np.ones((K, 3, 1)), INPUTS, LAGS[..., :1]),
        r"output_factors has shape \(2, 3, 1\); the shape \(\.\.\., 2, 2, any\) is needed",
    ),
    "factor for too many states": (
        lambda: build(OUTPUTS, np.ones((3, N, 1)), LAGS, CORE),
        r"input_factors has shape \(3, 2, 1\); the shape \(\.\.\., 2, 2, any\) is needed",
    ),
    "factor without a state axis": (
        lambda: build(OUTPUTS, INPUTS, LAGS[0], CORE),
        r"lag_factors has shape \(3, 3\); the shape \(\.\.\., 2, any, any\) is needed",
    ),
    "more lags than steps": (
        lambda: build(*draw_factors((1, 1, 1), num_lags=T)),
        "lag_factors has 9 lags and num_steps is 9",
    ),
    "scalar noise": (
        lambda: build(*FACTORS["CP"], noise=dist.Normal(jnp.zeros(K), 1.0)),
        r"noise has event shape \(\); it must be \(N,\).*AutoregressiveHMM",
    ),
    "factors named as varying in time": (
        lambda: build(*FACTORS["CP"], time_varying=("lag_factors",)),
        "SALT has no argument 'lag_factors' that can vary in time",
    ),
    "initial of the wrong number of lags": (
        lambda: build(*FACTORS["CP"], initial=dist.Normal(jnp.zeros(N), 1.0).to_event(1)),
        r"initial has event shape \(2,\); with 3 lags it must be \(3, 2\)",
    ),
    "fewer conditioned steps than lags": (
        lambda: build(*FACTORS["CP"], num_conditioned=2),
        "num_conditioned is 2; it must be from the number of lags, 3, to num_steps - 1 = 8",
    ),
    "a unit root that is not seen": (lambda: tsd.SALT.from_linear_gaussian(unseen(1.0), 2), "never settles"),
    "growth that is not seen": (lambda: tsd.SALT.from_linear_gaussian(unseen(1.2), 2), "never settles"),
    "a constant that is not driven": (
        lambda: tsd.low_rank_report(undriven(), 2),
        "never settles.*driven by transition_noise",
    ),
    "a scalar series": (
        lambda: tsd.low_rank_report(scalar(), 2),
        r"give the series one channel, emission_matrix \(\.\.\., 1, D\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_say_what_to_pass(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_predictor_needs_constant_and_concrete_arguments():
    ssm = oscillators(num_steps=T)
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda ssm: tsd.SALT.from_linear_gaussian(ssm, 2).weights)(ssm)
    noise = dist.Normal(jnp.zeros((T, 3)), 1.0).to_event(1)
    varying = tsd.LinearGaussianSSM(
        ssm.initial, ssm.transition_matrix, ssm.transition_noise, ssm.emission_matrix, noise, num_steps=T,
        time_varying=("emission_noise",),
    )  # fmt: skip
    with pytest.raises(ValueError, match="emission_noise varies in time"):
        tsd.low_rank_report(varying, 2)
