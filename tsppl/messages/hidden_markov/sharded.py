"""Hidden Markov evidence, its derivative and the smoother for a sequence whose time axis is divided over devices.

The table of a block is ``log p(y_block, z_next = j | z_first = i)``, where ``z_next`` is the first state of the next
block. The gathered tables give each device the law of its first state given all blocks before, and what all blocks
after say about its last state. With the one as initial probabilities and the other added to its last row of
log-likelihoods, the smoother of one device is right on every block. Notation as in :mod:`tsppl.messages.hidden_markov.forward_backward`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tsppl.messages.certified import certified, with_gradient
from tsppl.messages.hidden_markov.evidence import hidden_markov_smooth
from tsppl.messages.hidden_markov.forward_backward import Statistics, log_space_statistics
from tsppl.messages.log_space import finite_largest, log_normalize, log_sum_exp
from tsppl.messages.sharded_time import TimeAxis, check_rows, time_axis


def sharded_log_normalizer(
    log_initial, log_transition, log_likelihoods, *, mesh, axis_name: str = "time"
) -> Float[Array, ""]:
    """``log p(y)`` of one sequence whose steps are divided over devices.

    First derivatives are the expected statistics, each device computing those of its own block, in forward and in
    reverse mode; second derivatives are traced through log space. Compiled for each mesh and shape.

    Args:
        log_initial: log initial probabilities ``(K,)``, held by every device.
        log_transition: log transition probabilities ``(K, K)``, held by every device; or ``(T, K, K)``, sharded along
            time, of which row ``t`` moves ``z_t`` to ``z_{t+1}`` and the last is not used.
        log_likelihoods: ``(T, K)``, sharded along time; a row of zeros is a missing step.
        mesh: a ``jax.sharding.Mesh``.
        axis_name: the mesh axis that stands for time; its size divides ``T``.

    Returns:
        the same scalar on every device. Value ``-inf`` has derivative zero, never NaN.

    Raises:
        ValueError: the devices cannot share the steps evenly, or time-varying transitions have not ``T`` rows.

    >>> import jax, jax.numpy as jnp
    >>> from tsppl.messages import sharded_log_normalizer
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("time",))
    >>> uniform = jnp.log(jnp.full((2, 2), 0.5))
    >>> float(sharded_log_normalizer(uniform[0], uniform, jnp.zeros((4, 2)), mesh=mesh))
    0.0
    """
    axis = _axis(mesh, axis_name, log_transition, log_likelihoods)
    return _log_normalizer(axis, log_initial, log_transition, log_likelihoods)


def sharded_smooth(log_initial, log_transition, log_likelihoods, *, mesh, axis_name: str = "time") -> Statistics:
    """Posterior state probabilities and expected transition counts of a sequence whose steps are divided over devices.

    Arguments as in :func:`sharded_log_normalizer`.

    Returns:
        :class:`~tsppl.messages.Statistics`: ``state_probs`` ``(T, K)`` stays sharded along time, ``transition_counts``
        ``(K, K)`` is held by every device. Where transitions vary the counts are ``(T, K, K)``, sharded, the last row
        zero. For an impossible sequence everything is zero.
    """
    axis = _axis(mesh, axis_name, log_transition, log_likelihoods)
    return _smooth(axis, log_initial, log_transition, log_likelihoods)


def _axis(mesh, axis_name, log_transition, log_likelihoods) -> TimeAxis:
    padding = "rows of zeros, which are missing steps"
    axis = time_axis(mesh, axis_name, "log_likelihoods", log_likelihoods, padding)
    check_rows("log_transition", log_transition, 2, log_likelihoods.shape[0])
    return axis


@partial(jax.jit, static_argnums=0)
def _log_normalizer(axis, *potentials):
    value = _over_blocks(axis, partial(_block_value, axis), potentials, axis.shared)
    gradient, reference = (
        _over_blocks(
            axis, partial(_block_statistics, axis, *algorithms), potentials, _statistics_specs(axis, potentials)
        )
        for algorithms in (FAST, DIFFERENTIABLE)
    )
    return with_gradient(value, gradient, reference)(*potentials)


@partial(jax.jit, static_argnums=0)
def _smooth(axis, *potentials):
    statistics = partial(_block_statistics, axis, *FAST)
    specs = _statistics_specs(axis, potentials)
    _, (_, counts, state_probs) = _over_blocks(axis, statistics, potentials, specs)(*potentials)
    return Statistics(state_probs, counts)


def _over_blocks(axis, function, potentials, out_specs):
    return axis.map(function, _argument_specs(axis, potentials), out_specs)


def _argument_specs(axis, potentials):
    return axis.shared, axis.spec(potentials[1], 2), axis.sharded


def _statistics_specs(axis, potentials):
    return axis.shared, _argument_specs(axis, potentials)


class Surroundings(NamedTuple):
    """What the other blocks say about this one.

    ``log_evidence`` is ``log p(y_block | all blocks before)``, ``log_first`` the law of the block's first state given
    all blocks before, ``log_later`` ``log p(all blocks after | z_next)`` up to a constant.
    """

    log_evidence: Float[Array, ""]
    log_first: Float[Array, " K"]
    log_later: Float[Array, " K"]


def _surroundings(axis, table_of_block, log_initial, log_transition, log_likelihoods) -> Surroundings:
    inner, leaving = _split_moves(log_transition)
    # The last block leads nowhere: any move whose rows sum to one leaves its evidence alone.
    leaving = jnp.where(axis.is_last(), -jnp.log(leaving.shape[0]), leaving)
    table, log_scale = table_of_block(inner, leaving, log_likelihoods)
    tables = axis.gather(table)

    def forward(log_first, table):
        log_evidence, log_next = log_normalize(log_sum_exp(log_first[:, None] + table, axis=0))
        return log_next, (log_evidence, log_first)

    def backward(log_later, table):
        return log_normalize(log_sum_exp(table + log_later, axis=1))[1], log_later

    log_evidence, log_first = axis.own(lax.scan(forward, log_initial, tables)[1])
    log_later = axis.own(lax.scan(backward, jnp.zeros_like(log_initial), tables, reverse=True)[1])
    return Surroundings(log_evidence + log_scale, log_first, log_later)


def _split_moves(log_transition):
    """The moves within a block, and the one that leaves it."""
    return (log_transition, log_transition) if log_transition.ndim == 2 else (log_transition[:-1], log_transition[-1])


def _block_value(axis, *potentials):
    return axis.sum(_surroundings(axis, _table, *potentials).log_evidence)


def _block_statistics(axis, table_of_block, statistics_of_block, log_initial, log_transition, log_likelihoods):
    """``(log p(y), its gradient)``; the parts of the gradient that belong to steps are those of this block."""
    surroundings = _surroundings(axis, table_of_block, log_initial, log_transition, log_likelihoods)
    inner, leaving = _split_moves(log_transition)
    departures = leaving + surroundings.log_later
    after = jnp.where(axis.is_last(), 0, log_sum_exp(departures, axis=1))
    last = log_likelihoods[-1] - finite_largest(log_likelihoods[-1], axis=0) + after
    counts, state_probs = statistics_of_block(surroundings.log_first, inner, log_likelihoods.at[-1].set(last))
    crossing = state_probs[-1][:, None] * jnp.exp(log_normalize(departures)[1])
    crossing = jnp.where(axis.is_last(), 0, crossing)
    first = jnp.where(axis.is_first(), state_probs[0], 0)
    if log_transition.ndim == 3:
        counts = jnp.concatenate([counts, crossing[None]])
        value, first = axis.sum((surroundings.log_evidence, first))
    else:
        value, first, counts = axis.sum((surroundings.log_evidence, first, counts + crossing))
    return value, (first, counts, state_probs)


def _log_space_table(inner, leaving, log_likelihoods):
    """``(table, log_scale)`` of a block, where the table is ``log p(y_block, z_next | z_first) - log_scale``."""

    def step(log_table, inputs):
        log_likelihood, matrix = inputs
        joint = log_likelihood[:, None] + log_table
        shift = finite_largest(joint, axis=(0, 1))
        matrix = inner if matrix is None else matrix
        return log_sum_exp(matrix[:, :, None] + (joint - shift), axis=1), shift.squeeze()

    rows = inner if inner.ndim == 3 else None
    log_table, shifts = lax.scan(step, leaving, (log_likelihoods[1:], rows), reverse=True)
    first_shift = finite_largest(log_likelihoods[0], axis=0).squeeze()
    return (log_likelihoods[0] - first_shift)[:, None] + log_table, shifts.sum() + first_shift


def _scaled_table(inner, leaving, log_likelihoods):
    """As :func:`_log_space_table`, in probability space, and whether underflow cannot have changed it.

    It cannot where every transition has at least the probability ``floor``, the fourth root of the smallest float. Then
    the rows of the table are within a factor ``floor`` of each other, and so are the entries of a row: a term below the
    smallest float is at most ``floor`` of every sum that it belongs to.
    """
    shifts = finite_largest(log_likelihoods, axis=-1)
    likelihoods = jnp.exp(log_likelihoods - shifts)
    transition, leaving = jnp.exp(inner), jnp.exp(leaving)

    def step(table, inputs):
        likelihood, matrix = inputs
        joint = likelihood[:, None] * table
        scale = joint.max()
        return jnp.matmul(transition if matrix is None else matrix, joint / scale, precision="highest"), scale

    rows = transition if transition.ndim == 3 else None
    table, scales = lax.scan(step, leaving, (likelihoods[1:], rows), reverse=True)
    floor = jnp.finfo(scales.dtype).tiny ** 0.25
    smallest = (jnp.min(array, initial=1) for array in (transition, leaving, scales))
    vouched = jnp.stack([least >= floor for least in smallest]).all()
    table = jnp.log(table) + (log_likelihoods[0] - shifts[0])[:, None]
    return (table, jnp.log(scales).sum() + shifts.sum()), vouched


def _smooth_block(*potentials):
    statistics = hidden_markov_smooth(*potentials)
    return statistics.transition_counts, statistics.state_probs


def _smooth_block_in_log_space(*potentials):
    return log_space_statistics(*potentials, method="sequential")[1][1:]


_table = certified(_scaled_table, _log_space_table)
FAST = (_table, _smooth_block)
DIFFERENTIABLE = (_log_space_table, _smooth_block_in_log_space)
