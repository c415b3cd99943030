"""How fast neighbouring trajectories part: whether a recurrence can be evaluated in parallel at all."""

import jax
import jax.numpy as jnp
from jax import lax

from tsppl.recurrence.affine import varying_recurrence
from tsppl.recurrence.chunks import Chunks, shift
from tsppl.recurrence.flat_step import flat_step


def lyapunov_exponent(f, init, xs=None, length=None, *, num_directions=3, key=None):
    """Largest Lyapunov exponent of the trajectory of a loop body, in nats per step.

    Below zero, neighbouring trajectories meet, errors of a guess die out, and :func:`deer_scan` needs few sweeps
    whatever the number of steps; above zero the recurrence is chaotic and can only be evaluated step by step (Gonzalez
    et al. 2025, Predictability enables parallelization of nonlinear state space models).

    Args:
        f: loop body ``(carry, x) -> (carry, y)``, as of ``jax.lax.scan``.
        init: carry before the first step, a tree of floating-point arrays.
        xs: tree of arrays with a leading time axis, or None.
        length: number of steps, needed if ``xs`` is None.
        num_directions: random directions over which the result is averaged.
        key: for these directions; a fixed one if None.

    Returns:
        scalar: the mean over steps of the log growth of a tangent vector; a step that shrinks one below rounding counts
        as the logarithm of the machine's precision.

    Errors as of :func:`deer_scan`.

    >>> import jax.numpy as jnp
    >>> from tsppl.recurrence import lyapunov_exponent
    >>> float(lyapunov_exponent(lambda x, _: (0.5 * x, x), jnp.ones(2), length=100))
    -0.6931
    """
    xs = jax.tree.map(jnp.asarray, xs)
    flat = flat_step(f, init, xs)
    key = jax.random.key(0) if key is None else key

    def step(state, x):
        state = flat.advance(flat.captured, state, x)
        return state, state

    _, states = lax.scan(step, flat.start, xs, length)
    whole = Chunks(len(states), 1, len(states))
    previous = shift(flat.start, states)

    def along(key):
        return log_growth(lambda state, x: flat.advance(flat.captured, state, x), previous, xs, whole, key)[0]

    return jax.vmap(along)(jax.random.split(key, num_directions)).mean() / len(states)


def log_growth(advance, previous, inputs, chunks, key=None):
    """Log growth ``(num_chunks,)`` of one random tangent vector over each chunk of a trajectory.

    Args:
        advance: one step.
        previous: the state before each step, ``(T, n)``.
        inputs: tree of ``(T, ...)``.
        chunks: the chunks; what fills up the last one counts too.
        key: for the directions.
    """
    key = jax.random.key(0) if key is None else key
    directions = jax.random.normal(key, (chunks.num_chunks, previous.shape[1]), previous.dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)

    def step(carry, row):
        direction, total = carry
        state, x = row
        direction = jax.vmap(lambda s, x, d: jax.jvp(lambda s: advance(s, x), (s,), (d,))[1])(state, x, direction)
        size = jnp.linalg.norm(direction, axis=1)
        # A step that forgets its past entirely counts as rounding does, and the next one starts from a fresh direction.
        least = jnp.finfo(size.dtype).eps
        grown = jnp.maximum(size, least)
        direction = jnp.where((size > least)[:, None], direction / grown[:, None], directions)
        return (direction, total + jnp.log(grown)), None

    carry = directions, jnp.zeros_like(directions[:, 0])
    return lax.scan(step, carry, chunks.split((previous, inputs)))[0][1]


def error_bound(growth, length, residual):
    """About the largest error of states that each miss their predecessor's image by ``residual``.

    Args:
        growth: log growth of an error over each chunk, ``(num_chunks,)``.
        length: steps of a chunk.
        residual: scalar.
    """

    grown = jnp.exp(growth)
    return varying_recurrence(grown, jnp.zeros_like(residual), jnp.maximum(grown, 1) * length * residual).max()
