"""The prior of recurrent cells: bounded weights, and states that forget."""

import jax
import jax.numpy as jnp
import pytest
from jax import random
from jax.flatten_util import ravel_pytree
from numpyro import handlers

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl import nn

CELLS = ["gru", "lstm", "leaky_tanh", "minimal_gated"]


def draws(cell, num_inputs, num_units, num_draws, **options):
    def draw(key):
        return handlers.seed(tsd.sample_cell_params, key)("cell", cell, num_inputs, num_units, **options)

    return jax.vmap(draw)(random.split(random.key(0), num_draws))


def lyapunov_exponent(cell, params, inputs, carry, key):
    """Mean log growth of a random direction along the trajectory, its first quarter left out."""
    flat, unravel = ravel_pytree(carry)

    def advance(flat, x):
        return ravel_pytree(getattr(nn, f"{cell}_cell")(params, unravel(flat), x))[0]

    def step(loop, x):
        state, direction = jax.jvp(lambda flat: advance(flat, x), loop[:1], loop[1:])
        size = jnp.linalg.norm(direction)
        return (state, direction / size), jnp.log(size)

    growth = jax.lax.scan(step, (flat, random.normal(key, flat.shape)), inputs)[1]
    return growth[len(inputs) // 4 :].mean()


@pytest.mark.parametrize("cell", CELLS)
def test_draws_have_the_shapes_of_the_cell_and_norms_below_the_bound(cell):
    params = draws(cell, 2, 5, 50, bound=0.8, recurrent_scale=3.0)
    init = getattr(nn, f"init_{cell}_cell")(random.key(0), 2, 5)
    assert jax.tree.map(lambda leaf: leaf.shape[1:], params) == jax.tree.map(jnp.shape, init)
    norms = jnp.linalg.norm(params["recurrent_weights"], ord=2, axis=(-2, -1))
    assert norms.max() < 0.8
    assert norms.max() > 0.75


def test_singular_values_are_those_of_the_docstring():
    params = draws("gru", 2, 4, 1, bound=0.8)
    site = handlers.trace(handlers.seed(tsd.sample_cell_params, random.split(random.key(0), 1)[0]))
    free = site.get_trace("cell", "gru", 2, 4)["cell_recurrent_weights"]["value"]
    values = jnp.linalg.svd(free, compute_uv=False)
    expected = 0.8 * values / jnp.sqrt(1 + values**2)
    assert_allclose(jnp.linalg.svd(params["recurrent_weights"][0], compute_uv=False), expected)


def test_gradient_is_finite_where_all_weights_are_zero():
    """Where an SVD or a square root of a matrix would give NaN."""

    def size(weights):
        values = {"cell_recurrent_weights": weights}
        model = handlers.seed(handlers.substitute(tsd.sample_cell_params, values), 0)
        return model("cell", "minimal_gated", 2, 3)["recurrent_weights"].sum()

    assert_allclose(jax.grad(size)(jnp.zeros((2, 3, 3))), jnp.full((2, 3, 3), 0.9))


@pytest.mark.slow
@pytest.mark.parametrize("num_units", [8, 32])
@pytest.mark.parametrize("cell", CELLS)
def test_draws_contract(cell, num_units):
    """Largest Lyapunov exponent below zero in 99 of 100 draws, 200 steps of standard normal inputs."""
    params = draws(cell, 2, num_units, 500)
    inputs = random.normal(random.key(1), (200, 2))
    carry = jnp.zeros(num_units)
    carry = (carry, carry) if cell == "lstm" else carry
    exponents = jax.vmap(lambda p, key: lyapunov_exponent(cell, p, inputs, carry, key))(
        params, random.split(random.key(2), 500)
    )
    assert (exponents < 0).mean() >= 0.99


def test_unknown_cells_are_named():
    with pytest.raises(ValueError, match="'leaky_tanh'"):
        draws("elman", 2, 3, 1)
