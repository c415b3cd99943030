"""Fast algorithms that prove their own answer, with a slow one for the data where the proof fails.

A fast recursion (probabilities in place of their logarithms, a covariance taken as converged, chunks of a sequence
started from a guess) is right for nearly all data and wrong for some. Each is written here as a function that returns
its answer and whether it vouches for it; where it does not, the answer of a slower algorithm is taken.

Three of them cut one long series, guess and verify: :mod:`tsppl.messages.hidden_markov.chunked`,
:mod:`tsppl.messages.linear_gaussian.chunked` and, below, :mod:`tsppl.recurrence.chunked`. They use the same words:

============ =====================================================================================================
chunk        one of the parts of equal length that a series is cut into, which are run side by side
boundary     the state in which a chunk starts, which is the one in which the chunk before it ends
guess        what a boundary is taken to be as long as the chunk before it has not been run
warm-up      the run, from anywhere, over the last steps of the chunk before, whose end is the guess
mismatch     how far a guess is from where the chunk before really ends
met          said of a boundary whose mismatch is rounding, or within a tolerance
vouch        to say that an answer is right: every boundary is met, and no digits were lost on the way
============ =====================================================================================================
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero


def certified(fast, slow, *, largest_batch=None):
    """The function that answers as ``fast`` where it vouches for its answer, else as ``slow``.

    Args:
        fast: ``fast(*arguments) -> (answer, vouched)``, with a bool scalar.
        slow: ``slow(*arguments) -> answer``, of the same shapes.
        largest_batch: the size of a batch beyond which ``slow`` is the faster one and is always taken.

    Returns:
        a function of ``*arguments``. Under ``vmap`` the whole batch is answered by one algorithm: a plain
        ``lax.cond`` would run both for every member. It is not to be differentiated: see :func:`with_gradient`.
    """

    @custom_vmap
    def answer(*arguments):
        result, vouched = fast(*arguments)
        return lax.cond(vouched.all(), lambda: result, lambda: slow(*arguments))

    @answer.def_vmap
    def batched(axis_size, in_batched, *arguments):
        in_axes = jax.tree.map(lambda moves: 0 if moves else None, in_batched)
        fast_batch, slow_batch = (jax.vmap(f, in_axes, axis_size=axis_size) for f in (fast, slow))
        if largest_batch is not None and axis_size > largest_batch:
            result = slow_batch(*arguments)
        else:
            result = certified(fast_batch, slow_batch, largest_batch=largest_batch)(*arguments)
        return result, jax.tree.map(lambda _: True, result)

    return answer


def with_gradient(value, gradient, reference):
    """A scalar function whose first derivative is computed, not traced.

    The rule is a ``custom_jvp`` that is linear in the tangents, so forward and reverse mode both work.

    Args:
        value: ``value(*arguments) -> scalar``.
        gradient: ``gradient(*arguments) -> (scalar, gradients)``, one array for each argument.
        reference: as ``gradient``, but differentiable: second derivatives are those of this one.

    Returns:
        the function of ``*arguments``, all arrays. A gradient of zero silences any tangent, as ``0 * log 0`` demands.
    """

    @jax.custom_jvp
    def both(*arguments):
        return gradient(*arguments)

    @both.defjvp
    def both_jvp(arguments, tangents):
        return both(*arguments), jax.jvp(reference, arguments, tangents)[1]

    @jax.custom_jvp
    def function(*arguments):
        return value(*arguments)

    def function_jvp(arguments, tangents):
        result, gradients = both(*arguments)
        moved = (
            inner_product(slope, tangent)
            for slope, tangent in zip(gradients, tangents, strict=True)
            if not isinstance(tangent, SymbolicZero)
        )
        return result, sum(moved, jnp.zeros_like(result))

    function.defjvp(function_jvp, symbolic_zeros=True)
    return function


def inner_product(weights, tangent):
    """Sum of products in which a zero weight silences any tangent."""
    return jnp.where(weights != 0, weights * tangent, 0).sum()
