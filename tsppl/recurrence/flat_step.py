"""The loop body of ``lax.scan`` as a function of vectors, with everything that it closes over made an argument."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.flatten_util import ravel_pytree


class FlatStep(NamedTuple):
    """A loop body ``f(carry, x) -> (carry, y)`` taken apart.

    ``advance(captured, state, x)`` and ``output(captured, state, x, next_state)`` know no traced value but their
    arguments, so that they may be differentiated by a rule of their own.
    """

    advance: callable
    output: callable
    captured: list
    start: jax.Array
    unravel: callable


def flat_step(f, init, xs) -> FlatStep:
    """Take ``f`` apart for a carry like ``init`` and inputs like the rows of ``xs``.

    Raises:
        TypeError: the carry that ``f`` returns is not like ``init``, or has leaves that are not real floating-point
            numbers.
    """
    row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), xs)
    init = _like_result(f, init, row)
    closed, (carry_shape, y_shape) = jax.make_jaxpr(f, return_shape=True)(init, row)
    _check_carry(init, carry_shape)
    start, unravel = ravel_pytree(init)
    num_leaves = len(jax.tree.leaves(init))
    y_tree = jax.tree.structure(y_shape)

    def body(captured, state, x):
        return eval_jaxpr(closed.jaxpr, captured, *jax.tree.leaves((unravel(state), x)))

    def advance(captured, state, x):
        return ravel_pytree(body(captured, state, x)[:num_leaves])[0]

    # Outputs that are the new carry itself, the most common kind, need no second pass.
    carry_position = {id(var): place for place, var in enumerate(closed.jaxpr.outvars[:num_leaves])}
    from_carry = [carry_position.get(id(var)) for var in closed.jaxpr.outvars[num_leaves:]]

    def output(captured, state, x, next_state):
        leaves = jax.tree.leaves(unravel(next_state))
        computed = [] if None not in from_carry else body(captured, state, x)[num_leaves:]
        y = [leaves[place] if place is not None else computed[i] for i, place in enumerate(from_carry)]
        return jax.tree.unflatten(y_tree, y)

    return FlatStep(advance, output, closed.consts, start, unravel)


def _like_result(f, init, row):
    """``init`` with weakly typed leaves cast as ``f`` returns them, as ``lax.scan`` does."""
    init = jax.tree.map(jnp.asarray, init)
    result = jax.eval_shape(f, init, row)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            f"f must return a pair (carry, y), as the body of jax.lax.scan does; it returns a {type(result).__name__}"
            + (f" of {len(result)}" if isinstance(result, tuple | list) else "")
        )
    carry = result[0]
    if jax.tree.structure(carry) != jax.tree.structure(init):
        return init
    return jax.tree.map(lambda leaf, new: leaf.astype(new.dtype) if leaf.weak_type else leaf, init, carry)


def _check_carry(init, carry):
    if jax.tree.structure(init) != jax.tree.structure(carry):
        raise TypeError(
            f"f must return a carry of the same structure as init: init has {jax.tree.structure(init)}, the carry "
            f"returned {jax.tree.structure(carry)}"
        )
    for (path, given), returned in zip(jax.tree.leaves_with_path(init), jax.tree.leaves(carry), strict=True):
        name = "init" + jax.tree_util.keystr(path)
        if given.shape != returned.shape or given.dtype != returned.dtype:
            raise TypeError(
                f"{name} is {given.dtype}{list(given.shape)}, but f returns {returned.dtype}{list(returned.shape)} in "
                f"its place: make f return a carry of the shapes and dtypes that it is given, or init {returned.dtype}"
            )
        if not jnp.issubdtype(given.dtype, jnp.floating):
            raise TypeError(
                f"{name} has dtype {given.dtype}; only carries of real floating-point numbers can be evaluated in "
                'parallel: pass such a leaf through xs, make it float, or take solver="scan"'
            )
