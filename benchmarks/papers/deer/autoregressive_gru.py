"""Sweeps until convergence on trained GRUs that feed their own output back: does damping help?

The experiment of the ELK paper (Gonzalez, Warrington, Smith and Linderman, NeurIPS 2024, figure 4) with nets trained by
``train_autoregressive_gru.py``. The paper's claim: from states that are all zero, Newton's method and its diagonal form
overshoot for hundreds of sweeps, and their damped forms need a small fraction of that. Counts do not depend on the
machine.
"""

from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
from _common import is_quick, print_table
from train_autoregressive_gru import load, step

from tsppl.recurrence import deer_scan, lyapunov_exponent

TOL = 1e-10
METHODS = {
    "newton (DEER)": {"solver": "newton"},
    "quasi (quasi-DEER)": {"solver": "quasi"},
    "elk": {"solver": "elk"},
    "quasi-elk": {"solver": "quasi-elk"},
    "elk, sigma² = 1e6": {"solver": "elk", "damping": 1e6},
    "quasi-elk, sigma² = 1e2": {"solver": "quasi-elk", "damping": 1e2},
}


def body(params):
    """The body of a loop that returns all states."""

    def advance(state, _):
        state = step(params, state)
        return state, state

    return advance


@partial(jax.jit, static_argnames=("num_steps", "max_iters", "method"))
def sweeps(params, num_steps, max_iters, method):
    """Sweeps, whether they ended below the tolerance, and the largest error of a state."""
    _, states, info = deer_scan(
        body(params),
        params["start"],
        length=num_steps,
        tol=TOL,
        max_iters=max_iters,
        on_failure="nan",
        return_info=True,
        **METHODS[method],
    )
    exact = jax.lax.scan(body(params), params["start"], None, num_steps)[1]
    return info.iterations, info.residual <= TOL, jnp.abs(states - exact).max()


def main():
    """Print both tables."""
    quick = is_quick(__doc__, float64=True)
    nets = {seed: jax.tree.map(lambda leaf: leaf.astype(float), params) for seed, params in load().items()}
    sizes = [(300, 300, 3)] if quick else [(1_000, 1_000, 16), (10_000, 2_000, 8)]
    for num_steps, max_iters, num_nets in sizes:
        chosen = dict(list(nets.items())[:num_nets])
        exponents = [float(lyapunov_exponent(body(p), p["start"], length=num_steps)) for p in chosen.values()]
        print(
            f"T = {num_steps:,}, {len(chosen)} nets, residual {TOL:g}, at most {max_iters:,} sweeps; "
            f"largest Lyapunov exponents {min(exponents):.4f} to {max(exponents):.4f}.\n",
            flush=True,
        )
        print_table(
            ["method", "converged", "median sweeps", "range", "largest error"],
            (summary(method, chosen, num_steps, max_iters) for method in METHODS),
        )


def summary(method, nets, num_steps, max_iters):
    """One row: a run that did not converge counts as the most sweeps there may be."""
    runs = [jax.device_get(sweeps(params, num_steps, max_iters, method)) for params in nets.values()]
    counts = [int(iterations) if settled else max_iters for iterations, settled, _ in runs]
    errors = [float(error) for _, settled, error in runs if settled]
    shown = [
        f"{'> ' if count >= max_iters else ''}{count:,.0f}" for count in (median(counts), min(counts), max(counts))
    ]
    return (
        method,
        f"{len(errors)} of {len(runs)}",
        shown[0],
        f"{shown[1]} to {shown[2]}",
        f"{max(errors):.0e}" if errors else "none",
    )


if __name__ == "__main__":
    main()
