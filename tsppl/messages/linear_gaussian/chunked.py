"""The evidence of small linear-Gaussian models of any kind in lockstep: chunks of the series side by side.

The filter forgets where it started. So the series is cut into chunks; every boundary is guessed by a warm-up over the end of
the chunk before it, and all chunks take their steps together, in algebra written out entry by entry on vectors of chunks.
Where each chunk ends is compared with the guess that the next one started from: boundaries that are met prove the answer,
whatever was guessed (words as in :mod:`tsppl.messages.certified`). Covariances are carried as such, not as roots, which is
safe in float64 while no observation is very much more precise than its prediction; that is checked too.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from tsppl.messages.linear_gaussian.adjoint import pad_last
from tsppl.messages.linear_gaussian.roots import transpose
from tsppl.messages.linear_gaussian.steps import LOG_TWO_PI, AffineGaussian, Gaussian, join_time, split_time
from tsppl.recurrence.chunks import chunks_last, shift

NUM_CHUNKS = 40
TOLERANCE = 1e-9
LARGEST_RATIO = 1e6
"""Of predicted to noise variance; digits lost to rounding in an update."""


def chunked_value(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """``(log-likelihood, vouched)``; arguments as in :func:`~tsppl.messages.kalman_log_likelihood`."""
    looks, whitened, offset, regular = _independent_observations(emission, values, observed)
    dynamics = pad_last(dynamics)
    dynamics = dynamics._replace(root=dynamics.root @ transpose(dynamics.root))
    constant, varying = split_time(dynamics)
    length = -(-len(values) // NUM_CHUNKS)
    warm_up = min(length, max(128, length // 4))
    # The steps added at the end observe nothing.
    rows = jax.tree.map(lambda array: chunks_last(array, NUM_CHUNKS), (varying, looks, whitened))

    def step(state, row):
        varying, look, value = row
        mean, covariance, misfit, ratio = _update(*state, look, value)
        return _move(mean, covariance, join_time(constant, varying)), (misfit, ratio)

    first = _entries(initial.mean, initial.root @ initial.root.T)
    everywhere = jax.tree.map(lambda a: jnp.broadcast_to(a, (NUM_CHUNKS,)), first)
    guess, _ = lax.scan(step, everywhere, jax.tree.map(lambda a: a[-warm_up:], rows))
    starts = jax.tree.map(shift, first, guess)
    ends, (misfits, ratios) = lax.scan(step, starts, rows)
    # A NaN, wherever it comes from, fails a comparison.
    vouched = regular & _met(ends, starts) & (ratios.max() <= LARGEST_RATIO)
    return offset - 0.5 * (misfits.sum() + jnp.log(ratios).sum()), vouched


def _entries(mean, covariance):
    """A state: the entries of the mean, and those of the covariance on and below the diagonal, in tuples."""
    size = mean.shape[0]
    return tuple(mean), tuple(covariance[i, j] for i in range(size) for j in range(i + 1))


def _full(packed, size):
    """Rows of a symmetric matrix, from its entries on and below the diagonal."""
    index = {(i, j): i * (i + 1) // 2 + j for i in range(size) for j in range(i + 1)}
    return [[packed[index[max(i, j), min(i, j)]] for j in range(size)] for i in range(size)]


def _dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def _update(mean, packed, looks, values):
    """Condition on one scalar observation of unit noise after another; sum of squares and product of ratios too."""
    size, misfit, product = len(mean), 0, 1
    for look, value in zip(looks, values, strict=True):
        gain = [_dot(row, look) for row in _full(packed, size)]
        ratio, residual = 1 + _dot(look, gain), value - _dot(look, mean)
        scaled = [entry / ratio for entry in gain]
        mean = tuple(entry + step * residual for entry, step in zip(mean, scaled, strict=True))
        lower = ((i, j) for i in range(size) for j in range(i + 1))
        packed = tuple(entry - scaled[i] * gain[j] for entry, (i, j) in zip(packed, lower, strict=True))
        misfit, product = misfit + residual * residual / ratio, product * ratio
    return mean, packed, misfit, product


def _move(mean, packed, dynamics):
    """One step of the dynamics, whose root holds the noise covariance; fields with or without a last axis of chunks."""
    weights, bias, noise = dynamics
    size = len(mean)
    covariance = _full(packed, size)
    moved = [[_dot(weights[i], row) for row in covariance] for i in range(size)]
    packed = tuple(noise[i, j] + _dot(moved[i], weights[j]) for i in range(size) for j in range(i + 1))
    return tuple(bias[i] + _dot(weights[i], mean) for i in range(size)), packed


def _met(ends, starts):
    """Whether each chunk ends where the next one started, relative to standard deviations."""
    mean, packed = (jnp.stack(entries)[:, :-1] for entries in ends)
    next_mean, next_packed = (jnp.stack(entries)[:, 1:] for entries in starts)
    size = len(mean)
    scales = jnp.sqrt(jnp.stack([next_packed[i * (i + 3) // 2] for i in range(size)]))
    products = jnp.stack([scales[i] * scales[j] for i in range(size) for j in range(i + 1)])
    rounding = 8 * jnp.finfo(mean.dtype).eps * jnp.abs(next_mean)
    near = (jnp.abs(mean - next_mean) <= TOLERANCE * scales + rounding).all()
    return near & (jnp.abs(packed - next_packed) <= TOLERANCE * products).all()


def _independent_observations(emission, values, observed):
    """The observations as scalars with independent unit noise; the entries not observed look at nothing.

    Returns matrices ``(T, N, D)``, values ``(T, N)``, the log density's constant and whether the noise is regular.
    """
    steps, channels = values.shape
    noise = emission.root @ transpose(emission.root)
    residuals = values - emission.bias
    looks = jnp.broadcast_to(emission.weights, (steps,) + emission.weights.shape[-2:])
    count = values.size
    if observed is not None:
        pairs = observed[:, :, None] & observed[:, None]
        noise = jnp.where(pairs, noise, jnp.eye(channels, dtype=values.dtype))
        looks, residuals = jnp.where(observed[..., None], looks, 0), jnp.where(observed, residuals, 0)
        count = observed.sum()
    # Cholesky and forward substitution written out: for all steps at once, where a call for each would dominate.
    factor, rows, whitened, regular = {}, [], [], True
    for i in range(channels):
        for j in range(i):
            factor[i, j] = (noise[..., i, j] - sum(factor[i, k] * factor[j, k] for k in range(j))) / factor[j, j]
        pivot = noise[..., i, i] - sum(factor[i, k] ** 2 for k in range(i))
        regular &= (pivot >= noise[..., i, i] / LARGEST_RATIO).all()
        factor[i, i] = jnp.sqrt(pivot)
        before = [factor[i, k] for k in range(i)]
        row = looks[:, i] - sum(jnp.expand_dims(f, -1) * r for f, r in zip(before, rows, strict=True))
        rows.append(row / jnp.expand_dims(factor[i, i], -1))
        value = residuals[:, i] - sum(f * v for f, v in zip(before, whitened, strict=True))
        whitened.append(value / factor[i, i])
    log_determinant = sum(jnp.broadcast_to(jnp.log(factor[i, i]), (steps,)).sum() for i in range(channels))
    offset = -0.5 * count * LOG_TWO_PI - log_determinant
    return jnp.stack(rows, 1), jnp.stack(whitened, 1), offset, regular
