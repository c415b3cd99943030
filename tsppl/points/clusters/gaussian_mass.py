"""How much of a Gaussian lies in a box, where its coordinates are correlated."""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.scipy.stats import norm

FAR = 9.0
NUM_NODES = 64


def correlated_normal_mass(mean, root, box):
    """Probability of a box under a Gaussian of one or two dimensions; its ends may be infinite.

    Args:
        mean: ``(D,)``.
        root: Cholesky factor of the covariance, ``(D, D)``.
        box: ``(2, D)``.

    Raises:
        NotImplementedError: in more than two dimensions.

    >>> import jax.numpy as jnp
    >>> round(float(correlated_normal_mass(jnp.zeros(2), jnp.eye(2), jnp.array([[-1.0, -jnp.inf], [1.0, 0.0]]))), 4)
    0.3413
    """
    if len(mean) > 2:
        raise NotImplementedError(
            f"the mass of a Gaussian with correlations in a box is known in one and two dimensions, not in {len(mean)}: "
            "use GaussianCluster(scale)"
        )
    if len(mean) == 1:
        low, high = (box[:, 0] - mean[0]) / root[0, 0]
        return ndtr(high) - ndtr(low)
    # Beyond 40 standard deviations there is nothing, and infinite corners cannot be turned.
    reach = 40 * jnp.sqrt(jnp.sum(root**2, 1))
    (left, below), (right, above) = jnp.clip(box - mean, -reach, reach)
    corners = jnp.stack([left, below, right, below, right, above, left, above]).reshape(4, 2)
    white_x = corners[:, 0] / root[0, 0]
    white_y = (corners[:, 1] - root[1, 0] * white_x) / root[1, 1]
    return _polygon_mass(jnp.stack([white_x, white_y], -1))


def _polygon_mass(vertices):
    """Standard normal mass of a polygon whose corners go round against the clock.

    By Green's theorem it is the integral of ``Phi(x) phi(y) dy`` along the border. Where ``x`` is beyond 9 the integrand is
    zero, or integrates to a difference of ``Phi(y)``; in between, Gauss and Legendre's rule has rounding errors only.
    """
    begin, end = vertices, jnp.roll(vertices, -1, 0)
    step = end - begin

    def parts(axis, bound):
        run = jnp.where(step[:, axis] == 0, 1.0, step[:, axis])
        return jnp.clip((bound - begin[:, axis]) / run, 0.0, 1.0)

    crossings = jnp.sort(jnp.stack([parts(0, -FAR), parts(0, FAR)]), 0)
    heights = jnp.sort(jnp.stack([parts(1, -FAR), parts(1, FAR)]), 0)
    flat = step == 0
    first, last = (jnp.where(flat[:, 0], float(place), crossings[place]) for place in (0, 1))
    lowest, highest = (jnp.where(flat[:, 1], float(place), heights[place]) for place in (0, 1))
    start, stop = jnp.clip(lowest, first, last), jnp.clip(highest, first, last)
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    along = 0.5 * (start + stop) + 0.5 * (stop - start) * nodes[:, None]
    x, y = (begin[:, axis] + along * step[:, axis] for axis in (0, 1))
    inside = 0.5 * (stop - start) * step[:, 1] * (weights @ (ndtr(x) * norm.pdf(y)))

    def beyond(left, right):
        middle = begin[:, 0] + 0.5 * (left + right) * step[:, 0]
        mass = ndtr(begin[:, 1] + right * step[:, 1]) - ndtr(begin[:, 1] + left * step[:, 1])
        return jnp.where(middle > 0, mass, 0.0)

    return jnp.sum(inside + beyond(0.0, first) + beyond(last, 1.0))
