"""Sweeps until convergence on untrained GRUs driven by noise, from states that are all zero: flat in the number of steps.

Orthogonal recurrent weights, standard normal inputs of as many channels as units, float64. Counts do not depend on the
machine. A last sweep that only confirms convergence, as codes that stop on the change of states make it, is not among them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from _common import driven_gru, gru_body, is_quick, print_table

from tsppl.nn import gru_cell_diagonal
from tsppl.recurrence import deer_scan

TOLERANCES = 1e-4, 1e-10
METHODS = ("newton", "quasi", "quasi, one probe", "elk", "quasi-elk", "jacobi", "picard", "chunked")


@partial(jax.jit, static_argnames=("method", "tol"))
def sweeps(params, inputs, start, method, tol):
    """Sweeps, convergence, and the largest error of a state."""
    solver = method.split(",")[0]
    options = {"solver": solver}
    if solver.startswith("quasi"):
        options["jacobian"] = "hutchinson" if "probe" in method else partial(gru_cell_diagonal, params)
    if solver == "chunked":
        options["max_iters"] = 50
    body = gru_body(params)
    _, states, info = deer_scan(body, start, inputs, tol=tol, on_failure="nan", return_info=True, **options)
    error = jnp.abs(states - jax.lax.scan(body, start, inputs)[1]).max()
    return info.iterations, info.residual <= tol, error


def main():
    """Print the table."""
    quick = is_quick(__doc__, float64=True)
    sizes = [(8, 200), (8, 1_000)] if quick else [(8, 1_000), (8, 10_000), (32, 1_000), (32, 10_000)]
    print_table(
        [
            "units",
            "steps",
            "method",
            *(f"sweeps to {tol:g}" for tol in TOLERANCES),
            f"largest error at {TOLERANCES[-1]:g}",
        ],
        (row(method, size, steps) for size, steps in sizes for method in METHODS),
        num_text=3,
    )


def row(method, num_units, num_steps):
    """Counts for one size."""
    problem = driven_gru(num_units, num_steps)
    runs = [jax.device_get(sweeps(*problem, method, tol)) for tol in TOLERANCES]
    counts = [f"{iterations}" if settled else f"> {iterations}" for iterations, settled, _ in runs]
    return num_units, f"{num_steps:,}", method, *counts, f"{runs[-1][2]:.0e}" if runs[-1][1] else "none"


if __name__ == "__main__":
    main()
