"""`LinearGaussianChain`: density, draws, conditioning, divergence, and how they reach NumPyro."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from jax.test_util import check_grads
from numpyro import handlers
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import SVI, TraceMeanField_ELBO

from tests.helpers import assert_allclose
from tests.reference.linear_gaussian import DenseModel, blocks, condition, normal_divergence, normal_log_density
from tsppl.distributions.gaussians import gaussian_parameters
from tsppl.distributions.linear_gaussian import kl_divergence as kl
from tsppl.distributions.linear_gaussian.linear_gaussian_chain import LinearGaussianChain
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM

T, D = 5, 2


def make_parameters(seed, batch=()):
    """Arrays of a chain whose weights and noise vary in time."""
    generator = np.random.default_rng(seed)

    def factor(*shape):
        return np.tril(0.3 * generator.normal(size=shape + (D, D)), -1) + np.eye(D) * generator.uniform(
            0.5, 1.5, size=shape + (1, D)
        )

    return {
        "mean": jnp.asarray(generator.normal(size=batch + (D,))),
        "root": jnp.asarray(factor(*batch)),
        "weights": jnp.asarray(0.6 * generator.normal(size=batch + (T - 1, D, D))),
        "bias": jnp.asarray(generator.normal(size=batch + (T - 1, D))),
        "noise_root": jnp.asarray(factor(*batch, T - 1)),
    }


def build(parameters, **keywords):
    p = {"time_varying": ("weights", "noise"), "num_steps": T, **keywords}
    return LinearGaussianChain(
        dist.MultivariateNormal(parameters["mean"], scale_tril=parameters["root"]),
        parameters["weights"],
        dist.MultivariateNormal(parameters["bias"], scale_tril=parameters["noise_root"]),
        **p,
    )


def constant(parameters):
    """The first row of what varies in time, for every step."""
    rows = {name: parameters[name][..., 0, :] for name in ("bias",)}
    rows |= {name: parameters[name][..., 0, :, :] for name in ("weights", "noise_root")}
    return {**parameters, **rows}


def dense_of(parameters):
    p = {name: np.asarray(array) for name, array in parameters.items()}
    rows = [np.broadcast_to(p[name], (T - 1,) + p[name].shape[-n:]) for name, n in (("weights", 2), ("bias", 1))]
    covariance = p["noise_root"] @ np.swapaxes(p["noise_root"], -1, -2)
    rows.append(np.broadcast_to(covariance, (T - 1, D, D)))
    return DenseModel(p["mean"], p["root"] @ p["root"].T, *rows)


def answers(chain, value):
    """Everything about a trajectory in one program; the chain is closed over, so that it can be cached on disk."""

    @jax.jit
    def ask(value):
        return {
            "log_prob": chain.log_prob(value),
            "steps": chain.log_prob_steps(value),
            "left_out": chain.log_prob_left_out(value),
            "entropy": chain.entropy(),
            "marginals": chain.marginals(),
        }

    return ask(value)


def conditioned(chain, J, h):
    return jax.jit(lambda J, h: chain.condition(J, h))(J, h)


def divergence(p, q):
    return jax.jit(lambda: kl_divergence(p, q))()


log_prob = jax.jit(lambda chain, value: chain.log_prob(value))


@pytest.fixture
def trajectory():
    return jnp.asarray(np.random.default_rng(1).normal(size=(T, D)))


def test_density_entropy_and_marginals_equal_the_dense_joint_gaussian(trajectory):
    varying, fixed = make_parameters(0), constant(make_parameters(0))
    for parameters, time_varying in ((varying, ("weights", "noise")), (fixed, ())):
        chain, dense = build(parameters, time_varying=time_varying), dense_of(parameters)
        flat = np.asarray(trajectory).ravel()
        result = answers(chain, trajectory)
        assert_allclose(result["log_prob"], normal_log_density(flat, dense.mean, dense.covariance))
        assert_allclose(result["steps"].sum(), result["log_prob"])
        left_out = []
        for t in range(T):
            here, rest = np.arange(t * D, (t + 1) * D), np.delete(np.arange(T * D), slice(t * D, (t + 1) * D))
            law = condition(
                dense.mean[here],
                dense.covariance[np.ix_(here, here)],
                dense.covariance[np.ix_(here, rest)],
                dense.covariance[np.ix_(rest, rest)],
                flat[rest] - dense.mean[rest],
            )
            left_out.append(normal_log_density(flat[here], *law))
        assert_allclose(result["left_out"], np.array(left_out))
        assert_allclose(result["entropy"], 0.5 * np.linalg.slogdet(2 * np.pi * np.e * dense.covariance)[1])
        means, covariances, cross_covariances = blocks(dense.mean, dense.covariance, D)
        marginals = result["marginals"]
        assert_allclose(marginals.means, means)
        assert_allclose(marginals.scale_trils @ marginals.scale_trils.mT, covariances)
        assert_allclose(marginals.cross_covariances, cross_covariances)
        assert chain.scored_steps(trajectory).all()


def test_noise_matrix_with_a_density_is_a_change_of_the_noise(trajectory):
    parameters = constant(make_parameters(0))
    matrix = jnp.asarray(np.random.default_rng(2).normal(size=(D, 3)))
    noise = dist.Normal(jnp.arange(3.0), jnp.array([0.5, 1.0, 2.0])).to_event(1)
    initial = dist.MultivariateNormal(parameters["mean"], scale_tril=parameters["root"])
    driven = LinearGaussianChain(initial, parameters["weights"], noise, noise_matrix=matrix, num_steps=T)
    covariance = matrix @ jnp.diag(jnp.array([0.25, 1.0, 4.0])) @ matrix.T
    plain_noise = dist.MultivariateNormal(matrix @ jnp.arange(3.0), covariance)
    plain = LinearGaussianChain(initial, parameters["weights"], plain_noise, num_steps=T)
    result, expected = answers(driven, trajectory), answers(plain, trajectory)
    for name in ("log_prob", "left_out", "entropy"):
        assert_allclose(result[name], expected[name])
    assert_allclose(divergence(driven, plain), 0.0)


def singular_chain(**keywords):
    """A seasonal of period 3 with one driving noise."""
    initial = dist.Normal(jnp.ones(D), 1.0).to_event(1)
    noise = dist.Normal(jnp.full(1, 0.1), 0.5).to_event(1)
    weights, matrix = jnp.array([[-1.0, -1.0], [1.0, 0.0]]), jnp.array([[1.0], [0.0]])
    return LinearGaussianChain(initial, weights, noise, noise_matrix=matrix, num_steps=T, **keywords)


def test_singular_noise_has_draws_but_no_density(trajectory, key):
    chain = singular_chain()
    draws = chain.sample(key, (3,))
    assert_allclose(draws[:, 1:, 1], draws[:, :-1, 0])
    for question in (chain.log_prob, chain.log_prob_steps, chain.log_prob_left_out):
        with pytest.raises(NotImplementedError, match=r"no density.*LinearGaussianSSM"):
            question(trajectory)
    with pytest.raises(NotImplementedError, match="no density"):
        chain.entropy()


@pytest.mark.slow
def test_conditioning_singular_noise_equals_the_state_space_model(key):
    """The potentials of Gaussian observations give the posterior and the evidence of `LinearGaussianSSM`."""
    chain = singular_chain()
    emission, scale = jnp.array([1.0, 0.5]), 0.7
    model = LinearGaussianSSM(
        chain.initial,
        chain.weights,
        chain.noise,
        emission,
        dist.Normal(0.0, scale),
        noise_matrix=chain.noise_matrix,
        num_steps=T,
    )
    values = model.sample(key)
    J = jnp.broadcast_to(jnp.outer(emission, emission) / scale**2, (T, D, D))
    h = values[:, None] * emission / scale**2
    for method in ("sequential", "parallel"):
        posterior, log_normalizer = conditioned(singular_chain(method=method), J, h)
        constants = dist.Normal(0.0, scale).log_prob(values).sum()
        evidence, expected = jax.jit(lambda v: (model.log_prob(v), model.latent_marginals(v)))(values)
        assert_allclose(log_normalizer + constants, evidence)
        marginals = jax.jit(posterior.marginals)()
        assert_allclose(marginals.means, expected["trajectory_mean"])
        assert_allclose(marginals.scale_trils, expected["trajectory_scale_tril"])
        assert posterior.noise.event_shape == (1,)


def test_conditioning_is_bayes_rule(trajectory):
    """`log p(x) + potentials(x) - log normalizer` is the new density at every `x`; full, diagonal, zero; batches."""
    generator = np.random.default_rng(3)
    factors = generator.normal(size=(T, D, 1))
    full = jnp.asarray(factors @ np.swapaxes(factors, -1, -2)).at[2].set(0)
    h = jnp.asarray(generator.normal(size=(T, D)))
    diagonal = jnp.asarray(generator.uniform(size=(3, T, D))).at[:, 1].set(0)
    chain = build(make_parameters(0))
    quadratic = jnp.einsum("ti,tij,tj->", trajectory, full, trajectory)
    posterior, log_normalizer = conditioned(chain, full, h)
    assert_allclose(
        log_prob(posterior, trajectory),
        log_prob(chain, trajectory) - 0.5 * quadratic + (h * trajectory).sum() - log_normalizer,
    )
    posterior, log_normalizer = conditioned(chain, diagonal, jnp.broadcast_to(h, (3, T, D)))
    assert posterior.batch_shape == log_normalizer.shape == (3,)
    potentials = (h * trajectory - 0.5 * diagonal * trajectory**2).sum((-1, -2))
    assert_allclose(log_prob(posterior, trajectory), log_prob(chain, trajectory) + potentials - log_normalizer)

    unchanged, zero = conditioned(chain, jnp.zeros((T, D)), jnp.zeros((T, D)))
    assert float(zero) == 0.0
    assert_allclose(log_prob(unchanged, trajectory), log_prob(chain, trajectory), rtol=1e-14)


def test_gradient_of_conditioning_exists_at_zero_precision():
    chain = build(make_parameters(0))
    precision = jnp.asarray(np.random.default_rng(4).uniform(size=(T, D))).at[1].set(0).at[3, 0].set(0)
    h = jnp.asarray(np.random.default_rng(5).normal(size=(T, D)))

    @jax.jit
    def loss(precision, h):
        posterior, log_normalizer = chain.condition(jax.vmap(jnp.diag)(precision), h)
        return log_normalizer + kl_divergence(posterior, chain) + jnp.sin(posterior.sample(random.key(0))).sum()

    check_grads(loss, (precision, h), 1, modes=("rev",), atol=1e-6, rtol=1e-6)


def test_draws_have_the_dense_moments_and_are_differentiable(key):
    parameters = make_parameters(6)
    chain, dense = build(parameters), dense_of(parameters)
    draws = np.asarray(jax.jit(lambda key: chain.sample(key, (20_000,)))(key)).reshape(20_000, -1)
    scales = np.sqrt(np.diag(dense.covariance))
    assert np.abs((draws.mean(0) - dense.mean) / scales).max() < 5 / np.sqrt(20_000)
    assert np.abs((np.cov(draws.T) - dense.covariance) / np.outer(scales, scales)).max() < 8 / np.sqrt(20_000)
    assert chain.has_rsample
    check_grads(jax.jit(lambda p: jnp.sin(build(p).rsample(key)).sum()), (parameters,), 1, modes=("rev",), rtol=1e-5)


@pytest.mark.parametrize("singular", [False, True])
def test_forecast_equals_the_dense_conditional(singular, key):
    """The future given the last step, in moments; the chain spans T steps and the value three."""
    if singular:
        chain = singular_chain()
        p = {"mean": np.ones(D), "root": np.eye(D), "weights": chain.weights, "bias": np.array([0.1, 0.0])}
        p["noise_root"] = np.array([[0.5, 0.0], [0.0, 0.0]])
    else:
        p = make_parameters(7)
        chain = build(p)
    dense = dense_of(p)
    past = chain.sample(random.key(8))[:3]
    draws = jax.jit(jax.vmap(lambda key: chain.forecast(key, past)["value"]))(random.split(key, 20_000))
    assert draws.shape == (20_000, 2, D)
    seen = slice(2 * D, 3 * D)
    mean, covariance = condition(
        dense.mean[3 * D :],
        dense.covariance[3 * D :, 3 * D :],
        dense.covariance[3 * D :, seen],
        dense.covariance[seen, seen],
        np.asarray(past[2]) - dense.mean[seen],
    )
    draws, scales = np.asarray(draws).reshape(20_000, -1), np.sqrt(np.abs(np.diag(covariance)))
    assert (np.abs(draws.mean(0) - mean) < 5 * scales / np.sqrt(20_000) + 1e-6).all()
    tolerance = 8 * np.outer(scales, scales) / np.sqrt(20_000) + 1e-6
    assert (np.abs(np.cov(draws.T) - covariance) < tolerance).all()


def test_forecast_extends_a_chain_in_which_nothing_varies(key):
    chain = build(constant(make_parameters(0)), time_varying=())
    value = chain.sample(key)
    future = jax.jit(lambda chain, value: chain.forecast(key, value, 3))(chain, value)
    assert future["value"].shape == (3, D)
    with pytest.raises(ValueError, match="weights varies in time"):
        build(make_parameters(0)).forecast(key, value, 3)


def test_batches_equal_loops_and_survive_expand_jit_and_pickle(key):
    parameters = make_parameters(9, batch=(3,))
    chain = build(parameters)
    value = chain.sample(key)
    assert chain.batch_shape == (3,)
    assert value.shape == (3, T, D)
    result = answers(chain, value)
    single = [build(jax.tree.map(lambda a, i=i: a[i], parameters)) for i in range(3)]
    loop = [answers(one, v) for one, v in zip(single, value, strict=True)]
    assert_allclose(result, jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop))
    expanded = single[0].expand((3,))
    assert type(expanded) is LinearGaussianChain
    assert expanded.sample(key).shape == (3, T, D)
    of_expanded = answers(expanded, value[0])
    assert of_expanded["marginals"].means.shape == (3, T, D)
    assert of_expanded["entropy"].shape == (3,)
    assert_allclose(log_prob(pickle.loads(pickle.dumps(expanded)), value[0]), of_expanded["log_prob"])


def test_divergence_equals_the_dense_one():
    first, second = make_parameters(10), constant(make_parameters(11))
    chain, other = build(first), build(second, time_varying=())
    dense, dense_other = dense_of(first), dense_of(second)
    for p, q, a, b in ((chain, other, dense, dense_other), (other, chain, dense_other, dense)):
        expected = normal_divergence(a.mean, a.covariance, b.mean, b.covariance)
        assert_allclose(divergence(p, q), expected)
    assert_allclose(divergence(chain, chain), 0.0)
    assert kl_divergence(chain.expand((3,)), other).shape == (3,)
    with pytest.raises(NotImplementedError, match="no density"):
        kl_divergence(singular_chain(), chain)


def test_divergence_of_masked_and_independent_chains():
    """Masks on one side leave what `E[mask log p - mask log q]` leaves."""
    p, q = build(make_parameters(12, batch=(3,))), build(make_parameters(13, batch=(3,)))
    mask, full, entropy = jnp.array([True, False, True]), kl_divergence(p, q), p.entropy()
    assert_allclose(kl_divergence(p.mask(mask), q.mask(mask)), jnp.where(mask, full, 0))
    assert_allclose(kl_divergence(p.mask(mask), q), jnp.where(mask, full, full + entropy))
    assert_allclose(kl_divergence(p, q.mask(mask)), jnp.where(mask, full, -entropy))
    assert_allclose(kl_divergence(p, q.mask(True)), full)
    for left, right in ((p.to_event(1), q), (p, q.to_event(1)), (p.to_event(1), q.to_event(1))):
        assert_allclose(kl_divergence(left, right), full.sum())
    assert_allclose(kl_divergence(p.to_event(1).mask(False), q.to_event(1)), full.sum() + entropy.sum())
    assert_allclose(kl_divergence(p.to_event(1), q.to_event(1).mask(False)), -entropy.sum())
    with pytest.raises(NotImplementedError):
        kl_divergence(dist.Normal(0, 1).expand((3,)).mask(mask), dist.Normal(0, 1).expand((3,)).to_event(1))


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("masked", ["", "prior", "guide", "prior and guide"])
def test_mean_field_elbo_uses_the_closed_form(masked, independent, monkeypatch):
    calls = []
    monkeypatch.setattr(kl, "chain_divergence", lambda *a, inner=kl.chain_divergence: calls.append(1) or inner(*a))
    prior = build(constant(make_parameters(14)), time_varying=()).expand((2,))
    guide_parameters = make_parameters(15, batch=(2,))

    def wrapped(chain, side):
        chain = chain.to_event(1) if independent else chain
        return chain.mask(False if independent else jnp.array([True, False])) if side in masked else chain

    def model():
        x = numpyro.sample("x", wrapped(prior, "prior"))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(x.ndim), obs=jnp.ones(x.shape))

    def guide():
        chain = build({**guide_parameters, "bias": numpyro.param("bias", guide_parameters["bias"])})
        numpyro.sample("x", wrapped(chain, "guide"))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-2), TraceMeanField_ELBO())
    state = svi.init(random.key(0))
    calls.clear()
    assert jnp.isfinite(jax.jit(svi.evaluate)(state))
    assert len(calls) == (0 if masked == "prior and guide" and independent else 1)


def test_plate_keeps_the_chain(key):
    chain = build(make_parameters(0))

    def model():
        with numpyro.plate("session", 3):
            return numpyro.sample("x", chain)

    trace = handlers.trace(handlers.seed(model, key)).get_trace()
    assert type(trace["x"]["fn"]) is LinearGaussianChain
    assert trace["x"]["value"].shape == (3, T, D)
    assert_allclose(trace["x"]["fn"].log_prob(trace["x"]["value"]), chain.log_prob(trace["x"]["value"]))


def test_float32_stays_float32(key):
    parameters = jax.tree.map(lambda a: a.astype(jnp.float32), make_parameters(0))
    chain = build(parameters)
    draw = chain.sample(key)
    posterior, log_normalizer = conditioned(chain, jnp.ones((T, D), jnp.float32), jnp.ones((T, D), jnp.float32))
    results = (draw, log_normalizer, answers(chain, draw), answers(posterior, draw))
    assert {array.dtype for array in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}
    expected = log_prob(build(make_parameters(0)), draw.astype(jnp.float64))
    assert_allclose(results[2]["log_prob"], expected.astype(jnp.float32), rtol=1e-5)


def test_gaussian_parameters_of_every_form():
    loc, scale = jnp.arange(6.0).reshape(2, 3), jnp.array([1.0, 2.0, 3.0])
    scale_tril = jnp.broadcast_to(jnp.diag(scale), (2, 3, 3))
    low_rank = dist.LowRankMultivariateNormal(loc, jnp.ones((3, 1)), scale)
    for noise in (
        dist.Normal(loc, scale).to_event(1),
        dist.Normal(loc, scale).expand((2, 3)).to_event(1),
        dist.MultivariateNormal(loc, scale_tril=jnp.diag(scale)),
    ):
        assert_allclose(gaussian_parameters(noise), (loc, scale_tril))
    expanded = dist.Normal(loc[0], scale).to_event(1).expand((4, 2))
    assert_allclose(
        gaussian_parameters(expanded), (jnp.broadcast_to(loc[0], (4, 2, 3)), jnp.broadcast_to(scale_tril, (4, 2, 3, 3)))
    )
    read_loc, read_root = gaussian_parameters(low_rank)
    assert_allclose(read_root @ read_root.mT, jnp.broadcast_to(jnp.ones((3, 3)) + jnp.diag(scale), (2, 3, 3)))
    assert_allclose(read_loc, loc)
    assert_allclose(gaussian_parameters(dist.Normal(loc, 2.0)), (loc[..., None], jnp.full((2, 3, 1, 1), 2.0)))
    for noise, words in (
        (dist.StudentT(3.0, loc, 1.0).to_event(1), "Independent of StudentT"),
        (dist.Gamma(1.0), "Gamma"),
    ):
        with pytest.raises(TypeError, match=f"transition_noise must be Gaussian: pass .*{words}"):
            gaussian_parameters(noise, "transition_noise")


def normal(size, batch=()):
    return dist.Normal(jnp.zeros(batch + (size,)), 1.0).to_event(1)


def unchecked_normal(scale):
    """NumPyro refuses a scale of zero only where validation is on."""
    return dist.Normal(0.0, jnp.array(scale), validate_args=False).to_event(1)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        (
            (normal(2), jnp.eye(3), normal(2)),
            {},
            ValueError,
            r"weights has shape \(3, 3\) and initial has event shape \(2,\)",
        ),
        (
            (normal(2), jnp.eye(2), normal(3)),
            {},
            ValueError,
            r"noise has event shape \(3,\).*noise_matrix of shape \(..., 2, 3\)",
        ),
        (
            (normal(2), jnp.eye(2), normal(1)),
            {"noise_matrix": jnp.ones((1, 2))},
            ValueError,
            r"noise_matrix has shape \(1, 2\)",
        ),
        ((dist.Normal(jnp.zeros(2), 1.0), jnp.eye(2), normal(2)), {}, ValueError, r"to_event\(1\)"),
        (
            (normal(2), jnp.ones((T, 2, 2)), normal(2)),
            {"time_varying": ("weights",)},
            ValueError,
            "weights has 5 steps; 4 are needed",
        ),
        ((normal(2), jnp.ones((T - 1, 2, 2)), normal(2)), {}, ValueError, "add 'weights' to time_varying"),
        ((normal(2), jnp.eye(2), normal(2)), {"time_varying": ("initial",)}, ValueError, "no argument 'initial'"),
        ((normal(2), jnp.eye(2), normal(2)), {"time_varying": ("noise_matrix",)}, ValueError, "was not passed"),
        ((normal(2, (3,)), jnp.ones((2, 2, 2)), normal(2)), {}, ValueError, r"weights has batch shape \(2,\).*\(3,\)"),
        (
            (normal(2), jnp.eye(2), dist.StudentT(3.0, jnp.zeros(2), 1.0).to_event(1)),
            {},
            TypeError,
            "noise must be Gaussian",
        ),
        ((dist.Gamma(jnp.ones(2)).to_event(1), jnp.eye(2), normal(2)), {}, TypeError, "initial must be Gaussian"),
        (
            (normal(2), jnp.eye(2), unchecked_normal([1.0, 0.0])),
            {},
            ValueError,
            r"noise has zero scale in components \[1\]: use noise_matrix",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, keywords, error, words):
    with pytest.raises(error, match=words):
        LinearGaussianChain(*arguments, num_steps=T, **keywords)


def test_bad_potentials_are_named():
    chain = build(make_parameters(0))
    with pytest.raises(ValueError, match=r"h has shape \(5, 3\)"):
        chain.condition(jnp.zeros((T, D)), jnp.zeros((T, 3)))
    with pytest.raises(ValueError, match=r"J has shape \(4, 2\) and h has shape \(5, 2\)"):
        chain.condition(jnp.zeros((T - 1, D)), jnp.zeros((T, D)))
    with pytest.raises(ValueError, match="positive semidefinite"):
        chain.condition(jnp.full((T, D), -100.0), jnp.zeros((T, D)))


def test_a_chain_hides_nothing(trajectory, key):
    chain = build(make_parameters(0))
    for question in (lambda: chain.sample_latents(key, trajectory), lambda: chain.latent_mode(trajectory)):
        with pytest.raises(NotImplementedError, match="marginals"):
            question()
