"""The look at a model before sampling names what is wrong, where, and says nothing of a sound model."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import tsppl
import tsppl.distributions as tsd

ROWS = jnp.array([[0.9, 0.1], [0.2, 0.8]])
VALUE = np.array([[0.5, 1.5, 2.0], [0.1, 0.0, 3.0]])


def gamma(shape):
    def emission():
        return dist.Gamma(jnp.array(shape), numpyro.sample("rate", dist.Gamma(2.0, 1.0)), validate_args=False)

    return emission


def model(value, emission, mask=None):
    series = tsd.HiddenMarkov(jnp.ones(2) / 2, ROWS, emission(), num_steps=3, mask=mask, validate_args=False)
    numpyro.sample("y", series, obs=value)


def normal():
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    return dist.Normal(loc, 1.0)


@pytest.mark.smoke
def test_sound_model_is_called_sound_and_shown_in_a_table():
    mask = jnp.array([[True, True, False], [True, False, False]])
    check = tsppl.check_model(model, VALUE, normal, mask)
    assert check.ok
    assert check.sites["y"].masked == pytest.approx(0.5)
    assert check.sites["y"].shape == (2, 3)
    assert check.sites["y"].observed
    assert check.sites["loc"].gradient > 0
    assert "no problem found" in str(check)


def test_value_outside_the_support_is_named_with_its_place():
    check = tsppl.check_model(model, VALUE, gamma([2.0, 3.0]))
    assert not check.ok
    assert "sequence 1, step 1 (value 0.0)" in check.problems[0]
    assert check.problems[0] in str(check)


class Spiked(dist.Normal):
    """Without bound at 2, and nothing at 0.5 in any state; 1.5 is worth NaN in the second state."""

    def log_prob(self, value):
        terms = super().log_prob(value)
        second = jnp.arange(2) == 1
        return terms + jnp.where(value == self.spike, jnp.where(second, self.added, self.for_both), 0.0)


@pytest.mark.parametrize(
    ("spike", "added", "for_both", "words"),
    [
        (3.0, -jnp.inf, -jnp.inf, "sequence 1, step 2 (value 3.0) has log density -inf in all states"),
        (2.0, jnp.inf, 0.0, "sequence 0, step 2 (value 2.0) has log density inf in state 1: a density without bound"),
        (1.5, jnp.nan, 0.0, "sequence 0, step 1 (value 1.5) has log density nan in state 1"),
    ],
)
def test_first_step_that_is_impossible_or_unbounded_is_named(spike, added, for_both, words):
    def emission():
        spiked = Spiked(numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1)), 1.0)
        spiked.spike, spiked.added, spiked.for_both = spike, added, for_both
        return spiked

    check = tsppl.check_model(model, VALUE, emission, num_draws=1)
    assert any(words in problem for problem in check.problems)


def test_gradient_that_is_not_finite_is_named():
    def rooted():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("root", jnp.where(x > 1e9, jnp.sqrt(x - jnp.inf), 0.0))
        numpyro.sample("z", dist.Bernoulli(0.5))

    check = tsppl.check_model(rooted)
    assert "site 'x': the gradient" in check.problems[0]
    assert check.sites["z"].gradient is None


def test_site_of_another_library_is_named_too():
    def positive(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.LogNormal(0.0, scale, validate_args=False).expand([3]), obs=y)

    check = tsppl.check_model(positive, jnp.array([1.0, 0.0, 2.0]))
    assert "site 'y': the log density is" in check.problems[0]
    assert "index (1,)" in check.problems[0]
