"""The rates of a Neyman-Scott process: what follows from them, beside the same by other functions."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.points import NeymanScottRates, log_count_prob, log_label_weight

RATES = NeymanScottRates(1.4, 2.0, 0.5, 0.9)


def test_what_follows_from_rates():
    assert_allclose(RATES.log_prob_nothing, log_count_prob(0, *RATES, largest=0))
    assert_allclose(RATES.expected_points, 0.9 + 1.4 * 2.0 / 0.5)
    assert_allclose(jnp.exp(RATES.log_prob_empty), (0.5 / 1.5) ** 2)
    assert_allclose(RATES.expected_occupied, 1.4 * (1 - (0.5 / 1.5) ** 2))
    labels = jnp.array([0, 0, 1, -1, 0])
    expected = RATES.log_cluster_weight(3) + RATES.log_cluster_weight(1) + np.log(0.9)
    assert_allclose(log_label_weight(labels, *RATES), expected)


def test_a_process_has_them_and_they_unpack():
    process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.3, (0.0, 5.0))
    assert isinstance(process.rates, NeymanScottRates)
    events, concentration, rate, background = process.rates
    assert_allclose(jnp.stack([events, concentration, rate, background]), jnp.array([2.0, 2.0, 0.5, 1.5]))
