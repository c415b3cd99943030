"""Densities of the future from draws that have seen it, against the closed form, and refits where these fail."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tsppl
from tsppl.posterior.scoring import PointwiseTerms

RNG = np.random.default_rng(0)
T, PRIOR = 60, 3.0
Y = 1.0 + RNG.normal(size=T)
Y[10] = 7.0


def posterior(num_seen):
    """Mean and deviation of the location of normal observations of variance one."""
    precision = 1 / PRIOR**2 + num_seen
    return Y[:num_seen].sum() / precision, 1 / np.sqrt(precision)


def fit(num_seen):
    """Terms of two chains of draws of the exact posterior; a second sequence is unscored."""
    mean, deviation = posterior(num_seen)
    loc = np.random.default_rng(num_seen).normal(mean, deviation, (2, 1500))
    terms = stats.norm.logpdf(Y, loc[..., None])
    terms = np.stack([terms, np.zeros_like(terms)], -2)
    return PointwiseTerms(jnp.asarray(terms), jnp.asarray(np.stack([Y == Y, Y != Y]))), num_seen


EXACT = np.array([stats.norm.logpdf(Y[t], posterior(t)[0], np.hypot(1, posterior(t)[1])) for t in range(T)])


def test_one_fit_reaches_back_and_refits_the_rest():
    """The last steps come from the fit to all; the outlier's past needs another fit, and then all agree."""
    alone = tsppl.leave_future_out([fit(T)], first=5)
    reliable = alone.khat < 0.7
    assert reliable[-20:].all()
    np.testing.assert_allclose(alone.densities[reliable], EXACT[5:][reliable], atol=0.1)
    assert alone.refit_at is not None
    assert np.isnan(alone.score)
    assert f"Fit the model to the first {alone.refit_at} steps" in str(alone)
    fits = [fit(T)]
    while (found := tsppl.leave_future_out(fits, first=5)).refit_at is not None:
        fits.append(fit(found.refit_at))
        assert len(fits) < 8
    np.testing.assert_allclose(found.densities, EXACT[5:], atol=0.2)
    assert abs(found.score - EXACT[5:].sum()) < 0.3
    assert len(fits) > 1
    assert set(found.num_seen) <= {num_seen for _, num_seen in fits}
    assert str(found).endswith(f"{found.score:.1f} nats")


def test_refusals():
    terms, _ = fit(T)
    with pytest.raises(ValueError, match="fits is empty"):
        tsppl.leave_future_out([], first=1)
    with pytest.raises(ValueError, match="first is 60"):
        tsppl.leave_future_out([(terms, T)], first=T)
    with pytest.raises(ValueError, match="a fit to 61 steps has terms of 60"):
        tsppl.leave_future_out([(terms, T + 1)], first=1)
