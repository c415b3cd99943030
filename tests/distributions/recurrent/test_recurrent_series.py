"""Series whose law is read off a recurrent network: densities, draws, and NUTS whatever the solver."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer.util import log_density
from scipy import stats

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose

T, UNITS, CHANNELS = 9, 3, 2
PARAMS = tsppl.nn.init_gru_cell(random.key(0), CHANNELS + 1, UNITS)
READOUT = 0.8 * random.normal(random.key(1), (CHANNELS, UNITS))
INPUTS = jnp.cos(jnp.arange(float(T)))
EMISSIONS = {
    "gaussian": lambda h: dist.Normal(READOUT @ h, 0.3).to_event(1),
    "poisson": lambda h: dist.Poisson(jnp.exp(READOUT @ h)).to_event(1),
}


def transition(h, previous, x):
    return tsppl.nn.gru_cell(PARAMS, h, jnp.append(previous, x))


def series(family, solver="newton", num_steps=T):
    return tsd.RecurrentSeries(
        transition, jnp.zeros(UNITS), EMISSIONS[family], num_steps=num_steps, inputs=INPUTS[:num_steps], solver=solver
    )


def test_probabilities_below_are_those_of_the_emission_given_the_past():
    """Of Gaussian steps by their distribution function; of counts the difference of the two is the probability."""
    law = series("gaussian")
    value = law.sample(random.key(4))
    means = jax.vmap(lambda h: READOUT @ h)(law.states(value))
    for bound in law.cdf_steps(value):
        assert_allclose(bound, stats.norm.cdf(np.asarray(value - means) / 0.3))
    law = series("poisson")
    value = law.sample(random.key(5), (2,))
    lower, upper = law.cdf_steps(value)
    assert lower.shape == value.shape
    assert_allclose(jnp.log(upper - lower).sum(-1), law.log_prob_steps(value))


@pytest.mark.parametrize("family", EMISSIONS)
def test_density_is_the_product_over_steps(family):
    law = series(family)
    value = law.sample(random.key(2), (2,))
    assert value.shape == (2, T, CHANNELS)
    for one, terms in zip(value, law.log_prob_steps(value), strict=True):
        h, previous = jnp.zeros(UNITS), jnp.zeros(CHANNELS)
        for t in range(T):
            h = transition(h, previous, INPUTS[t])
            assert_allclose(terms[t], EMISSIONS[family](h).log_prob(one[t]), rtol=1e-8)
            previous = one[t]
    assert_allclose(law.log_prob(value), law.log_prob_steps(value).sum(-1))


def test_draws_have_the_conditional_law():
    """Each step's probability integral transform, given the steps before, is uniform."""
    law = series("gaussian")
    draws = law.sample(random.key(3), (500,))
    means = jax.vmap(lambda value: jax.vmap(lambda h: READOUT @ h)(law.states(value)))(draws)
    uniform = stats.norm.cdf(np.asarray((draws - means) / 0.3)).ravel()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(stats.norm.cdf(np.asarray(draws - means.mean(0)) / 0.3).ravel(), "uniform").pvalue < 1e-3


def test_a_model_with_sampled_cells_has_the_same_gradient_by_every_solver():
    y = series("poisson").sample(random.key(4))

    def model(solver):
        params = tsd.sample_cell_params("cell", "gru", CHANNELS + 1, UNITS)
        law = tsd.RecurrentSeries(
            lambda h, previous, x: tsppl.nn.gru_cell(params, h, jnp.append(previous, x)),
            jnp.zeros(UNITS),
            EMISSIONS["poisson"],
            num_steps=T,
            inputs=INPUTS,
            solver=solver,
        )
        numpyro.sample("y", law, obs=y)

    trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace("scan")
    values = {name: site["value"] for name, site in trace.items() if name != "y"}
    gradients = [
        jax.jit(jax.grad(lambda v, solver=solver: log_density(model, (solver,), {}, v)[0]))(values)
        for solver in ("scan", "newton")
    ]
    assert_allclose(*gradients, rtol=1e-7, atol=1e-9)


def test_support_and_bad_input():
    assert series("poisson").support.is_discrete
    assert not series("gaussian").support.is_discrete
    with pytest.raises(ValueError, match=r"to_event\(1\)"):
        tsd.RecurrentSeries(transition, jnp.zeros(UNITS), lambda h: dist.Normal(READOUT @ h, 1.0), num_steps=T)


def test_wrong_shapes_are_named():
    law = series("poisson")
    value = law.sample(random.key(0))
    for wrong in (value[:-1], jnp.concatenate([value, value]), value[:, :1]):
        with pytest.raises(ValueError, match="must end in the event shape"):
            law.log_prob(wrong)
    with pytest.raises(ValueError, match="states are those of one series"):
        law.states(jnp.stack([value, value]))
    with pytest.raises(ValueError, match=r"inputs has shape \(8,\)"):
        tsd.RecurrentSeries(transition, jnp.zeros(UNITS), EMISSIONS["poisson"], num_steps=T, inputs=INPUTS[:8])
    with pytest.raises(ValueError, match="solver must be one of"):
        series("poisson", solver="deer")
    with pytest.raises(TypeError, match="must be a NumPyro distribution"):
        tsd.RecurrentSeries(transition, jnp.zeros(UNITS), lambda h: READOUT @ h, num_steps=T, inputs=INPUTS)


