"""Poisson processes whose intensity is a function of the place, integrated by quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from tsppl.distributions.points.poisson_process import PoissonLike
from tsppl.points.windows.as_window import as_window
from tsppl.points.windows.box import as_box

NUM_NODES = 8
NUM_BISECTIONS = 50


@jax.tree_util.register_pytree_node_class
class InhomogeneousPoissonProcess(PoissonLike):
    """Points that fall independently, at a rate that is a function of the place.

    The points expected are integrals over the window, found by Gauss and Legendre's rule: each coordinate is cut into
    ``num_panels`` equal panels of eight nodes, so that the function is looked at in ``(8 num_panels)^D`` places. The
    intensity is integrated exactly where it is a polynomial of degree 15 within each panel. Otherwise the error in one
    dimension is ``2e-23 h^16`` times the length of the window times the 16th derivative of the intensity somewhere, for
    panels of length ``h`` (Abramowitz and Stegun, 25.4.30): for waves ``exp(sin(w t))`` it is below ``1e-12`` of the whole
    as long as ``w h < 1``. Kinks and jumps should lie on borders of panels.

    Args:
        log_intensity: function of one place, ``()`` in time, else ``(D,)``, that returns the log of points expected per unit
            of length, area or volume. Parameters that change from call to call of a compiled function travel as the
            arguments of a ``jax.tree_util.Partial``; a plain function is compiled in as it is.
        window: where points can be, ``(2,)`` in time, ``(2, D)`` for a box, or :class:`Intervals`.
        num_panels: panels in each coordinate; in each of several intervals.

    Raises:
        NotImplementedError: if the window is a polygon, or another that consists of no boxes.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> def wave(size, time):
    ...     return jnp.log(size * (1 + jnp.sin(time)))
    >>> process = tsd.InhomogeneousPoissonProcess(jax.tree_util.Partial(wave, 2.0), (0.0, jnp.pi))
    >>> round(float(process.compensator()), 4)  # 2 * pi + 4
    10.2832
    """

    def __init__(self, log_intensity, window, *, num_panels=16):
        if not callable(log_intensity):
            raise TypeError(f"log_intensity is a {type(log_intensity).__name__}; pass a function of one place")
        if isinstance(log_intensity, functools.partial) and not isinstance(log_intensity, jax.tree_util.Partial):
            log_intensity = jax.tree_util.Partial(log_intensity.func, *log_intensity.args, **log_intensity.keywords)
        if not isinstance(log_intensity, jax.tree_util.Partial):
            log_intensity = jax.tree_util.Partial(log_intensity)
        window = as_window(window)
        if window.boxes is None:
            raise NotImplementedError(
                f"a function cannot be integrated over a {type(window).__name__}: use a box, or PoissonProcess(rate, window) "
                "with one rate"
            )
        self.function, self.window, self.num_panels = log_intensity, window, num_panels

    @property
    def position_shape(self):
        """``()`` in time, ``(D,)`` in space."""
        return self.window.position_shape

    @property
    def _boxes(self):
        """The boxes of the window, ``(M, 2, D)``, also in time."""
        return self.window.boxes.reshape(len(self.window.boxes), 2, -1)

    def log_intensity(self, points):
        """Log intensity at each point; minus infinity outside of the window."""
        points = self._checked(points)
        inside = jax.vmap(self.window.contains)(points)
        within = jnp.clip(points, *self.window.bounds)
        return jnp.where(inside, jax.vmap(self.function)(within), -jnp.inf)

    def compensator(self, window=None):
        """Points expected in all, or in a box, by quadrature."""
        return self._expected_in_boxes(window).sum()

    def _expected_in_boxes(self, window=None):
        low, high = self._boxes[:, 0], self._boxes[:, 1]
        if window is not None:
            wanted = jnp.reshape(as_box(window), (2, -1))
            low = jnp.clip(wanted[0], low, high)
            high = jnp.clip(wanted[1], low, high)
        return jax.vmap(self._panels, (None, 0, 0))(jnp.zeros(0, low.dtype), low, high).sum(1)

    def sample_point(self, key):
        """A point: one coordinate after the other, by inversion of its distribution given those before."""
        parts, chosen = self._boxes, 0
        if len(parts) > 1:
            key, part_key = random.split(key)
            chosen = random.categorical(part_key, jnp.log(self._expected_in_boxes()))
        low, high = parts[chosen]
        begin = jnp.zeros(0, low.dtype)
        for axis, draw in enumerate(random.uniform(key, low.shape, low.dtype)):
            cumulative = jnp.cumsum(self._panels(begin, low[axis:], high[axis:]))
            wanted = draw * cumulative[-1]
            panel = jnp.minimum(jnp.searchsorted(cumulative, wanted, side="right"), self.num_panels - 1)
            rest = wanted - jnp.where(panel > 0, cumulative[panel - 1], 0.0)
            width = (high[axis] - low[axis]) / self.num_panels
            first = low[axis] + panel * width

            def halve(_, ends, begin=begin, first=first, rest=rest, axis=axis):
                middle = 0.5 * (ends[0] + ends[1])
                lowest, highest = low[axis:].at[0].set(first), high[axis:].at[0].set(middle)
                below = self._panels(begin, lowest, highest, num_panels=1).sum() < rest
                return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

            ends = lax.fori_loop(0, NUM_BISECTIONS, halve, (first, first + width))
            begin = jnp.append(begin, 0.5 * (ends[0] + ends[1]))
        return begin.reshape(self.position_shape)

    def thinned(self, keep_prob):
        """The process of the points that are left when each is kept with this probability."""
        function = jax.tree_util.Partial(_shifted, self.function, jnp.log(keep_prob))
        return InhomogeneousPoissonProcess(function, self.window, num_panels=self.num_panels)

    def _panels(self, begin, low, high, *, num_panels=None):
        """Integrals over the coordinates after ``begin``, by panels of the first of them; others have all panels."""
        numbers = [self.num_panels if num_panels is None else num_panels] + [self.num_panels] * (len(low) - 1)
        nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
        axes, masses = [], []
        for axis, number in enumerate(numbers):
            width = (high[axis] - low[axis]) / number
            axes.append((low[axis] + width * (np.arange(number)[:, None] + 0.5 * (nodes + 1))).ravel())
            masses.append(jnp.tile(0.5 * weights, number) * width)
        grid = jnp.stack([one.ravel() for one in jnp.meshgrid(*axes, indexing="ij")], -1)
        places = jnp.concatenate([jnp.broadcast_to(begin, (len(grid), len(begin))), grid], -1)
        values = jnp.exp(jax.vmap(self.function)(places.reshape((-1,) + self.position_shape)))
        values = values.reshape([len(one) for one in axes])
        for mass in masses[:0:-1]:
            values = values @ mass
        return (values * masses[0]).reshape(numbers[0], NUM_NODES).sum(-1)

    def tree_flatten(self):
        """The function's parameters and the window; the number of panels is static."""
        return (self.function, self.window), self.num_panels

    @classmethod
    def tree_unflatten(cls, num_panels, children):
        """The same from its parts, unchecked."""
        process = object.__new__(cls)
        process.num_panels = num_panels
        process.function, process.window = children
        return process


def _shifted(function, shift, place):
    return function(place) + shift
