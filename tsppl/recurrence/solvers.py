"""The solvers of a nonlinear recurrence: their names, which is taken unasked, and which options go with them."""

import jax
import jax.numpy as jnp

from tsppl.recurrence.sweeps import SWEEPS

SOLVERS = ("auto", "scan", "chunked", *SWEEPS)


def check_solver(solver):
    """``solver``, if there is one of that name.

    Raises:
        ValueError: otherwise.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, not {solver!r}")
    return solver


def check_options(solver, on_failure, jacobian, damping, guess, num_chunks, window, tol, max_iters):
    """Raise a ValueError unless these options of ``deer_scan`` are known and fit together."""
    check_solver(solver)
    if on_failure not in ("scan", "nan"):
        raise ValueError(f'on_failure must be "scan" or "nan", not {on_failure!r}')
    if not callable(jacobian) and jacobian not in ("products", "hutchinson", "pairs"):
        raise ValueError(f'jacobian must be "products", "hutchinson", "pairs" or a function, not {jacobian!r}')
    known = damping == "auto" if isinstance(damping, str) else isinstance(damping, jax.Array) or damping > 0
    if not known:
        raise ValueError(f'damping must be "auto" or a positive number, sigma^2, not {damping!r}')
    if guess is not None and solver not in SWEEPS:
        raise ValueError(f"guess is for the solvers {tuple(SWEEPS)}, not for solver={solver!r}: leave it out")
    for name, number in {"num_chunks": num_chunks, "window": window}.items():
        if number is not None and (number != int(number) or number < 1):
            raise ValueError(f"{name} must be a positive whole number, not {number!r}")
    if isinstance(tol, int | float) and not tol > 0:
        raise ValueError(f"tol must be a positive number, not {tol!r}")
    if isinstance(max_iters, int | float) and (max_iters != int(max_iters) or max_iters < 1):
        raise ValueError(f"max_iters must be a positive whole number, not {max_iters!r}")


def automatic_solver(num_steps, flat, xs):
    """From what one step costs, dtype and backend; see ``benchmarks/papers/deer``."""
    if jax.default_backend() != "cpu":
        return "chunked" if num_steps >= 256 else "scan"
    if flat.start.dtype != jnp.float32 or flat.start.size > 16:
        return "scan"
    # Shorter series and cheaper steps take as long as what chunks cost beside their steps.
    return "chunked" if num_steps >= 4000 and _operations(flat, xs) >= 2000 else "scan"


def _operations(flat, xs):
    """Of one step, as XLA counts them; a transcendental function takes as long as some sixty others."""
    row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), xs)
    captured, start = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (flat.captured, flat.start)
    )
    counts = jax.jit(flat.advance).lower(captured, start, row).cost_analysis() or {}
    return counts.get("flops", 0) + 60 * counts.get("transcendentals", 0)


def default_tolerance(dtype):
    """Largest residual, relative to ``1 + |state|``."""
    return 1e-10 if dtype == jnp.float64 else 1e-6
