"""``lax.scan`` for nonlinear recurrences, evaluated many steps at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tsppl.recurrence.chunked import solve_chunked
from tsppl.recurrence.chunks import chunks_for, shift
from tsppl.recurrence.fallback import finish
from tsppl.recurrence.flat_step import flat_step
from tsppl.recurrence.implicit import differentiable
from tsppl.recurrence.lyapunov import error_bound, log_growth
from tsppl.recurrence.solvers import automatic_solver, check_options, default_tolerance
from tsppl.recurrence.sweeps import solve_by_sweeps
from tsppl.upstream import refusing_sites


class RecurrenceInfo(NamedTuple):
    """How :func:`deer_scan` went.

    Attributes:
        iterations: sweeps over the sequence; 0 for a plain loop.
        residual: largest ``|state - f(previous state)| / (1 + |state|)`` when the solver stopped; for ``"chunked"`` the
            largest mismatch of a boundary in the last run.
        converged: whether the solver met its tolerance. Where it is False the values come from the plain loop, or are
            NaN, as ``on_failure`` says.
        lyapunov_exponent: estimate of the largest one along the trajectory, from tangents over chunks of it, in nats per
            step: below zero, the recurrence forgets. :func:`lyapunov_exponent` follows them all the way.
    """

    iterations: jax.Array
    residual: jax.Array
    converged: jax.Array
    lyapunov_exponent: jax.Array


@dataclass(frozen=True)
class _WithoutSites:
    """``f``, and equal to others of the same ``f``, whose compiled programs are then found again."""

    f: Callable

    def __call__(self, carry, x):
        with refusing_sites(_why_not):
            return self.f(carry, x)


def _why_not(name):
    return (
        f"f contains the NumPyro statement {name!r}, but is traced once for all steps: draw before, as one site with a time "
        "axis, and pass it in xs (NonlinearDynamics does so under TransformReparam), or take "
        "numpyro.contrib.control_flow.scan"
    )


def deer_scan(
    f,
    init,
    xs=None,
    length=None,
    reverse=False,
    unroll=1,
    *,
    solver="auto",
    guess=None,
    tol=None,
    max_iters=None,
    damping="auto",
    jacobian="products",
    num_chunks=None,
    window=None,
    on_failure="scan",
    return_info=False,
):
    """Carry and outputs of ``jax.lax.scan(f, init, xs)``, computed for many steps at a time.

    The values are those of the loop, to ``tol``, and so are the derivatives of all orders, in forward and reverse mode,
    whatever the solver: they come from the implicit function theorem with full Jacobians. It works under ``jit``,
    ``vmap`` and ``grad`` and inside NumPyro models, where ``f`` may use sampled values but must not contain
    ``numpyro.sample``: for that there is ``numpyro.contrib.control_flow.scan``.

    Whether it pays depends on the recurrence. One that forgets its past (largest Lyapunov exponent well below zero) is
    settled in a few sweeps; a chaotic one never is, and is then run as a plain loop. On a CPU a plain loop over small
    states is hard to beat: ``"auto"`` takes another solver only where that was faster in ``benchmarks/papers/deer``.

    Where ``f`` jumps, as an accept-or-reject step does, values near a jump may land on its other side by rounding alone,
    in float32 above all: then states differ from the loop's until the trajectories meet again, and still count as converged.

    Args:
        f: ``(carry, x) -> (carry, y)``. It may close over traced values.
        init: carry before the first step: a tree of floating-point arrays (of anything, for ``solver="scan"``).
        xs: tree of arrays with a leading time axis ``T``, or None.
        length: ``T``, needed if ``xs`` is None.
        reverse: from the last row to the first, as in ``jax.lax.scan``.
        unroll: of the plain loop, as in ``jax.lax.scan``; the other solvers do not use it.
        solver: what finds the states of all steps.

            - ``"scan"``: a plain loop;
            - ``"chunked"``: chunks side by side, from guessed boundaries that are replaced until they settle
              (multiple shooting);
            - ``"newton"``: Newton's method with full Jacobians (DEER), ``O(T n^2)`` memory;
            - ``"quasi"``: with diagonal ones, or blocks, ``O(T n)`` memory;
            - ``"elk"``, ``"quasi-elk"``: both with damping, for recurrences on which they overshoot; ``"elk"`` smooths ``n x n``
              matrices at every step, which above some ten dimensions costs far more than the loop;
            - ``"picard"``, ``"jacobi"``: fixed-point iterations with identity and zero in the Jacobian's place;
            - ``"auto"``: ``"chunked"`` on a CPU for float32 states of at most 16 numbers where steps are many and
              costly enough, and on other devices; otherwise ``"scan"``.
        guess: states of all steps to start from, a tree like ``init`` with a leading axis ``T``, for the solvers from
            ``"newton"`` on. Zeros by default. It has no derivative.
        tol: largest residual, relative to ``1 + |state|``: by default 1e-10 in float64 and 1e-6 in float32.
        max_iters: of sweeps. By default 4 for ``"chunked"``, 200 for others, or ``T`` if that is less.
        damping: ``sigma^2`` of ELK, in units of squared states: the smaller, the shorter the steps. ``"auto"`` starts
            without damping and adapts it to the residual.
        jacobian: how ``"quasi"`` and ``"quasi-elk"`` get their part of the Jacobian: ``"products"``, the diagonal by
            one product for each dimension; ``"hutchinson"``, the diagonal by one product with random signs, which only
            changes the number of sweeps; ``"pairs"``, blocks of 2 by 2, for a carry of two arrays of one shape such as
            the LSTM's ``(c, h)`` or a leapfrog's ``(q, p)``; or a function ``(carry, x)`` of the diagonal, a tree like
            the carry, or of such blocks, ``(m, 2, 2)``: see :func:`gru_cell_diagonal` and :func:`lstm_cell_pairs`.
        num_chunks: of ``"chunked"``; about the square root of ``T`` by default.
        window: solve so many steps at a time, one window after another, which bounds the memory, and the
            sweeps too where errors of the guess grow: a net that neither forgets nor amplifies took 44 sweeps in windows
            of 200 in place of 1,200 over 10,000 steps.
        on_failure: where a solver does not converge: ``"scan"``, finish by a plain loop from the last step that is
            exact; ``"nan"``, return NaN, which is cheaper under ``jit`` to compile.
        return_info: also return a :class:`RecurrenceInfo`.

    Returns:
        ``(carry, ys)`` as ``jax.lax.scan`` does, or ``(carry, ys, info)``.

    Raises:
        TypeError: if the carry that ``f`` returns is not like ``init``, or is not made of floating-point numbers.
        ValueError: if an argument is not known, does not fit the solver, or lengths differ; if ``f`` contains a NumPyro
            statement.

    Under ``vmap`` all members run as many sweeps as the slowest; members that have converged no longer move.

    Source: Lim et al. (2024), Parallelizing non-linear sequential models over the sequence length, for Newton's method;
    Gonzalez et al. (2024), Towards scalable and stable parallelization of nonlinear RNNs, for ``"quasi"`` and ELK.

    >>> import jax.numpy as jnp
    >>> from tsppl.recurrence import deer_scan
    >>> def step(x, u):
    ...     x = jnp.tanh(0.5 * x + u)
    ...     return x, x
    >>> carry, states = deer_scan(step, jnp.zeros(2), jnp.ones((100, 2)), solver="newton")
    >>> states.shape
    (100, 2)
    """
    f = _WithoutSites(f)
    xs = jax.tree.map(jnp.asarray, xs)
    num_steps = _num_steps(xs, length)
    check_options(solver, on_failure, jacobian, damping, guess, num_chunks, window, tol, max_iters)
    if num_steps == 0 or not jax.tree.leaves(init) or (solver == "scan" and not return_info):
        carry, ys = lax.scan(f, init, xs, num_steps, reverse, unroll)
        return (carry, ys, _info_of_loop(jnp.nan)) if return_info else (carry, ys)
    if reverse:
        xs = jax.tree.map(lambda leaf: leaf[::-1], xs)
        guess = jax.tree.map(lambda leaf: leaf[::-1], guess)
    options = {
        "solver": solver,
        "tol": tol,
        "max_iters": max_iters,
        "damping": damping,
        "jacobian": jacobian,
        "num_chunks": num_chunks,
        "on_failure": on_failure,
        "return_info": return_info,
        "unroll": unroll,
    }
    if window is not None and window < num_steps:
        carry, ys, info = _in_windows(f, init, xs, num_steps, window, guess, options)
    else:
        carry, ys, info = _solve(f, init, xs, num_steps, guess, **options)
    if reverse:
        ys = jax.tree.map(lambda leaf: leaf[::-1], ys)
    return (carry, ys, info) if return_info else (carry, ys)


def _solve(
    f, init, xs, num_steps, guess, *, solver, tol, max_iters, num_chunks, on_failure, return_info, unroll, **how
):
    flat = flat_step(f, init, xs)
    dtype = flat.start.dtype
    cautious = solver == "auto"
    if cautious:
        solver = automatic_solver(num_steps, flat, xs)
    if solver == "scan" and not return_info:
        return *lax.scan(f, init, xs, num_steps, unroll=unroll), None
    tol = default_tolerance(dtype) if tol is None else tol

    def solve(captured, start, inputs):
        def advance(state, x):
            return flat.advance(captured, state, x)

        if solver == "scan":
            states = lax.scan(lambda state, x: (advance(state, x),) * 2, start, inputs, num_steps, unroll=unroll)[1]
            info = _info_of_loop(jnp.nan)
        else:
            if solver == "chunked":
                outcome = solve_chunked(
                    advance, start, inputs, num_steps,
                    tol=tol, max_iters=max_iters, num_chunks=num_chunks, cautious=cautious,
                )  # fmt: skip
            else:
                outcome = solve_by_sweeps(
                    solver, advance, start, inputs, num_steps, _flat_guess(flat, guess, num_steps), flat.unravel,
                    tol=tol, max_iters=max_iters, **how,
                )  # fmt: skip
                outcome = _unless_chaotic(advance, start, inputs, outcome, damped="elk" in solver)
            if on_failure == "scan":
                states = finish(flat.advance, num_steps, outcome, captured, start, inputs)
            else:
                states = jnp.where(outcome.converged, outcome.states, jnp.nan)
            info = RecurrenceInfo(outcome.iterations, outcome.residual, outcome.converged, jnp.nan)
        if return_info:
            chunks = chunks_for(num_steps)
            growth = log_growth(advance, shift(start, states), inputs, chunks)
            exponent = growth.sum() / (chunks.num_chunks * chunks.length)
            info = info._replace(lyapunov_exponent=exponent)
        return states, jax.tree.map(jnp.asarray, info)

    def solve_linear(advance_with, captured, start, rows, scale):
        # Derivatives keep the default tolerance, whatever that of the values is.
        outcome = solve_chunked(
            lambda state, row: advance_with(captured, state, row), start, rows, num_steps,
            tol=default_tolerance(dtype), num_chunks=num_chunks, scale=scale,
        )  # fmt: skip
        return finish(advance_with, num_steps, outcome, captured, start, rows)

    states, info = differentiable(flat.advance, solve, solve_linear)(flat.captured, flat.start, xs)
    ys = jax.vmap(flat.output, (None, 0, 0, 0))(flat.captured, shift(flat.start, states), xs, states)
    return flat.unravel(states[-1]), ys, info


def _unless_chaotic(advance, start, inputs, outcome, damped):
    """The outcome, not converged where residuals as small as its own may hide errors that are not.

    In a chaotic recurrence states that all follow from one another to rounding lie far from the trajectory.
    """
    states = outcome.states
    chunks = chunks_for(len(states))
    growth = log_growth(advance, shift(start, states), inputs, chunks)
    # What follows from the last chunk concerns nobody, and it may be filled up.
    bound = error_bound(growth.at[-1].min(0.0), chunks.length, outcome.residual)
    worst = 1e-6 if states.dtype == jnp.float64 else 1e-2
    converged = outcome.converged & (bound <= worst * (1 + jnp.abs(states).max()))
    # An undamped sweep makes one more step exact whatever the residuals; a damped one does not.
    surely_exact = 0 if damped else jnp.minimum(outcome.exact_steps, outcome.iterations)
    return outcome._replace(converged=converged, exact_steps=jnp.where(converged, len(states), surely_exact))


def _in_windows(f, init, xs, num_steps, window, guess, options):
    """One window after another by a loop, then what is left."""
    whole = num_steps // window

    def windows(tree):
        return jax.tree.map(lambda leaf: leaf[: whole * window].reshape(whole, window, *leaf.shape[1:]), tree)

    def rest(tree):
        return jax.tree.map(lambda leaf: leaf[whole * window :], tree)

    def solve_window(carry, row):
        carry, ys, info = _solve(f, carry, row[0], window, row[1], **options)
        return carry, (ys, info)

    carry, (ys, info) = lax.scan(solve_window, init, (windows(xs), windows(guess)), whole)
    ys = jax.tree.map(lambda leaf: leaf.reshape(whole * window, *leaf.shape[2:]), ys)
    left = num_steps - whole * window
    if left:
        carry, last, last_info = _solve(f, carry, rest(xs), left, rest(guess), **options)
        ys = jax.tree.map(lambda some, more: jnp.concatenate([some, more]), ys, last)
        info = jax.tree.map(lambda some, more: jnp.append(some, more), info, last_info)
    if info is not None:
        steps = jnp.array([window] * whole + [left] * bool(left))
        info = RecurrenceInfo(
            info.iterations.max(),
            info.residual.max(),
            info.converged.all(),
            (info.lyapunov_exponent * steps).sum() / num_steps,
        )
    return carry, ys, info


def _flat_guess(flat, guess, num_steps):
    if guess is None:
        return jnp.zeros((num_steps, flat.start.size), flat.start.dtype)
    expected = jax.tree.map(lambda leaf: (num_steps, *leaf.shape), flat.unravel(flat.start))
    given = jax.tree.map(jnp.shape, guess)
    if given != expected:
        raise ValueError(f"guess has shapes {given}; it must be like init with a leading time axis: {expected}")
    return lax.stop_gradient(jax.vmap(lambda tree: jax.flatten_util.ravel_pytree(tree)[0])(guess))


def _info_of_loop(exponent):
    return RecurrenceInfo(jnp.zeros((), int), jnp.zeros(()), jnp.array(True), jnp.asarray(exponent))


def _num_steps(xs, length):
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(xs)}
    if None in lengths:
        raise ValueError("xs has leaves without a time axis: every leaf of xs needs one, as its first")
    lengths |= {length} - {None}
    if not lengths:
        raise ValueError("xs has no leaves, so the number of steps is not known: pass length")
    if len(lengths) > 1:
        raise ValueError(
            f"the leaves of xs, and length if given, must agree in the number of steps, not {sorted(lengths)}"
        )
    return lengths.pop()
