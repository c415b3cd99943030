"""Recurrent cells against the equations, unit by unit in NumPy, and their diagonals against full Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from tests.helpers import assert_allclose
from tsppl import nn

N, M = 4, 3


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def total(p, gate, unit, carry, x):
    """Input, recurrence and bias of one gate of one unit."""
    return (
        sum(p["input_weights"][gate, unit, j] * x[j] for j in range(M))
        + sum(p["recurrent_weights"][gate, unit, j] * carry[j] for j in range(N))
        + p["bias"][gate, unit]
    )


def gru_reference(p, h, x):
    new = np.empty(N)
    for i in range(N):
        reset, update = (sigmoid(total(p, gate, i, h, x)) for gate in (0, 1))
        recurrent = p["recurrent_weights"][2, i] @ h + p["candidate_recurrent_bias"][i]
        candidate = np.tanh(p["input_weights"][2, i] @ x + p["bias"][2, i] + reset * recurrent)
        new[i] = update * h[i] + (1 - update) * candidate
    return new


def lstm_reference(p, carry, x):
    new = np.empty((2, N))
    for i in range(N):
        entered, forgotten, output = (sigmoid(total(p, gate, i, carry[1], x)) for gate in (0, 1, 3))
        new[0, i] = forgotten * carry[0][i] + entered * np.tanh(total(p, 2, i, carry[1], x))
        new[1, i] = output * np.tanh(new[0, i])
    return tuple(new)


def leaky_tanh_reference(p, h, x):
    return np.array([(1 - p["leak"][i]) * h[i] + p["leak"][i] * np.tanh(total(p, 0, i, h, x)) for i in range(N)])


def minimal_gated_reference(p, h, x):
    gates = np.array([sigmoid(total(p, 0, i, h, x)) for i in range(N)])
    candidates = np.array([np.tanh(total(p, 1, i, gates * h, x)) for i in range(N)])
    return (1 - gates) * h + gates * candidates


REFERENCES = {
    "gru": gru_reference,
    "lstm": lstm_reference,
    "leaky_tanh": leaky_tanh_reference,
    "minimal_gated": minimal_gated_reference,
}


def problem(name):
    """Weights of which none is zero or of special structure, a carry and inputs."""
    params = getattr(nn, f"init_{name}_cell")(random.key(0), M, N)
    leaves, tree = jax.tree.flatten(params)
    keys = random.split(random.key(1), len(leaves))
    leaves = [leaf + 0.3 * random.uniform(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    carry, x = random.normal(random.key(2), (2, N)), random.normal(random.key(3), (M,))
    return jax.tree.unflatten(tree, leaves), tuple(carry) if name == "lstm" else carry[0], x


@pytest.mark.parametrize("name", REFERENCES)
def test_step_follows_the_equations(name):
    params, carry, x = problem(name)
    expected = REFERENCES[name](*jax.tree.map(np.asarray, (params, carry, x)))
    assert_allclose(getattr(nn, f"{name}_cell")(params, carry, x), expected)


def full_jacobian(name, params, carry, x):
    flat, unravel = ravel_pytree(carry)
    cell = getattr(nn, f"{name}_cell")
    return jax.jacfwd(lambda flat: ravel_pytree(cell(params, unravel(flat), x))[0])(flat)


@pytest.mark.parametrize("name", REFERENCES)
def test_diagonal_is_that_of_the_jacobian(name):
    params, carry, x = problem(name)
    diagonal = getattr(nn, f"{name}_cell_diagonal")(params, carry, x)
    assert jax.tree.structure(diagonal) == jax.tree.structure(carry)
    assert_allclose(ravel_pytree(diagonal)[0], jnp.diagonal(full_jacobian(name, params, carry, x)))


def test_pairs_are_blocks_of_the_jacobian():
    params, carry, x = problem("lstm")
    by_part = full_jacobian("lstm", params, carry, x).reshape(2, N, 2, N)
    assert_allclose(nn.lstm_cell_pairs(params, carry, x), jnp.einsum("aibi->iab", by_part))


@pytest.mark.parametrize("name", REFERENCES)
def test_recurrent_weights_start_orthogonal_times_gain(name):
    weights = getattr(nn, f"init_{name}_cell")(random.key(0), M, N, gain=0.7)["recurrent_weights"]
    assert_allclose(weights @ weights.swapaxes(1, 2), jnp.broadcast_to(0.49 * jnp.eye(N), weights.shape))


def test_input_weights_start_with_variance_one_over_inputs():
    weights = nn.init_gru_cell(random.key(0), 50, 200)["input_weights"]
    assert_allclose(weights.var() * 50, 1.0, rtol=0.05)


def test_forget_gates_start_open():
    bias = nn.init_lstm_cell(random.key(0), M, N, forget_bias=2.0)["bias"]
    assert_allclose(bias, jnp.zeros((4, N)).at[1].set(2.0))
