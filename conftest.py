"""Settings for tests and doctests, made before any JAX array exists."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")

# Most of a test's time is compilation: the quick set compiles without optimisation, `make test-slow` with it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
# The emitters of fused operations, of which jaxlib 0.9 has the older ones too, take a third of the compilation.
if version("jaxlib").startswith("0.9."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)
gc.set_threshold(200_000, 50, 100)  # tracing makes many objects, and looking through them all costs more than it frees
