"""Wall time and memory of deer_scan beside jax.lax.scan, forward and with gradient, float32.

Untrained GRUs driven by noise, which forget their past, and nets that hardly do or are chaotic, on which a plain loop ends the
work. The gradient is that of a mean of squares in weights and inputs. Full Jacobians that would take too long are left out.
"""

import jax
import jax.numpy as jnp
from _common import driven_gru, gru_body, is_quick, print_table
from _timing import Entry, assert_close, compare

from tsppl.recurrence import deer_scan

SOLVERS = ("auto", "chunked", "newton", "quasi", "jacobi")
TOL, MARGIN, MOST_NUMBERS = 1e-5, 1.1, 1e7


def operations(body, solver):
    """``{name: function(params, inputs, start)}`` by a plain loop (None) or a solver."""

    def states(params, inputs, start):
        if solver is None:
            return jax.lax.scan(body(params), start, inputs)[1]
        return deer_scan(body(params), start, inputs, solver=solver, tol=None if solver == "auto" else TOL)[1]

    def batched(params, inputs, start):
        if inputs.ndim == 2:
            return states(params, inputs, start)
        return jax.vmap(states, (None, 0, None))(params, inputs, start)

    def loss(params, inputs, start):
        return jnp.mean(batched(params, inputs, start) ** 2)

    return {"forward": jax.jit(batched), "gradient": jax.jit(jax.grad(loss, (0, 1)))}


def timings(body, problem, operation, solvers, seconds, tolerance=1e-3):
    """By method, the loop's first, and compared with its output unless ``tolerance`` is None."""
    entries = {name or "lax.scan": Entry(operations(body, name)[operation], problem) for name in (None, *solvers)}
    found = compare(entries, seconds, min_rounds=3)
    for solver in solvers if tolerance is not None else ():
        assert_close(f"{solver}, {operation}", found["lax.scan"].output, found[solver].output, tolerance)
    return found


def gains(found):
    return {name: found["lax.scan"].seconds / timing.seconds for name, timing in found.items() if name != "lax.scan"}


def tanh_body(weights):
    """The body of a loop that returns all states of ``tanh(weights @ h + x)``."""

    def body(carry, x):
        carry = jnp.tanh(weights @ carry + x)
        return carry, carry

    return body


def nets_that_do_not_forget(num_units, num_steps):
    """``{name: (body, problem, operations)}``; a gradient through chaos is too large for any method."""
    weights_key, inputs_key = jax.random.split(jax.random.key(0))
    normal = jax.random.normal(weights_key, (num_units, num_units))
    inputs, start = 0.01 * jax.random.normal(inputs_key, (num_steps, num_units)), jnp.full(num_units, 0.1)
    large = jax.tree.map(lambda leaf: 8 * leaf, driven_gru(num_units, num_steps)[0])
    both = ("forward", "gradient")
    return {
        "tanh, orthogonal": (tanh_body, (jnp.linalg.qr(normal)[0], inputs, start), both),
        "tanh, chaotic": (tanh_body, (4 * normal / jnp.sqrt(num_units), inputs, start), both[:1]),
        "GRU, weights 8 times as large, chaotic": (gru_body, (large, inputs, start), both[:1]),
    }


def main():
    """Print the tables, and where the loop is faster."""
    quick = is_quick(__doc__, float64=False)
    jax.config.update("jax_enable_compilation_cache", False)
    seconds = 0.2 if quick else 2.0
    cases = (
        [(4, 500, 1)]
        if quick
        else [(n, steps, batch) for n in (8, 32) for steps in (1_000, 10_000, 100_000) for batch in (1, 16)
              if steps * batch * n <= 6e6]
    )  # fmt: skip
    found = {}

    def cells():
        for num_units, num_steps, batch in cases:
            problem = driven_gru(num_units, num_steps, batch=() if batch == 1 else (batch,))
            solvers = [s for s in SOLVERS if s != "newton" or batch * num_steps * num_units**2 <= MOST_NUMBERS]
            for operation in ("forward", "gradient"):
                case = (operation, num_units, f"{num_steps:,}", batch)
                found[case] = timings(gru_body, problem, operation, solvers, seconds)
                yield *case, *row_of(found[case])

    def row_of(found):
        by_solver = gains(found)
        shown = (f"{by_solver[solver]:.2f}" if solver in by_solver else "none" for solver in SOLVERS)
        return f"{1e3 * found['lax.scan'].seconds:.2f}", *shown

    columns = ["operation", "units", "steps", "batch"]
    print("Times as fast as `jax.lax.scan`; below 1 the loop is faster.\n")
    print_table([*columns, "lax.scan, ms", *SOLVERS], cells())
    print("Megabytes beside arguments and outputs, as XLA plans them.\n")
    methods = ("lax.scan", *SOLVERS)
    megabytes = (
        (*case, *(f"{by_name[m].temporary_bytes / 1e6:.1f}" if m in by_name else "none" for m in methods))
        for case, by_name in found.items()
    )
    print_table([*columns, *methods], megabytes)

    print("Nets that do not forget, times as fast as `jax.lax.scan`.\n")
    rows = []
    for name, (body, problem, of_net) in nets_that_do_not_forget(*((4, 1_000) if quick else (8, 10_000))).items():
        for operation in of_net:
            # Chaos makes states of rounding errors.
            tolerance = 1e-3 if "chaotic" not in name else None
            by_name = timings(body, problem, operation, ("auto", "chunked"), seconds, tolerance)
            milliseconds = f"{1e3 * by_name['lax.scan'].seconds:.2f}"
            rows.append((name, operation, milliseconds, *(f"{gain:.2f}" for gain in gains(by_name).values())))
    print_table(["net", "operation", "lax.scan, ms", "auto", "chunked"], rows, num_text=2)

    print("Where `jax.lax.scan` is faster, by more than a tenth:\n")
    for solver in SOLVERS:
        timed = {case: gains(by_name)[solver] for case, by_name in found.items() if solver in by_name}
        slower = [case for case, gain in timed.items() if gain < 1 / MARGIN]
        sizes = "; ".join(f"{case[0]} n = {case[1]}, T = {case[2]}, batch {case[3]}" for case in slower)
        print(f"- {solver}: {len(slower)} of {len(timed)} cases{': ' + sizes if slower else ''}.")


if __name__ == "__main__":
    main()
