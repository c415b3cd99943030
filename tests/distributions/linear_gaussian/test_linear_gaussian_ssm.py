"""`LinearGaussianSSM` against dense joint Gaussians and TFP: scores, posteriors, missing data, forecasts, wrappers."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers

from tests.helpers import assert_allclose
from tests.reference.linear_gaussian import DenseModel, blocks
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM

T, D, N = 5, 2, 2
VARYING = ("transition_matrix", "transition_noise", "emission_matrix", "emission_noise")
STEP_MASK = np.array([True, True, False, True, False])
ENTRY_MASK = np.array([[True, True], [False, True], [False, False], [True, False], [True, True]])


def make_parameters(seed=0, batch=(), varying=False, channels=N):
    generator = np.random.default_rng(seed)
    moves, looks = ((T - 1,), (T,)) if varying else ((), ())

    def factor(shape, size):
        diagonal = np.eye(size) * generator.uniform(0.5, 1.5, size=shape + (1, size))
        return np.tril(0.3 * generator.normal(size=shape + (size, size)), -1) + diagonal

    parameters = {
        "initial_mean": generator.normal(size=batch + (D,)),
        "initial_root": factor(batch, D),
        "transition_matrix": 0.6 * generator.normal(size=batch + moves + (D, D)),
        "transition_bias": generator.normal(size=batch + moves + (D,)),
        "transition_root": factor(batch + moves, D),
        "emission_matrix": generator.normal(size=batch + looks + (channels, D)),
        "emission_bias": generator.normal(size=batch + looks + (channels,)),
        "emission_root": factor(batch + looks, channels),
    }
    return jax.tree.map(jnp.asarray, parameters)


def build(p, **keywords):
    return LinearGaussianSSM(
        dist.MultivariateNormal(p["initial_mean"], scale_tril=p["initial_root"]),
        p["transition_matrix"],
        dist.MultivariateNormal(p["transition_bias"], scale_tril=p["transition_root"]),
        p["emission_matrix"],
        dist.MultivariateNormal(p["emission_bias"], scale_tril=p["emission_root"]),
        **{"num_steps": T, **keywords},
    )


def dense_of(parameters, num_steps=T):
    p = {name: np.asarray(array) for name, array in parameters.items()}

    def rows(name, ndim, count):
        return np.broadcast_to(p[name], (count,) + p[name].shape[p[name].ndim - ndim :])

    def covariances(name, count):
        root = rows(name, 2, count)
        return root @ np.swapaxes(root, -1, -2)

    return DenseModel(
        p["initial_mean"],
        p["initial_root"] @ p["initial_root"].T,
        rows("transition_matrix", 2, num_steps - 1),
        rows("transition_bias", 1, num_steps - 1),
        covariances("transition_root", num_steps - 1),
        rows("emission_matrix", 2, num_steps),
        rows("emission_bias", 1, num_steps),
        covariances("emission_root", num_steps),
    )


def answers(model, value):
    """Everything about a series in one program; the model is closed over, so that the program can be cached on disk."""

    @jax.jit
    def ask(value):
        return {
            "log_prob": model.log_prob(value),
            "steps": model.log_prob_steps(value),
            "left_out": model.log_prob_left_out(value),
            "smoothed": model.latent_marginals(value),
            "filtered": model.latent_marginals(value, given="past"),
            "mode": model.latent_mode(value)["trajectory"],
            "scored": model.scored_steps(value),
        }

    return ask(value)


def check_against_dense(model, value, dense, observed):
    """Every answer about one series, `observed` being ``(T, N)``; what was not observed is NaN in the value."""
    observed = np.broadcast_to(observed, value.shape if value.ndim == 2 else (T, 1))
    hidden = jnp.where(observed.reshape(value.shape), value, jnp.nan)
    result, flat = answers(model, hidden), np.asarray(value).reshape(T, -1)
    assert_allclose(result["log_prob"], dense.log_prob(flat, observed))
    assert_allclose(result["steps"], dense.log_prob_steps(flat, observed))
    assert_allclose(result["left_out"], dense.log_prob_left_out(flat, observed))
    assert (result["scored"] == observed.any(-1)).all()
    means, covariances, _ = blocks(*dense.posterior(flat, observed), D)
    assert_allclose(result["mode"], means)
    for name, law in (("smoothed", (means, covariances)), ("filtered", dense.filtered(flat, observed))):
        scale_tril = result[name]["trajectory_scale_tril"]
        assert_allclose(result[name]["trajectory_mean"], law[0])
        assert_allclose(scale_tril @ scale_tril.mT, law[1])


@pytest.mark.parametrize(
    ("varying", "keywords", "observed"),
    [
        (False, {}, np.ones((T, N), bool)),
        (False, {"mask": STEP_MASK}, np.repeat(STEP_MASK[:, None], N, 1)),
        (True, {"mask": ENTRY_MASK}, ENTRY_MASK),
        (True, {"mask": ENTRY_MASK, "lengths": 4}, ENTRY_MASK & (np.arange(T) < 4)[:, None]),
        pytest.param(False, {"mask": ENTRY_MASK, "method": "parallel"}, ENTRY_MASK, marks=pytest.mark.slow),
    ],
    ids=["all observed", "steps masked", "time-varying, entries masked", "lengths and entries", "parallel"],
)
def test_answers_equal_the_dense_joint_gaussian(varying, keywords, observed):
    parameters = make_parameters(varying=varying)
    model = build(parameters, time_varying=VARYING if varying else (), **keywords)
    check_against_dense(model, model.sample(random.key(0)), dense_of(parameters), observed)


def seasonal(**keywords):
    """Level and a cosine seasonal in two dimensions with one driving noise; a scalar series with regressors."""
    bias = jnp.asarray(np.random.default_rng(5).normal(size=T))
    scale = jnp.asarray(np.random.default_rng(6).uniform(0.5, 2.0, size=T))
    p = {
        "initial_mean": jnp.ones(D),
        "initial_root": jnp.diag(jnp.array([1.0, 0.5])),
        "transition_matrix": jnp.array([[-0.5, -1.0], [1.0, 0.0]]),
        "transition_bias": jnp.array([0.3, 0.0]),
        "transition_root": jnp.diag(jnp.array([0.4, 0.0])),
        "emission_matrix": jnp.array([[1.0, 0.5]]),
        "emission_bias": bias[:, None],
        "emission_root": scale[:, None, None],
    }
    model = LinearGaussianSSM(
        dist.Normal(p["initial_mean"], jnp.array([1.0, 0.5])).to_event(1),
        p["transition_matrix"],
        dist.Normal(jnp.full(1, 0.3), 0.4).to_event(1),
        p["emission_matrix"][0],
        dist.Normal(bias, scale),
        noise_matrix=jnp.array([[1.0], [0.0]]),
        time_varying=("emission_noise",),
        num_steps=T,
        **keywords,
    )
    return model, dense_of(p)


@pytest.mark.parametrize("mask", [None, STEP_MASK])
def test_scalar_series_with_regressors_known_noise_and_one_driving_noise(mask):
    model, dense = seasonal(mask=mask)
    assert model.event_shape == (T,)
    value = model.sample(random.key(1))
    check_against_dense(model, value, dense, np.ones((T, 1), bool) if mask is None else mask[:, None])


def test_noise_matrix_may_vary_in_time():
    matrix = jnp.asarray(np.random.default_rng(7).normal(size=(T - 1, D, 1)))
    p = make_parameters()
    noise = dist.Normal(jnp.full(1, 0.5), 2.0).to_event(1)
    initial = dist.MultivariateNormal(p["initial_mean"], scale_tril=p["initial_root"])
    emission = dist.MultivariateNormal(p["emission_bias"], scale_tril=p["emission_root"])
    model = LinearGaussianSSM(
        initial,
        p["transition_matrix"],
        noise,
        p["emission_matrix"],
        emission,
        noise_matrix=matrix,
        time_varying=("noise_matrix",),
        num_steps=T,
    )
    root = jnp.concatenate([2 * matrix, jnp.zeros((T - 1, D, D - 1))], -1)
    dense = dense_of({**p, "transition_bias": 0.5 * matrix[..., 0], "transition_root": root})
    check_against_dense(model, model.sample(random.key(0)), dense, np.ones((T, N), bool))


def test_answers_equal_tensorflow_probability():
    tfp = pytest.importorskip(
        "tensorflow_probability.substrates.jax", reason="tensorflow-probability is not installed", exc_type=ImportError
    )
    tfd = tfp.distributions
    p = make_parameters(8)
    model = build(p, mask=STEP_MASK)
    oracle = tfd.LinearGaussianStateSpaceModel(
        num_timesteps=T,
        transition_matrix=p["transition_matrix"],
        transition_noise=tfd.MultivariateNormalTriL(p["transition_bias"], p["transition_root"]),
        observation_matrix=p["emission_matrix"],
        observation_noise=tfd.MultivariateNormalTriL(p["emission_bias"], p["emission_root"]),
        initial_state_prior=tfd.MultivariateNormalTriL(p["initial_mean"], p["initial_root"]),
        mask=jnp.asarray(~STEP_MASK),
    )
    value = model.sample(random.key(0))
    log_prob, means, covariances = jax.jit(lambda v: (oracle.log_prob(v), *oracle.posterior_marginals(v)))(value)
    result = answers(model, value)
    assert_allclose(result["log_prob"], log_prob)
    assert_allclose(result["smoothed"]["trajectory_mean"], means)
    scale_tril = result["smoothed"]["trajectory_scale_tril"]
    assert_allclose(scale_tril @ scale_tril.mT, covariances)


def assert_moments(draws, mean, covariance):
    """Means and covariances of draws ``(S, ...)`` within five and eight standard errors."""
    draws, scales = np.asarray(draws).reshape(len(draws), -1), np.sqrt(np.maximum(np.diag(covariance), 0))
    assert (np.abs(draws.mean(0) - mean) <= 5 * scales / np.sqrt(len(draws)) + 1e-8).all()
    error = np.abs(np.cov(draws.T).reshape(covariance.shape) - covariance)
    assert (error <= 8 * np.outer(scales, scales) / np.sqrt(len(draws)) + 1e-8).all()


def test_draws_have_the_dense_moments(key):
    p = make_parameters(9)
    model, dense = build(p), dense_of(p)
    value, latents = jax.jit(lambda key: model.sample_with_latents(key, (20_000,)))(key)
    assert value.shape == (20_000, T, N)
    together = np.concatenate([np.asarray(a).reshape(20_000, -1) for a in (value, latents["trajectory"])], axis=1)
    covariance = np.block([[dense.observation_covariance, dense.across.T], [dense.across, dense.covariance]])
    assert_moments(together, np.concatenate([dense.observation_mean, dense.mean]), covariance)


@pytest.mark.parametrize("case", ["full noise", "one driving noise"])
def test_posterior_draws_and_completions_have_the_dense_moments(case, key):
    """Of the trajectory, and of what is missing given the rest; correlated channels, some missing alone."""
    if case == "full noise":
        p, observed = make_parameters(10), ENTRY_MASK
        p["emission_root"] = jnp.array([[1.0, 0.0], [0.9, 0.4]])
        model, dense = build(p, mask=ENTRY_MASK), dense_of(p)
    else:
        (model, dense), observed = seasonal(mask=STEP_MASK), STEP_MASK[:, None]
    value = model.sample(random.key(1))
    hidden = jnp.where(observed.reshape(value.shape), value, jnp.nan)
    keys = random.split(key, 20_000)
    draw = jax.jit(jax.vmap(lambda k: (model.sample_latents(k, hidden)["trajectory"], model.sample_missing(k, hidden))))
    trajectories, completed = draw(keys)
    flat = np.asarray(value).reshape(T, -1)
    assert_moments(trajectories, *dense.posterior(flat, observed))
    assert (completed[:, observed.reshape(value.shape)] == value[observed.reshape(value.shape)]).all()
    assert_moments(completed[:, ~observed.reshape(value.shape)], *dense.missing(flat, observed))


def test_forecasts_equal_the_dense_predictive(key):
    """Series of different lengths in one batch, each forecast from its own end."""
    p = make_parameters(11)
    model = build(p, lengths=jnp.array([3, 5]))
    value = build(p).sample(random.key(2), (2,))
    draw = jax.jit(jax.vmap(lambda key: model.forecast(key, value, 2)))
    draws = draw(random.split(key, 20_000))
    assert draws["value"].shape == (20_000, 2, 2, N)
    assert draws["trajectory"].shape == (20_000, 2, 2, D)
    for series, length in ((0, 3), (1, 5)):
        dense = dense_of(p, length + 2)
        observed = np.repeat((np.arange(length + 2) < length)[:, None], N, 1)
        padded = np.concatenate([np.asarray(value)[series, :length], np.zeros((2, N))])
        assert_moments(draws["value"][:, series], *dense.missing(padded, observed))
        mean, covariance = dense.posterior(padded, observed)
        ahead = slice(length * D, None)
        assert_moments(draws["trajectory"][:, series], mean[ahead], covariance[ahead, ahead])


def test_forecast_with_time_varying_arguments_spans_past_and_future(key):
    p = make_parameters(12, varying=True)
    model = build(p, time_varying=VARYING)
    value = model.sample(key)
    assert jax.jit(lambda v: model.forecast(key, v))(value[:3])["value"].shape == (2, N)
    with pytest.raises(ValueError, match="transition_matrix varies in time"):
        model.forecast(key, value, 2)


def test_gradient_with_missing_data_equals_finite_differences():
    p = make_parameters(13)
    value = jnp.where(ENTRY_MASK, build(p).sample(random.key(0)), jnp.nan)
    direction = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape)), p)
    log_prob = jax.jit(lambda p: build(p, mask=ENTRY_MASK).log_prob(value))
    gradient = jax.jit(jax.grad(lambda p: build(p, mask=ENTRY_MASK).log_prob(value)))(p)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), gradient, direction)))
    ahead, behind = (log_prob(jax.tree.map(lambda a, b, s=s: a + s * b, p, direction)) for s in (1e-5, -1e-5))
    assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-7)
    to_value = jax.jit(jax.grad(lambda v: build(p, mask=ENTRY_MASK).log_prob(v)))(value)
    assert (to_value[~ENTRY_MASK] == 0).all()
    assert jnp.isfinite(to_value).all()


@pytest.mark.slow
def test_batches_equal_loops_and_lengths_equal_truncation(key):
    parameters = make_parameters(14, batch=(3,))
    lengths = jnp.array([5, 3, 3])
    model = build(parameters, lengths=lengths)
    value = model.sample(key)
    result = answers(model, value)
    for i, length in enumerate(lengths.tolist()):
        p = jax.tree.map(lambda a, i=i: a[i], parameters)
        single = answers(build(p, num_steps=length), value[i, :length])
        assert_allclose(result["log_prob"][i], single["log_prob"])
        for name in ("steps", "left_out", "mode", "smoothed", "filtered", "scored"):
            assert_allclose(jax.tree.map(lambda a, i=i, n=length: a[i, :n], result[name]), single[name])
        assert not result["scored"][i, length:].any()
        assert (result["left_out"][i, length:] == 0).all()


def test_expand_plate_pickle_and_masks(key):
    model = build(make_parameters(), mask=STEP_MASK)
    expanded = model.expand((3,))
    assert type(expanded) is LinearGaussianSSM
    value, latents = expanded.sample_with_latents(key, (2,))
    assert value.shape == (2, 3, T, N)
    assert latents["trajectory"].shape == (2, 3, T, D)
    result = answers(expanded, value[0])
    assert result["smoothed"]["trajectory_mean"].shape == (3, T, D)
    assert result["log_prob"].shape == (3,)
    assert jnp.shape(jax.jit(expanded.log_prob)(value[0, 0])) == (3,)
    log_prob = jax.jit(lambda model, value: model.log_prob(value))
    assert_allclose(log_prob(pickle.loads(pickle.dumps(expanded)), value[0]), result["log_prob"])

    def program(value=None):
        with numpyro.plate("session", 3):
            return numpyro.sample("y", model, obs=value)

    trace = handlers.trace(handlers.seed(program, key)).get_trace(value[0])
    assert type(trace["y"]["fn"]) is LinearGaussianSSM
    assert_allclose(log_prob(trace["y"]["fn"], value[0]), result["log_prob"])
    per_series = build(make_parameters(), mask=np.stack([STEP_MASK, ~STEP_MASK]))
    assert per_series.batch_shape == (2,)
    assert (per_series.scored_steps(value[0, 0]) == np.stack([STEP_MASK, ~STEP_MASK])).all()


@pytest.mark.slow
def test_dtypes(key):
    single = jax.tree.map(lambda a: a.astype(jnp.float32), make_parameters())
    model = build(single, mask=ENTRY_MASK)
    value = model.sample(key)
    result = answers(model, value)
    numbers = {array.dtype for array in jax.tree.leaves(result)} - {jnp.dtype(bool)}
    assert numbers == {jnp.dtype(jnp.float32)}
    completed, latents = jax.jit(lambda v: (model.sample_missing(key, v), model.sample_latents(key, v)))(value)
    assert completed.dtype == latents["trajectory"].dtype == jnp.float32
    double = answers(build(make_parameters(), mask=ENTRY_MASK), value.astype(jnp.float64))
    assert_allclose(result["left_out"], double["left_out"].astype(jnp.float32), rtol=1e-4)
    integers = jnp.ones((T, N), int)
    of_integers = jax.jit(lambda v: build(make_parameters()).log_prob(v))(integers)
    assert_allclose(of_integers, jax.jit(lambda v: build(make_parameters()).log_prob(v))(integers * 1.0))


def normal(size, batch=()):
    return dist.Normal(jnp.zeros(batch + (size,)), 1.0).to_event(1)


def unchecked_normal(scale):
    """NumPyro refuses a scale of zero only where validation is on."""
    return dist.Normal(0.0, jnp.array(scale), validate_args=False).to_event(1)


def arguments(**changes):
    p = {
        "initial": normal(D),
        "transition_matrix": jnp.eye(D),
        "transition_noise": normal(D),
        "emission_matrix": jnp.ones((3, D)),
        "emission_noise": normal(3),
        "num_steps": T,
    }
    return {**p, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"transition_matrix": jnp.eye(3)}, ValueError, r"transition_matrix has shape \(3, 3\) and initial has event"),
        ({"transition_noise": normal(1)}, ValueError, r"transition_noise has event shape \(1,\).*noise_matrix"),
        ({"emission_matrix": jnp.ones((D, 3))}, ValueError, r"emission_matrix has shape \(2, 3\).*end in \(3, 2\)"),
        ({"emission_noise": normal(3, (3,)).to_event(1)}, TypeError, "emission_noise must be Gaussian"),
        ({"emission_noise": dist.Poisson(jnp.ones(3)).to_event(1)}, TypeError, "emission_noise must be Gaussian"),
        ({"emission_noise": normal(3, (T,))}, ValueError, "add 'emission_noise' to time_varying"),
        (
            {"transition_matrix": jnp.ones((T, D, D)), "time_varying": ("transition_matrix",)},
            ValueError,
            "transition_matrix has 5 steps; 4 are needed",
        ),
        (
            {"transition_noise": unchecked_normal([1.0, 0.0])},
            ValueError,
            r"transition_noise has zero scale in components \[1\]: use noise_matrix",
        ),
        (
            {"emission_noise": unchecked_normal([1.0, 0.0, 1.0])},
            ValueError,
            r"emission_noise has zero scale in components \[1\]",
        ),
        ({"mask": jnp.ones((T, 2), bool)}, ValueError, r"mask has shape \(5, 2\)"),
        ({"lengths": 6}, ValueError, "lengths is 6"),
        ({"method": "quick"}, ValueError, "quick"),
        ({"time_varying": "emission_noise"}, TypeError, "time_varying is a tuple"),
        ({"time_varying": ("emission",)}, ValueError, "no argument 'emission'"),
    ],
)
def test_bad_arguments_are_named(changes, error, words):
    with pytest.raises(error, match=words):
        LinearGaussianSSM(**arguments(**changes))


def test_bad_values_are_located(key):
    model = LinearGaussianSSM(**arguments())
    value = model.sample(key, (2,))
    with pytest.raises(ValueError, match=r"value has shape \(2, 4, 3\)"):
        model.log_prob(value[:, :4])
    with pytest.raises(ValueError, match="sequence 1, step 2, channel 0"):
        model.log_prob(value.at[1, 2, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="given must be 'all'"):
        model.latent_marginals(value, given="future")
