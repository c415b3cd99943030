"""Fixtures shared by the tests; the JAX settings are in the conftest.py of the repository root."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions():
    """Thousands of compiled functions otherwise stay in memory, and slow down whatever comes later."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    """A fixed random key: split it, never use it twice."""
    return jax.random.PRNGKey(0)
