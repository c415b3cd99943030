"""A setting of the CPU compiler that loops profit from."""

import os

import jaxlib
from jax._src import xla_bridge  # the public interface cannot say whether a backend is up without starting one

_EXTRA_OPTIONS = "--xla_backend_extra_options="
_LOOP_LIMIT = "xla_cpu_small_while_loop_byte_threshold"
_REDUCTIONS = "--xla_cpu_experimental_ynn_fusion_type="


def configure_cpu(loop_bytes: int = 100_000_000) -> None:
    """Let JAX compile loops over time as one native function each, also where a step touches more than a kilobyte.

    By default XLA does so only for the smallest steps and dispatches the operations of all others one by one, which for
    small matrices takes longer than the arithmetic: a gradient can become several times faster. Large matrix products
    inside a loop lose, since a native loop uses one thread and no tuned library; it is a setting to try. It changes the
    whole process, and is therefore never made on import.

    Call it before the first JAX array exists. It sets the environment variable ``XLA_FLAGS``, which child processes
    inherit; an option of the same name that is there already is kept. In jaxlib 0.9, whose whole loops cannot hold the
    reductions that it hands to a library, it also sets ``--xla_cpu_experimental_ynn_fusion_type`` to none.

    Args:
        loop_bytes: loops whose step touches fewer bytes than this are compiled whole.

    Raises:
        RuntimeError: if JAX has already started its backend, too late for the option to be read.
        ValueError: if ``loop_bytes`` is not a positive whole number.

    >>> import tsppl
    >>> tsppl.configure_cpu()  # doctest: +SKIP
    """
    if loop_bytes != int(loop_bytes) or loop_bytes < 1:
        raise ValueError(f"loop_bytes must be a positive whole number, not {loop_bytes!r}")
    if xla_bridge.backends_are_initialized():
        raise RuntimeError(
            "configure_cpu() must come before the first JAX computation, and JAX has already started its backend: call it "
            "at the top of the script, or start Python anew"
        )
    flags = os.environ.get("XLA_FLAGS", "").split()
    if any(_LOOP_LIMIT in flag for flag in flags):
        return
    option = f"{_LOOP_LIMIT}={int(loop_bytes)}"
    places = [place for place, flag in enumerate(flags) if flag.startswith(_EXTRA_OPTIONS)]
    if places:
        flags[places[-1]] += f",{option}"
    else:
        flags.append(_EXTRA_OPTIONS + option)
    if jaxlib.__version__.startswith("0.9.") and not any(flag.startswith(_REDUCTIONS) for flag in flags):
        flags.append(_REDUCTIONS)
    os.environ["XLA_FLAGS"] = " ".join(flags)
