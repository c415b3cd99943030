"""Why a nowcast changed: what each release of data, and each revision, did to it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tsppl.distributions import LinearGaussianSSM


class News(NamedTuple):
    """The change of a nowcast from one vintage of data to the next, in the units of the series.

    ``after - before`` is the sum of ``revision_impacts`` and ``impacts``.

    Attributes:
        before, after: the nowcast from the first vintage, and from the second.
        revision_impacts: ``(N,)``, what revisions of figures that were there before did, by series.
        steps, channels: int ``(J,)``, the entries that are new in the second vintage, in order of time.
        expected: ``(J,)``, what was expected of them, given the first vintage with its revisions.
        released: ``(J,)``, what they are.
        weights: ``(J,)``, by how much the nowcast moves for each unit of surprise.
        impacts: ``(J,)``, ``weights * (released - expected)``.
    """

    before: jax.Array
    after: jax.Array
    revision_impacts: jax.Array
    steps: np.ndarray
    channels: np.ndarray
    expected: jax.Array
    released: jax.Array
    weights: jax.Array
    impacts: jax.Array


def expected_values(series, value):
    """Each entry given all observed ones: itself where it is observed, else its posterior mean: ``(T, N)``.

    Args:
        series: a :class:`~tsppl.distributions.LinearGaussianSSM` of one series, with a mask.
        value: ``(T, N)``; masked entries may hold anything.
    """
    trajectory = series.latent_marginals(value)["trajectory_mean"]
    means = (series.emission_matrix @ trajectory[..., None])[..., 0]
    means = means + series.emission_noise.mean
    observed = series.observed_mask
    if observed is None:
        return jnp.asarray(value)
    return jnp.where(observed if observed.ndim == 2 else observed[:, None], value, means)


def news(make_series, before, after, *, step, channel) -> News:
    """Split the change of a nowcast over releases and revisions (Banbura and Modugno 2010, section 2.3), exactly.

    The expectation of an entry that nobody has seen is linear in the data of a linear-Gaussian model. From the first vintage
    to the second, first the figures that were there are revised; then new ones come in, each of which moves the nowcast
    by a weight times its surprise. Weights are derivatives. Parameters are the same for both vintages; for those of
    posterior draws, ``jax.vmap`` over a function that calls this one for one draw, with arrays of NumPy for vintages.

    Args:
        make_series: function of a mask ``(T, N)`` that returns the distribution, such as
            ``lambda mask: tsppl.dynamic_factors(..., mask=mask)``.
        before, after: the two vintages, ``(T, N)``, NaN where there is no figure (yet); pad them to the same months.
        step, channel: the entry to nowcast.

    Raises:
        TypeError: if the distribution is another one.
        ValueError: if shapes differ, a figure has gone, or the entry was known before.

    >>> import jax.numpy as jnp, numpy as np, tsppl
    >>> def make_series(mask):
    ...     return tsppl.dynamic_factors(
    ...         jnp.ones((2, 1)), 0.8 * jnp.eye(1), jnp.eye(1), 0.5 * jnp.ones(2), num_steps=3, mask=mask
    ...     )
    >>> before = np.array([[0.1, 0.3], [1.0, np.nan], [np.nan, np.nan]])
    >>> after = np.array([[0.1, 0.3], [1.0, 1.4], [2.0, np.nan]])
    >>> found = tsppl.news(make_series, before, after, step=2, channel=1)
    >>> bool(jnp.isclose(found.after - found.before, found.impacts.sum() + found.revision_impacts.sum(), atol=1e-5))
    True
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(f"before has shape {before.shape} and after {after.shape}; pad both to (T, N) with NaN")
    was_seen, is_seen = ~np.isnan(before), ~np.isnan(after)
    if (was_seen & ~is_seen).any():
        gone = np.argwhere(was_seen & ~is_seen)[0]
        raise ValueError(
            f"the figure of step {gone[0]}, channel {gone[1]} is in before and not in after: leave it out of both"
        )
    if was_seen[step, channel]:
        raise ValueError(f"step {step} of channel {channel} is known before: there is nothing to nowcast")
    first, revised, second = (
        np.where(seen, data, 0.0) for seen, data in ((was_seen, before), (was_seen, after), (is_seen, after))
    )
    old, new = make_series(jnp.asarray(was_seen)), make_series(jnp.asarray(is_seen))
    if not isinstance(old, LinearGaussianSSM):
        raise TypeError(f"make_series returns a {type(old).__name__}; a LinearGaussianSSM is needed")

    def nowcast(series, value):
        expected = expected_values(series, value)
        return expected[step, channel], expected

    gradient = jax.value_and_grad(nowcast, 1, has_aux=True)
    (from_first, _), _ = gradient(old, jnp.asarray(first))
    (_, expected), old_weights = gradient(old, jnp.asarray(revised))
    (to_second, _), new_weights = gradient(new, jnp.asarray(second))
    steps, channels = np.nonzero(is_seen & ~was_seen)
    expected, weights = expected[steps, channels], new_weights[steps, channels]
    released = jnp.asarray(second)[steps, channels]
    revisions = (old_weights * (revised - first)).sum(0)
    return News(
        from_first, to_second, revisions, steps, channels, expected, released, weights, weights * (released - expected)
    )
