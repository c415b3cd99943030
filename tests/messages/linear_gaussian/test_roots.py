"""Triangular factors and their inverses: small ones by a loop of our own, larger ones by LAPACK, the same either way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsppl.messages.linear_gaussian.roots import SMALL, inverse_lower, lower_root, solve_lower

SHAPES = [(1, 1), (3, 2), (4, 9), (SMALL + 1, 2 * SMALL)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_root_is_lower_triangular_and_has_the_same_covariance(shape):
    root = np.random.default_rng(0).normal(size=(2, *shape))
    factor = lower_root(jnp.asarray(root), 0)
    assert factor.shape == (2, shape[0], min(shape))
    assert np.array_equal(factor, np.tril(factor))
    assert np.all(np.diagonal(factor, axis1=1, axis2=2) >= 0)
    np.testing.assert_allclose(factor @ np.swapaxes(factor, 1, 2), root @ np.swapaxes(root, 1, 2), atol=1e-12)


@pytest.mark.parametrize("size", [2, SMALL + 1])
@pytest.mark.parametrize(
    "spoil",
    [lambda root: root.at[0].set(0), lambda root: root.at[-1].set(root[0]), lambda root: 0 * root],
    ids=["zero row", "equal rows", "nothing"],
)
def test_singular_covariances_have_roots(spoil, size):
    root = spoil(jnp.asarray(np.random.default_rng(1).normal(size=(size, size + 2))))
    factor = lower_root(root, 0)
    np.testing.assert_allclose(factor @ factor.T, root @ root.T, atol=1e-12)

    def first_row(root):
        return jnp.sum((root @ root.T)[0] ** 2)

    gradient = jax.grad(lambda root: first_row(lower_root(root, 0)))(root)
    np.testing.assert_allclose(gradient, jax.grad(first_row)(root), atol=1e-10)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_of_entries_neither_vanish_nor_overflow(scale):
    root = np.random.default_rng(2).normal(size=(3, 5))
    factor = lower_root(jnp.asarray(scale * root, jnp.float32), 0) / np.float32(scale)
    np.testing.assert_allclose(factor @ factor.T, root @ root.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [3, SMALL + 1])
def test_an_inverse_and_its_derivatives_are_those_of_the_triangle(size):
    generator = np.random.default_rng(3)
    factor = jnp.asarray(np.tril(generator.normal(size=(2, size, size)), -1) + 2 * np.eye(size))
    right = jnp.asarray(generator.normal(size=(size,)))
    np.testing.assert_allclose(inverse_lower(factor) @ factor, np.broadcast_to(np.eye(size), factor.shape), atol=1e-12)
    np.testing.assert_allclose(factor[0] @ solve_lower(factor[0], right), right, atol=1e-12)

    def by(inverse):
        return lambda factor: jnp.sum(jnp.sin(inverse(factor) @ right))

    ours, dense = by(inverse_lower), by(lambda factor: jnp.linalg.inv(jnp.tril(factor)))
    np.testing.assert_allclose(jax.grad(ours)(factor[0]), jax.grad(dense)(factor[0]), atol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.hessian(ours))(factor[0]), jax.jit(jax.hessian(dense))(factor[0]), atol=1e-9)
