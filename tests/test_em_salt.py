"""Expectation maximisation of SALT: each update against a dense solve, fixed points, monotone traces, starts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import em as reference
from tsppl.inference.em import em
from tsppl.inference.low_rank_regression import Factors, NormalPrior, maximize_low_rank_regression

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
    rows = jnp.concatenate([jnp.ones((len(past), 1)), past.reshape(len(past), -1), outputs], 1)
    products = jnp.einsum("tk,ta,tb->kab", weights, rows, rows)
    scale_tril = jnp.linalg.cholesky(covariance)
    return maximize_low_rank_regression(
        Factors(**factors), offset, products, scale_tril, priors=priors, free=free, num_sweeps=num_sweeps
    )


@pytest.mark.parametrize(
    ("tucker", "shared", "with_prior", "offset"),
    [
        (True, (), False, "joint"),
        (True, ("output", "core"), True, "held"),
        (True, ("input", "lag"), False, "held"),
        (False, ("lag",), True, "joint"),
    ],
)
def test_each_block_equals_one_dense_least_squares_problem(tucker, shared, with_prior, offset):
    data = problem(0, tucker=tucker, shared=shared)
    for field in ("output", "input", "lag", "core")[: 4 if tucker else 3]:
        block = data["factors"][field]
        prior = (0.3, np.linspace(0.1, 0.5, block.shape[1])[:, None] * np.ones(block.shape[2:])) if with_prior else None
        priors = {field: NormalPrior(*np.broadcast_arrays(0.3, block * 0 + prior[1] ** -2))} if with_prior else {}
        free = (field, "offset") if offset == "joint" else (field,)
        factors, found = improve(**data, priors=priors, free=free)
        expected, expected_offset = reference.low_rank_block(
            field=field, prior=prior, joint_offset=offset == "joint", **data
        )
        assert_allclose(getattr(factors, field), expected, rtol=1e-8, atol=1e-8)
        assert_allclose(found, expected_offset, rtol=1e-8, atol=1e-8)
        for other in {"output", "input", "lag"} - {field}:
            assert_allclose(getattr(factors, other), data["factors"][other])


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


@pytest.mark.parametrize("noise", ["full", pytest.param("diagonal", marks=pytest.mark.slow)])
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
