"""Nonlinear state-space models: their density, their draws, and NUTS on noise or states."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density
from scipy import stats

import tsppl.distributions as tsd
from tests.helpers import assert_allclose

T, D = 12, 2
WEIGHTS = jnp.array([[0.9, -0.4], [0.4, 0.9]])
SCALE = jnp.array([0.3, 0.5])
INPUTS = jnp.sin(jnp.arange(T))


def transition(x, u):
    return jnp.tanh(WEIGHTS @ x) + u


def dynamics(solver="newton"):
    return tsd.NonlinearDynamics(transition, jnp.ones(D), SCALE, num_steps=T, inputs=INPUTS, solver=solver)


def test_density_is_the_product_over_steps():
    x = random.normal(random.key(0), (T, D))
    expected, previous = 0.0, jnp.ones(D)
    for t in range(T):
        expected += dist.Normal(transition(previous, INPUTS[t]), SCALE).log_prob(x[t]).sum()
        previous = x[t]
    assert_allclose(dynamics().log_prob(x), expected)
    assert_allclose(dynamics().log_prob(jnp.stack([x, 2 * x]))[0], expected)


def test_draws_follow_their_noise():
    noise = random.normal(random.key(0), (3, T, D))
    trajectories = dynamics().transforms[0](noise)

    def step(x, row):
        x = transition(x, row[1]) + SCALE * row[0]
        return x, x

    for one, driven in zip(noise, trajectories, strict=True):
        assert_allclose(driven, lax.scan(step, jnp.ones(D), (one, INPUTS))[1], rtol=0, atol=1e-8)
    assert_allclose(dynamics().transforms[0].inv(trajectories), noise, rtol=0, atol=1e-8)
    assert dynamics().sample(random.key(1), (4,)).shape == (4, T, D)


def model(y, solver="newton"):
    gain = numpyro.sample("gain", dist.LogNormal(0.0, 0.3))
    x = numpyro.sample(
        "x",
        tsd.NonlinearDynamics(
            lambda x, u: jnp.tanh(gain * WEIGHTS @ x) + u,
            jnp.zeros(D),
            SCALE,
            num_steps=T,
            inputs=INPUTS,
            solver=solver,
        ),
    )
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=y)


def test_noise_and_states_are_the_same_model():
    """Their densities differ by the Jacobian of the noise, and their gradients by the chain rule."""
    noise, y = random.normal(random.key(0), (2, T, D))
    by_noise = numpyro.handlers.reparam(model, config={"x": TransformReparam()})
    density, trace = log_density(by_noise, (y,), {}, {"gain": jnp.array(1.1), "x_base": noise})
    x = trace["x"]["value"]
    other, _ = log_density(model, (y,), {}, {"gain": jnp.array(1.1), "x": x})
    assert_allclose(other, density - T * jnp.log(SCALE).sum())

    def potential(gain, solver):
        return log_density(by_noise, (y, solver), {}, {"gain": gain, "x_base": noise})[0]

    for derivative in (jax.grad, jax.hessian):
        by_solver = [
            jax.jit(derivative(lambda g, solver=solver: potential(g, solver)))(1.1) for solver in ("newton", "scan")
        ]
        assert_allclose(*by_solver, rtol=1e-7)


@pytest.mark.slow
def test_nuts_agrees_whatever_the_solver_and_the_mode():
    y = model_draw()
    by_noise = numpyro.handlers.reparam(model, config={"x": TransformReparam()})
    draws = {}
    for solver, forward in (("scan", False), ("chunked", False), ("newton", True)):
        mcmc = MCMC(
            NUTS(by_noise, max_tree_depth=6, forward_mode_differentiation=forward),
            num_warmup=20,
            num_samples=10,
            num_chains=2,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(random.key(0), y, solver)
        draws[solver] = np.asarray(mcmc.get_samples()["gain"])
    for solver in ("newton", "chunked"):
        # Leapfrog steps let the tolerance of 1e-10 grow from one iteration to the next.
        assert_allclose(draws[solver], draws["scan"], rtol=1e-4)


def model_draw():
    return numpyro.infer.Predictive(model, num_samples=1)(random.key(5), None)["y"][0]


@pytest.mark.slow
def test_guides_use_second_derivatives():
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoLaplaceApproximation
    from numpyro.optim import Adam

    y = model_draw()
    by_noise = numpyro.handlers.reparam(model, config={"x": TransformReparam()})
    scales = []
    for solver in ("scan", "newton"):
        guide = AutoLaplaceApproximation(by_noise)
        result = SVI(by_noise, guide, Adam(0.05), Trace_ELBO()).run(random.key(0), 400, y, solver, progress_bar=False)
        scales.append(guide.get_posterior(result.params).covariance_matrix)
    assert_allclose(scales[1], scales[0], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": jnp.zeros((2, 2))}, "must be one state"),
        ({"scale": jnp.ones(3)}, "scale has shape"),
        ({"inputs": jnp.ones(5)}, "first axis must be time"),
        ({"transition": lambda x, u: x[:1]}, "make them equal"),
    ],
)
def test_bad_input_says_what_to_change(arguments, message):
    given = {"transition": transition, "initial": jnp.zeros(D), "scale": 1.0, "inputs": INPUTS} | arguments
    with pytest.raises(ValueError, match=message):
        tsd.NonlinearDynamics(num_steps=T, **given)


def test_noise_is_the_parameter_in_a_plate_too():
    y = random.normal(random.key(1), (3, T, D))

    def series(y):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dynamics("scan"))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=y)

    noise = random.normal(random.key(2), (3, T, D))
    by_noise = numpyro.handlers.reparam(series, config={"x": TransformReparam()})
    density, trace = log_density(by_noise, (y,), {}, {"x_base": noise})
    x = trace["x"]["value"]
    assert_allclose(x, dynamics("scan").transforms[0](noise))
    assert_allclose(log_density(series, (y,), {}, {"x": x})[0], density - 3 * T * jnp.log(SCALE).sum())


def test_a_forecast_goes_on_from_the_last_state():
    still = tsd.NonlinearDynamics(transition, jnp.ones(D), 1e-6, num_steps=T, inputs=INPUTS, solver="scan")
    x = dynamics("scan").sample(random.key(3))
    ahead = still.forecast(random.key(4), x[:-2])["value"]
    expected = transition(x[-3], INPUTS[-2])
    assert_allclose(ahead[0], expected, atol=1e-5, rtol=0)
    assert_allclose(ahead[1], transition(expected, INPUTS[-1]), atol=1e-5, rtol=0)


def test_series_with_starts_and_inputs_of_their_own_equal_a_loop():
    starts, inputs = random.normal(random.key(5), (2, D)), jnp.stack([INPUTS, -INPUTS])
    law = tsd.NonlinearDynamics(transition, starts, SCALE, num_steps=T, inputs=inputs, batch_shape=(2,), solver="scan")
    x = law.sample(random.key(6), (3,))
    assert x.shape == (3, 2, T, D)
    for i in range(2):
        one = tsd.NonlinearDynamics(transition, starts[i], SCALE, num_steps=T, inputs=inputs[i], solver="scan")
        assert_allclose(law.log_prob(x)[:, i], one.log_prob(x[:, i]))
        noise = law.transforms[0].inv(x)
        assert_allclose(one.transforms[0](noise[:, i]), x[:, i], atol=1e-8, rtol=0)


def test_probabilities_below_are_those_of_the_noise():
    x = dynamics("scan").sample(random.key(7), (400,))
    below, up_to = dynamics("scan").cdf_steps(x)
    assert_allclose(below, up_to)
    assert stats.kstest(np.asarray(below).ravel(), "uniform").pvalue > 1e-3
