"""The compiler option: set before the backend starts, refused after."""

import os
import subprocess
import sys

import jax.numpy as jnp
import jaxlib
import pytest

import tsppl

SCRIPT = """
import os, tsppl
before = os.environ.get("XLA_FLAGS", "")
tsppl.configure_cpu(1000)
tsppl.configure_cpu(2000)
import jax.numpy as jnp
print(before, os.environ["XLA_FLAGS"], float(jnp.ones(3).sum()), sep="|")
"""

LIMIT = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000"
ALSO = " --xla_cpu_experimental_ynn_fusion_type=" if jaxlib.__version__.startswith("0.9.") else ""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", LIMIT + ALSO),
        ("--xla_force_host_platform_device_count=2", f"--xla_force_host_platform_device_count=2 {LIMIT}{ALSO}"),
        (LIMIT.replace("1000", "7"), LIMIT.replace("1000", "7")),
    ],
)
def test_the_option_is_set_once_beside_others(flags, expected):
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    before, after, total = run.stdout.strip().split("|")
    assert (before, after, total) == (flags, expected, "3.0")


BATCH = """
import tsppl
tsppl.configure_cpu()
import jax, jax.numpy as jnp
from tsppl import messages
evidence = jax.vmap(lambda terms: messages.hidden_markov_forward(jnp.zeros(50), jnp.zeros((50, 50)), terms).log_normalizers.sum())
jax.jit(evidence).lower(jnp.zeros((256, 20, 50))).compile()
"""


def test_reductions_of_a_large_batch_compile_with_it():
    """Where jaxlib 0.9 fuses a reduction for its library, a loop that is compiled whole cannot hold it."""
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": ""}
    subprocess.run([sys.executable, "-c", BATCH], env=environment, check=True)


def test_refused_after_the_backend_has_started():
    jnp.ones(1).block_until_ready()
    flags = os.environ.get("XLA_FLAGS")
    with pytest.raises(RuntimeError, match="before the first JAX computation"):
        tsppl.configure_cpu()
    assert os.environ.get("XLA_FLAGS") == flags


def test_the_limit_is_a_number_of_bytes():
    with pytest.raises(ValueError, match="positive whole number"):
        tsppl.configure_cpu(0)
