"""Dynamic factor models and news: against statsmodels' DynamicFactorMQ, and against dense Gaussian algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tsppl
from tests.helpers import assert_allclose
from tsppl.models.dynamic_factors import QUARTER_WEIGHTS, stationary_covariance

NUM_STEPS, QUARTERLY = 24, np.array([False, False, False, True])
LOADINGS, LAGS, COVARIANCE = np.array([0.7, 0.9, 0.5, 0.6]), np.array([0.5, 0.2]), 1.69
PERSISTENCE, VARIANCES = np.array([0.3, -0.2, 0.5, 0.1]), np.array([0.8, 1.1, 0.6, 0.4])


def make_series(mask, persistence=PERSISTENCE):
    return tsppl.dynamic_factors(
        LOADINGS[:, None],
        LAGS[:, None, None],
        [[COVARIANCE]],
        np.sqrt(VARIANCES),
        num_steps=len(mask),
        idiosyncratic_autoregression=persistence,
        quarterly=QUARTERLY,
        mask=mask,
    )


def vintages():
    """Two vintages with gaps, a ragged edge and revisions."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(NUM_STEPS, 4)).cumsum(0) / 3
    before[np.arange(NUM_STEPS) % 3 != 2, 3] = np.nan
    before[-1, 1:], before[-2, 2], before[5:9, 0] = np.nan, np.nan, np.nan
    after = before.copy()
    after[-1, 1], after[-2, 2] = 0.4, -1.0
    after[-3, 0] += 0.3
    after[-4, 3] += 0.5
    return before, after


def dense_covariance(num_steps):
    """Of all entries, from the autocovariances of monthly values, by sums over long histories."""
    effects = [1.0]
    for _ in range(300):
        effects.append(LAGS[0] * effects[-1] + LAGS[1] * (effects[-2] if len(effects) > 1 else 0.0))
    effects = np.array(effects)
    of_factor = COVARIANCE * np.array([effects[: len(effects) - lag] @ effects[lag:] for lag in range(200)])
    lag = np.abs(np.subtract.outer(np.arange(num_steps + 4), np.arange(num_steps + 4)))
    weights = np.zeros((2, num_steps, num_steps + 4))
    for step in range(num_steps):
        weights[0, step, step + 4] = 1.0
        weights[1, step, step : step + 5] = QUARTER_WEIGHTS[::-1]
    weights = weights[QUARTERLY.astype(int)]
    total = np.zeros((num_steps, 4, num_steps, 4))
    for first in range(4):
        for second in range(4):
            covariance = LOADINGS[first] * LOADINGS[second] * of_factor[lag]
            if first == second:
                covariance = covariance + VARIANCES[first] * PERSISTENCE[first] ** lag / (1 - PERSISTENCE[first] ** 2)
            total[:, first, :, second] = weights[first] @ covariance @ weights[second].T
    return total.reshape(num_steps * 4, -1) + 1e-4 * np.eye(num_steps * 4)


def test_density_expectations_and_news_are_those_of_the_whole_gaussian():
    before, after = vintages()
    covariance, target = dense_covariance(NUM_STEPS), (NUM_STEPS - 1) * 4 + 3

    def given(data):
        seen = ~np.isnan(data).ravel()
        return covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)]), seen

    old, was_seen = given(before)
    data = before.ravel()[was_seen]
    _, log_determinant = np.linalg.slogdet(covariance[np.ix_(was_seen, was_seen)])
    inner = data @ np.linalg.solve(covariance[np.ix_(was_seen, was_seen)], data)
    series = make_series(jnp.asarray(~np.isnan(before)))
    found = jax.jit(series.log_prob)(jnp.nan_to_num(before))
    assert_allclose(found, -0.5 * (log_determinant + inner + was_seen.sum() * np.log(2 * np.pi)), rtol=1e-8)
    expected = tsppl.expected_values(series, jnp.nan_to_num(before))
    assert_allclose(expected.ravel(), old @ data, atol=1e-7)

    news = tsppl.news(make_series, before, after, step=NUM_STEPS - 1, channel=3)
    new, is_seen = given(after)
    assert_allclose(news.before, (old @ data)[target], atol=1e-7)
    assert_allclose(news.after, (new @ after.ravel()[is_seen])[target], atol=1e-7)
    assert list(zip(news.steps.tolist(), news.channels.tolist(), strict=True)) == [(22, 2), (23, 1)]
    revised = old @ after.ravel()[was_seen]
    places = news.steps * 4 + news.channels
    assert_allclose(news.expected, revised[places], atol=1e-7)
    weights = new[target][np.searchsorted(np.flatnonzero(is_seen), places)]
    assert_allclose(news.weights, weights, atol=1e-7)
    assert_allclose(news.impacts, weights * (np.array([-1.0, 0.4]) - revised[places]), atol=1e-7)
    assert_allclose(news.revision_impacts.sum(), (revised - old @ data)[target], atol=1e-7)
    assert_allclose(news.after - news.before, news.impacts.sum() + news.revision_impacts.sum(), atol=1e-7)
    assert news.revision_impacts[jnp.array([1, 2])].tolist() == [0.0, 0.0]


