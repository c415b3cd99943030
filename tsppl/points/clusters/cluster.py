"""What a family of clusters has to answer, so that whole partitions of points can be scored and sampled.

A cluster is a set of points with one common cause, an event, whose parameters (its place, its shape) are integrated out.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc

from tsppl.points.windows.as_window import as_window


def check_positive(name, array):
    """Raise if a concrete array has an entry below zero; zero itself and NaN come from proposals that samplers reject."""
    if isinstance(array, jax.core.Tracer):
        return
    lowest = np.min(np.asarray(array))
    if lowest < 0:
        raise ValueError(f"{name} has the entry {lowest}; it must be above 0")


def check_probabilities(name, array):
    """Raise unless the rows of a concrete array are probabilities."""
    if isinstance(array, jax.core.Tracer):
        return
    sums = np.asarray(array).sum(-1)
    if not (np.min(array) >= 0 and np.abs(sums - 1).max() < 1e-4):
        raise ValueError(
            f"{name} must be probabilities, each row of sum 1; sums are from {sums.min():.6g} to {sums.max():.6g}"
        )


class Cluster:
    """Base of the families of clusters. Every method is about one cluster and one point: use ``jax.vmap`` for many.

    A family is a pytree of arrays with these answers; all that is said of clusters is made of them. ``statistics`` are a
    NamedTuple of arrays that add up over points, whose field ``size`` is the number of points; an event is a NamedTuple whose
    first field is its place. A cluster without a point is never asked about. To draw labels, and the events behind them, the
    first three are enough:

    =============================================== ===================================================================
    ``point_statistics(point)``                     statistics of a single point
    ``log_marginal(statistics, window)``            log density of the points of a cluster, the event integrated out;
                                                    ``-inf`` where they cannot have one in common
    ``sample_event_given(key, statistics, window)`` an event given its points
    ``sample_event(key, window)``                   an event from its prior, to simulate
    ``sample_point(key, event)``                    a point of an event, to simulate
    ``log_density(point, event)``                   its log density, for ``given_events``
    ``mass(event, window)``                         share of an event's points that fall into a box, for residuals;
                                                    ``mass(event, window, neurons)`` of some neurons
    =============================================== ===================================================================

    The rest have defaults. A family that says nothing has points on a line, without marks; its events are kept inside of the
    window; any two points may belong together.

    =============================================== ===================================================================
    ``position_shape``                              shape of a place, to which ``window`` belongs: ``()``, or ``(D,)``
    ``point_shape``                                 shape of one point, its place first, then its marks
    ``log_background(point, window)``               log density of a point of no cluster; uniform on the window
    ``sample_background(key, window)``              a point of no cluster; where there are marks, a family needs both
    ``edges``                                       ``"exact"``: events are inside the window; ``"ignored"``: they are
                                                    anywhere, and any form of a window will do
    ``reach``                                       distance, by dimension, beyond which points of a cluster need not
                                                    see each other; infinite if not known, and then chunks are no use
    ``interior()``                                  a family with the same predictive density away from the edges
    ``log_predictive(statistics, more, window)``    change of ``log_marginal`` when a point is added
    ``num_neurons``                                 number ``M`` of neurons, None where the mark is no neuron
    ``background_share(neurons)``                   share of the background that some have, bool ``(..., M)``
    ``check_marks(points)``                         raises where marks cannot be
    ``positions``, ``shifted``, ``moved``           places of points; points, and events, from another origin
    =============================================== ===================================================================

    ``window`` is a :class:`Window`: an interval or box is read as ``low, high = window``, all have ``window.log_volume``, and
    :mod:`tsppl.points.clusters.centres` knows how much of a Gaussian is inside, also where there are gaps. Points add to
    statistics relative to an origin of the caller's choice (``shifted``), to which the window is then relative too, so that
    sums stay exact far from zero.
    """

    position_shape = ()
    edges = "exact"
    reach = math.inf
    num_neurons = None

    def point_statistics(self, point):
        """Statistics of a single point."""
        raise self._missing("point_statistics(point)")

    def log_marginal(self, statistics, window):
        """Log density of the points of a cluster, the event integrated out."""
        raise self._missing("log_marginal(statistics, window)")

    def sample_event(self, key, window):
        """An event from its prior."""
        raise self._missing("sample_event(key, window)")

    def sample_event_given(self, key, statistics, window):
        """An event given its points."""
        raise self._missing("sample_event_given(key, statistics, window)")

    def sample_point(self, key, event):
        """A point of an event."""
        raise self._missing("sample_point(key, event)")

    def log_density(self, point, event):
        """Log density of a point of an event."""
        raise self._missing("log_density(point, event)")

    def mass(self, event, window):
        """Share of the points of an event that fall into a box, whose ends may be infinite."""
        raise self._missing("mass(event, window)")

    def background_share(self, neurons):
        """Share of the points of no cluster that some neurons have."""
        raise self._missing("background_share(neurons)")

    def check_marks(self, points):
        """Raise if concrete points have marks that no cluster of the family can make."""

    @property
    def point_shape(self):
        """Shape of one point."""
        return self.position_shape

    def positions(self, points):
        """The places of points, which come first in them."""
        if self.point_shape == self.position_shape:
            return points
        return points[..., : self.position_shape[0]] if self.position_shape else points[..., 0]

    def shifted(self, points, origin):
        """Points seen from another origin."""
        if self.point_shape == self.position_shape:
            return points - origin
        dims = math.prod(self.position_shape)
        return jnp.concatenate([points[..., :dims] - origin, points[..., dims:]], -1)

    def moved(self, event, origin):
        """An event that was found relative to ``origin``, in place; the first field of an event is its position."""
        return event._replace(**{event._fields[0]: event[0] + origin})

    def interior(self):
        """A family with the same predictive density away from the edges of the window, maybe cheaper."""
        return self

    def log_background(self, point, window):
        """Log density of a place that belongs to no cluster: uniform on the window."""
        if jnp.shape(point) != self.position_shape:
            raise self._missing("log_background(point, window)")
        window = as_window(window)
        return jnp.where(window.contains(point), -window.log_volume, -jnp.inf)

    def sample_background(self, key, window):
        """A place that belongs to no cluster."""
        return as_window(window).uniform(key)

    def log_predictive(self, statistics, more, window):
        """Log density of one more point, with statistics ``more``, given a cluster with ``statistics``."""
        both = self.log_marginal(jax.tree.map(jnp.add, statistics, more), window)
        return jnp.where(both == -jnp.inf, -jnp.inf, both - self.log_marginal(statistics, window))

    def _missing(self, answer):
        return NotImplementedError(f"the family {type(self).__name__} needs a method {answer} for this")


def log_normal_mass(low, high):
    """``log(Phi(high) - Phi(low))`` for ``low < high``, accurate in both tails."""
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    is_far = high < (-20.0 if high.dtype == jnp.float64 else -10.0)

    def tail(x):
        """``Phi(x)`` over the normal density, for ``x`` far below zero."""
        return -(1 - (1 - 3 * (1 - 5 / x**2) / x**2) / x**2) / x

    near, close = jnp.where(is_far, 0.0, high), jnp.where(is_far, -1.0, low)
    mass = 0.5 * (erfc(-near * 0.5**0.5) - erfc(-close * 0.5**0.5))
    far, farther = jnp.where(is_far, high, -20.0), jnp.where(is_far, low, -21.0)
    ratio = tail(far) - jnp.exp(0.5 * (far - farther) * (far + farther)) * tail(farther)
    return jnp.where(is_far, jnp.log(ratio) - 0.5 * far**2 - 0.5 * jnp.log(2 * jnp.pi), jnp.log(mass))


def normal_mass(low, high):
    """``Phi(high) - Phi(low)`` for ``low < high``, many times cheaper; the smallest positive number where it is less."""
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    mass = 0.5 * (erfc(-high * 0.5**0.5) - erfc(-low * 0.5**0.5))
    return jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)
