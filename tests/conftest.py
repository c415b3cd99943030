"""Fixtures shared by the tests; the JAX settings are in the conftest.py of the repository root."""

import jax
import pytest


@pytest.fixture
def key():
    """A fixed random key: split it, never use it twice."""
    return jax.random.PRNGKey(0)