def test_density_and_news_are_those_of_statsmodels():
    """DynamicFactorMQ with the noise of observations of the published code, and the stationary start of both."""
    pandas = pytest.importorskip("pandas")
    dynamic_factor_mq = pytest.importorskip("statsmodels.tsa.statespace.dynamic_factor_mq")
    before, after = vintages()
    months = pandas.period_range("2010-01", periods=NUM_STEPS, freq="M")
    params = np.concatenate([LOADINGS, LAGS, [COVARIANCE**0.5], PERSISTENCE, VARIANCES])

    def results(data):
        monthly = pandas.DataFrame(data[:, :3], months, columns=list("abc"))
        quarters = pandas.DataFrame(data[2::3, 3:], months[2::3].asfreq("Q"), columns=["q"])
        model = dynamic_factor_mq.DynamicFactorMQ(
            monthly, endog_quarterly=quarters, factors=1, factor_orders=2, idiosyncratic_ar1=True, standardize=False
        )
        model["obs_cov"] = 1e-4 * np.eye(4)
        return model.smooth(params)

    first, second = results(before), results(after)
    found = make_series(jnp.asarray(~np.isnan(before))).log_prob(jnp.nan_to_num(before))
    assert_allclose(found, first.llf, rtol=1e-9)
    theirs = second.news(first, impact_date=months[-1], impacted_variable="q", comparison_type="previous")
    ours = tsppl.news(make_series, before, after, step=NUM_STEPS - 1, channel=3)
    details = theirs.details_by_impact
    assert_allclose(ours.expected, details["forecast (prev)"].to_numpy(), atol=1e-6)
    assert_allclose(ours.weights, details["weight"].to_numpy(), atol=1e-6)
    assert_allclose(ours.impacts, details["impact"].to_numpy(), atol=1e-6)
    assert_allclose(ours.after - ours.before, theirs.total_impacts["q"].iloc[0], atol=1e-6)
    assert_allclose(ours.revision_impacts.sum(), theirs.revision_impacts["q"].iloc[0], atol=1e-6)


def test_white_parts_of_their_own_are_the_same_without_their_dimensions():
    before, _ = vintages()
    mask = jnp.asarray(~np.isnan(before))
    white = make_series(mask, None)
    assert white.initial.event_shape[0] == make_series(mask).initial.event_shape[0] - 3
    noise = np.where(QUARTERLY, VARIANCES, VARIANCES - 1e-4)
    same = tsppl.dynamic_factors(
        LOADINGS[:, None],
        LAGS[:, None, None],
        [[COVARIANCE]],
        np.sqrt(noise),
        num_steps=NUM_STEPS,
        idiosyncratic_autoregression=np.zeros(4),
        quarterly=QUARTERLY,
        mask=mask,
    )
    assert_allclose(white.log_prob(jnp.nan_to_num(before)), same.log_prob(jnp.nan_to_num(before)), rtol=1e-8)


def test_two_steps_find_loadings_and_persistence():
    rng, num_steps, num_series = np.random.default_rng(1), 600, 24
    loadings = rng.uniform(0.5, 1.0, num_series)
    quarterly = np.arange(num_series) >= 22
    series = tsppl.dynamic_factors(
        loadings[:, None], [[0.8]], [[1.0]], np.full(num_series, 0.6), num_steps=num_steps, quarterly=quarterly,
        idiosyncratic_autoregression=np.full(num_series, 0.4),
    )  # fmt: skip
    values = np.array(series.sample(jax.random.key(0)))
    values[:, quarterly][np.arange(num_steps) % 3 != 2] = np.nan
    values[:200, 0], values[-2:, 1:5] = np.nan, np.nan
    found = tsppl.two_step_factors(values, 1, quarterly=quarterly)
    estimates = found["loadings"][:, 0] * np.sqrt(found["factor_covariance"][0, 0])
    assert np.abs(estimates * np.sign(estimates[0]) / loadings - 1).max() < 0.2
    assert abs(found["factor_transition"].item() - 0.8) < 0.08
    assert np.abs(found["idiosyncratic_autoregression"][:22] - 0.4).max() < 0.2
    assert_allclose(stationary_covariance(jnp.array([[0.9]]), jnp.ones((1, 1))), 1 / (1 - 0.81), rtol=1e-9)


def test_second_derivatives_beside_gaps():
    before, _ = vintages()
    mask, values = jnp.asarray(~np.isnan(before))[:6, :2], jnp.nan_to_num(before)[:6, :2]

    def log_prob(size):
        series = tsppl.dynamic_factors(
            size * jnp.ones((2, 1)), [[0.5]], [[1.0]], size * jnp.ones(2), num_steps=6, mask=mask.at[2, 1].set(False)
        )
        return series.log_prob(values)

    around = [float(jax.jit(jax.grad(log_prob))(size)) for size in (0.999, 1.001)]
    assert_allclose(jax.jit(jax.hessian(log_prob))(1.0), (around[1] - around[0]) / 0.002, rtol=1e-4)


def test_mistakes_are_named():
    before, after = vintages()
    with pytest.raises(ValueError, match="is in before and not in after"):
        tsppl.news(make_series, after, before, step=NUM_STEPS - 1, channel=3)
    with pytest.raises(ValueError, match="is known before"):
        tsppl.news(make_series, before, after, step=2, channel=3)
    with pytest.raises(ValueError, match="pad both"):
        tsppl.news(make_series, before, after[:-1], step=2, channel=3)
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        tsppl.dynamic_factors(jnp.ones(3), [[0.5]], [[1.0]], jnp.ones(3), num_steps=4)
    with pytest.raises(ValueError, match="one truth value"):
        tsppl.dynamic_factors(jnp.ones((3, 1)), [[0.5]], [[1.0]], jnp.ones(3), num_steps=4, quarterly=[True])
    with pytest.raises(ValueError, match="day is"):
        tsppl.datasets.frbny_vintage("2016-06-30")
