"""Wall time of deer_scan beside jax.lax.scan, forward and with gradient, on untrained GRUs driven by noise, float32.

The gradient is that of a sum of squares in weights and inputs. Cases in which full Jacobians would take too long are
left out of that row.
"""

import jax
import jax.numpy as jnp
from _common import driven_gru, gru_body, is_quick, print_table
from _timing import Entry, assert_close, compare

from tsppl.recurrence import deer_scan

SOLVERS = ("auto", "chunked", "newton", "quasi", "jacobi")
TOL, MARGIN, MOST_NUMBERS = 1e-5, 1.1, 1e7


def operations(solver):
    """``{name: function(params, inputs, start)}`` by a plain loop (None) or a solver."""

    def states(params, inputs, start):
        if solver is None:
            return jax.lax.scan(gru_body(params), start, inputs)[1]
        return deer_scan(gru_body(params), start, inputs, solver=solver, tol=None if solver == "auto" else TOL)[1]

    def batched(params, inputs, start):
        return (
            jax.vmap(states, (None, 0, None))(params, inputs, start)
            if inputs.ndim == 3
            else states(params, inputs, start)
        )

    def loss(params, inputs, start):
        return jnp.mean(batched(params, inputs, start) ** 2)

    return {"forward": jax.jit(batched), "gradient": jax.jit(jax.grad(loss, (0, 1)))}


def rows(cases, seconds):
    """Milliseconds of the loop, and how many times faster each solver is."""
    for num_units, num_steps, batch in cases:
        problem = driven_gru(num_units, num_steps, batch=() if batch == 1 else (batch,))
        names = [s for s in SOLVERS if s != "newton" or batch * num_steps * num_units**2 <= MOST_NUMBERS]
        for operation in ("forward", "gradient"):
            entries = {"lax.scan": Entry(operations(None)[operation], problem)}
            entries |= {solver: Entry(operations(solver)[operation], problem) for solver in names}
            timings = compare(entries, seconds, min_rounds=3)
            loop = timings["lax.scan"]
            for solver in names:
                assert_close(f"{solver}, {operation}", loop.output, timings[solver].output, 1e-3)
            gains = {solver: loop.seconds / timings[solver].seconds for solver in names}
            yield (num_units, num_steps, batch, operation), loop.seconds, gains


def main():
    """Print the table, and where the loop is faster."""
    quick = is_quick(__doc__, float64=False)
    jax.config.update("jax_enable_compilation_cache", False)
    cases = (
        [(4, 500, 1)]
        if quick
        else [(n, steps, batch) for n in (8, 32) for steps in (1_000, 10_000, 100_000) for batch in (1, 16)
              if steps * batch * n <= 6e6]
    )  # fmt: skip
    found = []

    def cells():
        for case, seconds, gains in rows(cases, 0.2 if quick else 2.0):
            found.append((case, gains))
            shown = [f"{gains[solver]:.2f}" if solver in gains else "none" for solver in SOLVERS]
            yield case[3], case[0], f"{case[1]:,}", case[2], f"{1e3 * seconds:.2f}", *shown

    print("Times as fast as `jax.lax.scan`; below 1 the loop is faster.\n")
    print_table(["operation", "units", "steps", "batch", "lax.scan, ms", *SOLVERS], cells())
    print("Where `jax.lax.scan` is faster, by more than a tenth:\n")
    for solver in SOLVERS:
        timed = [(case, gains[solver]) for case, gains in found if solver in gains]
        slower = [case for case, gain in timed if gain < 1 / MARGIN]
        sizes = "; ".join(f"{case[3]} n = {case[0]}, T = {case[1]:,}, batch {case[2]}" for case in slower)
        print(f"- {solver}: {len(slower)} of {len(timed)} cases{': ' + sizes if slower else ''}.")


if __name__ == "__main__":
    main()