def test_one_step_terms_and_forecasts_of_a_users_model():
    def model(value, inputs, num_steps):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        emission = lambda h: dist.Normal(READOUT @ h, scale).to_event(1)  # noqa: E731
        law = tsd.RecurrentSeries(transition, jnp.zeros(UNITS), emission, num_steps=num_steps, inputs=inputs)
        numpyro.sample("y", law, obs=value)

    value = series("gaussian").sample(random.key(4))
    draws = {"scale": jnp.full(3, 1e-4)}
    found = tsppl.log_likelihood(None, model, draws, value, INPUTS, T, kind="one-step", batch_ndims=1)["y"]
    assert found.terms.shape == (3, T)
    assert found.scored.shape == (T,)
    with pytest.raises(NotImplementedError, match="no exact left-out terms"):
        tsppl.log_likelihood(None, model, draws, value, INPUTS, T, batch_ndims=1)
    future = {"value": None, "inputs": INPUTS, "num_steps": T}
    ahead = tsppl.forecast(
        random.key(5), model, draws, 2, value[: T - 2], INPUTS[: T - 2], T - 2, future=future, batch_ndims=1
    )["y"]["value"]
    h = series("gaussian").states(jnp.concatenate([value[: T - 2], jnp.zeros((2, CHANNELS))]))
    assert_allclose(ahead[:, 0], jnp.broadcast_to(READOUT @ h[T - 2], (3, CHANNELS)), atol=1e-3)


def test_plate_makes_several_series_of_one_law():
    value = series("gaussian").sample(random.key(6), (2,))

    def model():
        with numpyro.plate("series", 2):
            numpyro.sample("y", series("gaussian"), obs=value)

    density = log_density(model, (), {}, {})[0]
    assert_allclose(density, series("gaussian").log_prob(value).sum())


MASK = jnp.array([True, True, False, True, False, False, True, True, True])
FED = {"constant": 0.5, "function of the state": lambda h: jnp.exp(READOUT @ h)}


@pytest.mark.parametrize("missing", FED.values(), ids=FED)
def test_a_missing_step_is_fed_as_the_user_says(missing):
    law = tsd.RecurrentSeries(
        transition, jnp.zeros(UNITS), EMISSIONS["poisson"], num_steps=T, inputs=INPUTS, mask=MASK, missing=missing
    )
    value = series("poisson").sample(random.key(7))
    terms = jax.jit(law.log_prob_steps)(jnp.where(MASK[:, None], value, -1))
    completed = law.sample_missing(random.key(8), value)
    h, previous = jnp.zeros(UNITS), jnp.zeros(CHANNELS)
    for t in range(T):
        h = transition(h, previous, INPUTS[t])
        expected = EMISSIONS["poisson"](h).log_prob(value[t]) if MASK[t] else 0.0
        assert_allclose(terms[t], jnp.asarray(expected), rtol=1e-8)
        previous = value[t] if MASK[t] else missing(h) if callable(missing) else jnp.full(CHANNELS, missing)
    # What is drawn for a missing step has no effect on later ones.
    assert_allclose(law.log_prob(completed), terms.sum())


def test_a_ragged_series_ends_at_its_length():
    value = series("gaussian").sample(random.key(9))
    law = tsd.RecurrentSeries(
        transition, jnp.zeros(UNITS), EMISSIONS["gaussian"], num_steps=T, inputs=INPUTS, lengths=jnp.array([5, T])
    )
    padded = jnp.stack([value.at[5:].set(jnp.nan), value])
    both = jax.jit(law.log_prob)(padded)
    assert_allclose(
        both, jnp.stack([series("gaussian", num_steps=5).log_prob(value[:5]), series("gaussian").log_prob(value)])
    )
    completed = law.sample_missing(random.key(10), padded)
    assert jnp.isfinite(completed).all()
    np.testing.assert_array_equal(completed[1], value)
    assert jnp.isnan(law.cdf_steps(padded)[0][0, 5:]).all()


def test_series_with_starts_and_inputs_of_their_own_equal_a_loop():
    starts, inputs = random.normal(random.key(11), (2, UNITS)), jnp.stack([INPUTS, -INPUTS])
    law = tsd.RecurrentSeries(
        transition, starts, EMISSIONS["gaussian"], num_steps=T, inputs=inputs, batch_shape=(2,), solver="scan"
    )
    assert law.batch_shape == (2,)
    value = law.sample(random.key(12), (3,))
    assert value.shape == (3, 2, T, CHANNELS)
    for i in range(2):
        one = tsd.RecurrentSeries(
            transition, starts[i], EMISSIONS["gaussian"], num_steps=T, inputs=inputs[i], solver="scan"
        )
        assert_allclose(law.log_prob(value)[:, i], one.log_prob(value[:, i]))


def test_masks_and_batches_that_cannot_be_are_refused():
    def law(**options):
        return tsd.RecurrentSeries(
            transition, jnp.zeros(UNITS), EMISSIONS["gaussian"], **({"num_steps": T, "inputs": INPUTS} | options)
        )

    with pytest.raises(ValueError, match="mask needs missing"):
        law(mask=MASK)
    with pytest.raises(
        ValueError, match=r"missing has shape \(3,\); it must be a number, like one observation, \(2,\)"
    ):
        law(mask=MASK, missing=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"initial has shape \(3,\); with batch_shape=\(2,\) it must begin"):
        law(batch_shape=(2,))
