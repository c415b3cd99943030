"""Neyman-Scott processes: clusters of points in time or space, beside points that belong to none."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.scipy.special import gammaln

from tsppl.distributions.points.neyman_scott_arguments import check_arguments
from tsppl.distributions.points.neyman_scott_given_events import ClusterIntensity
from tsppl.distributions.points.neyman_scott_simulation import PointPattern, simulate_pattern
from tsppl.distributions.points.neyman_scott_sites import ClusteredPoints, ClusterLabels, PointCount
from tsppl.distributions.points.neyman_scott_unseen import sample_with_unseen
from tsppl.distributions.points.point_process import PointProcess, checked_points
from tsppl.distributions.shapes import is_concrete
from tsppl.points import NeymanScottRates, clusters_of_labels, log_intensity_given_labels, log_label_weight
from tsppl.points.labels.compound_poisson import BACKGROUND, MANY_EVENTS
from tsppl.points.windows.as_window import as_window
from tsppl.points.windows.box import as_box

NEGLIGIBLE_CONCENTRATION = 1e-20


class ExpectedCounts(NamedTuple):
    """Numbers expected on the whole window."""

    points: jax.Array
    background: jax.Array
    events: jax.Array
    occupied_events: jax.Array


@jax.tree_util.register_pytree_node_class
class NeymanScott:
    """A Poisson process of events, each of which makes a Poisson number of points around itself, on a background.

    Places, amplitudes and shapes of events, and the events without a point, are integrated out; what stays explicit is
    which points belong together (Wang, Degleris, Williams and Linderman 2023, section 3). Given that, the density is
    smooth in all rates and in the cluster's parameters, which NUTS can own under any prior;
    :class:`tsppl.inference.LabelGibbs` draws the labels.

    This is not a distribution: :meth:`sample` makes three sites of a NumPyro program, the number of points (observed),
    their labels (latent), and the points (observed). Each is a proper distribution, and together they are the collapsed
    joint density.

    Args:
        event_rate: events expected per unit of length, area or volume.
        amplitude: ``numpyro.distributions.Gamma``, points expected of one event.
        cluster: how points lie around their event: :class:`GaussianCluster`, :class:`GaussianInverseWishartCluster`,
            :class:`SequenceCluster`, or another :class:`Cluster`.
        background_rate: background points expected per unit of length, area or volume; or a process of places on
            the same window, such as a :class:`PiecewisePoissonProcess`, where that rate varies. Marks are the cluster's.
        window: where events and background points can be: lowest and highest place, ``(2,)`` in time, ``(2, D)`` for a
            box; :class:`Intervals`, where recordings have gaps; a :class:`Polygon` or another :class:`Window`, for clusters
            with edges ignored. Points of clusters fall outside of it too.

    Raises:
        TypeError: if ``amplitude`` is no Gamma distribution, ``cluster`` no Cluster, ``background_rate`` no Poisson process.
        ValueError: on shapes or windows that do not fit, or an empty window.
        NotImplementedError: if the window is no box, nor intervals, and the cluster's edges are not ignored.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    >>> points, labels = jnp.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40]), jnp.array([0, 0, 0, -1, -1, -1])
    >>> round(float(process.log_joint(labels, points)), 4)
    -13.6619
    """

    def __init__(self, event_rate, amplitude, cluster, background_rate, window):
        window = as_window(window)
        check_arguments(event_rate, amplitude, cluster, background_rate, window)
        self.event_rate, self.amplitude, self.cluster = event_rate, amplitude, cluster
        self.background_rate, self.window = background_rate, window

    @classmethod
    def dirichlet_process(cls, concentration, cluster, window, *, background_rate=0.0, rate=1.0):
        """Clusters of a Dirichlet process, beside a background or none.

        The limit of ever more, ever smaller events: amplitudes ``Gamma(a, rate)`` with ``a`` to zero, and
        ``concentration / a`` events (Wang, Degleris, Williams and Linderman 2023, section 3.3). Given their number, points
        without background sit down as in a Chinese restaurant, whatever ``rate`` is. The number of points in clusters is
        negative binomial with mean ``concentration / rate``, so :meth:`sample` learns from it; the usual Dirichlet process
        mixture takes the number as given, which is to leave that site out::

            labels = numpyro.sample("x_labels", process.labels(len(points)))
            numpyro.sample("x", process.points(labels), obs=points)

        Use it to compare. Its clusters have no typical size, and their number grows with that of points in each of them;
        where clusters come at a rate and have a size, :class:`NeymanScott` itself says so.

        Args:
            concentration: of the Dirichlet process, positive; the expected number of clusters of ``N`` points is the sum of
                ``concentration / (concentration + n)`` over ``n`` from 0 to ``N - 1``.
            cluster, window: as for :class:`NeymanScott`.
            background_rate: as for :class:`NeymanScott`; none if zero, and then every point belongs to a cluster.
            rate: of the gamma process, positive.

        >>> import jax.numpy as jnp, tsppl.distributions as tsd
        >>> process = tsd.NeymanScott.dirichlet_process(2.0, tsd.GaussianCluster(0.2), (0.0, 5.0))
        >>> round(float(jnp.exp(process.labels(2).log_prob(jnp.array([0, 1])))), 4)  # 2 / (2 + 1)
        0.6667
        """
        window = as_window(window)
        event_rate = concentration / NEGLIGIBLE_CONCENTRATION / window.volume
        return cls(event_rate, dist.Gamma(NEGLIGIBLE_CONCENTRATION, rate), cluster, background_rate, window)

    @property
    def volume(self):
        """Length, area or volume of the window."""
        return self.window.volume

    @property
    def expected_events(self):
        """Events expected on the window."""
        return self.event_rate * self.volume

    @property
    def expected_background(self):
        """Background points expected on the window."""
        return self.expected_background_in(None)

    @property
    def rates(self) -> NeymanScottRates:
        """Events expected, concentration and rate of the amplitude, background points expected."""
        amplitude = self.amplitude
        return NeymanScottRates(self.expected_events, amplitude.concentration, amplitude.rate, self.expected_background)

    def expected_background_in(self, window):
        """Background points expected in an interval or box, whose ends may be infinite; in all if None."""
        if isinstance(self.background_rate, PointProcess):
            return self.background_rate.compensator(window)
        return self.background_rate * (self.volume if window is None else self.window.overlap(as_box(window)))

    def log_background(self, points):
        """Log density of each point, with its marks, if it belongs to no event: ``(N,)``."""
        log_density = jax.vmap(self.cluster.log_background, (0, None))(points, self.window)
        if not isinstance(self.background_rate, PointProcess):
            return log_density
        log_mean = jnp.log(self.expected_background) - self.window.log_volume
        return log_density + self.background_rate.log_intensity(self.cluster.positions(points)) - log_mean

    def sample_background(self, key):
        """Draw a point that belongs to no event.

        Raises:
            NotImplementedError: if points have marks, and the family does not say how those of the background are drawn.
        """
        mark_key, place_key = random.split(key)
        point = self.cluster.sample_background(mark_key, self.window)
        if jnp.shape(point) != self.cluster.point_shape:
            raise NotImplementedError(
                f"the family {type(self.cluster).__name__} has points of shape {self.cluster.point_shape}, and draws some of "
                f"shape {jnp.shape(point)} for the background: it needs a method sample_background(key, window)"
            )
        if not isinstance(self.background_rate, PointProcess):
            return point
        return self.cluster.shifted(point, self.cluster.positions(point) - self.background_rate.sample_point(place_key))

    def expected_counts(self) -> ExpectedCounts:
        """Points, background points, events, and events with at least one point, expected on the window."""
        rates, events = self.rates, self.expected_events
        counted = jnp.where(events < MANY_EVENTS, events, jnp.inf)
        return ExpectedCounts(rates.expected_points, rates.expected_background, counted, rates.expected_occupied)

    def count(self, *, largest=None) -> PointCount:
        """Distribution of the number of points; inside ``jit``, ``log_prob`` needs a bound ``largest`` on it."""
        return PointCount(self, largest=largest)

    def labels(self, num_points) -> ClusterLabels:
        """Distribution of the labels of ``num_points`` points."""
        return ClusterLabels(self, num_points)

    def points(self, labels) -> ClusteredPoints:
        """Distribution of points given their labels."""
        return ClusteredPoints(self, labels)

    def sample(self, name, points=None, *, num_points=None, unseen=None, num_unseen=None):
        """Make the sites ``<name>_count``, ``<name>_labels`` and ``<name>``, and return the labels.

        Points in ``unseen`` regions were not observed: there are slots for them, a site ``<name>_unseen`` in place of the
        count, and labels and points are those seen, then the slots. :class:`tsppl.inference.LabelGibbs` draws both sites,
        ``Gibbs([(block, [block.labels_site, block.unseen_site]), ...])``. Draws of ``<name>_labels`` say which slots have
        points: -2 where there is none.

        Args:
            name: name of the site of points.
            points: observed points, ``(N,)`` in time, else ``(N, D)``; None to draw them.
            num_points: how many to draw; drawn too if None, which works outside of ``jit`` only.
            unseen: :class:`Regions` in which points were not seen, or held out.
            num_unseen: slots for points in there; if None twice what the points seen let expect, and 32.

        Raises:
            ValueError: if the shape of ``points`` does not fit, one is NaN or has marks of no cluster, or lies in ``unseen``, or
                the number of points would have to be drawn in ``jit``.
            NotImplementedError: for unseen points of a Dirichlet process.
        """
        if points is not None:
            points = checked_points(points, self.cluster.point_shape)
            points = points.astype(jnp.result_type(points, float))
            if is_concrete(points) and np.isnan(points).any():
                raise ValueError(
                    f"point {int(np.isnan(np.asarray(points)).reshape(len(points), -1).any(1).argmax())} is NaN: leave such points out"
                )
            self.cluster.check_marks(points)
            num_points = len(points)
        if unseen is not None:
            return sample_with_unseen(self, name, points, unseen, num_unseen)
        count = numpyro.sample(f"{name}_count", self.count(largest=num_points), obs=num_points)
        if num_points is None:
            if isinstance(count, jax.core.Tracer):
                raise ValueError(
                    "inside jit the number of points must be known: pass num_points=, or use simulate(key)"
                )
            num_points = int(count)
        labels = numpyro.sample(f"{name}_labels", self.labels(num_points))
        numpyro.sample(name, self.points(labels), obs=points)
        return labels

    def log_joint(self, labels, points):
        """Log density of points, in the order given, together with their labels: the sum of the three sites.

        The density of points as a set is larger by ``log N!``. Cheaper than the sum: the probability of the count cancels.
        """
        labels = jnp.asarray(labels)
        if is_concrete(labels) and np.asarray(labels).max(initial=-1) >= len(labels):
            raise ValueError(
                f"labels go up to {np.asarray(labels).max()}; those of {len(labels)} points are below {len(labels)}"
            )
        log_weight = log_label_weight(labels, *self.rates) + self.rates.log_prob_nothing
        log_density = self.points(labels).log_prob(jnp.asarray(points))
        return log_weight + log_density - gammaln(jnp.sum(labels >= BACKGROUND) + 1.0)

    def predictive_intensity(self, places, labels, points):
        """Points expected per unit of length, area or volume at other places, given the points and their labels.

        The Papangelou intensity: averaged over posterior labels, it predicts where points of the same pattern went missing.

        Args:
            places: ``(P,)`` and the shape of a point.
            labels: int ``(N,)``.
            points: ``(N,)`` and the shape of a point.
        """
        arrays = jnp.asarray(labels), jnp.asarray(points), self.window, jnp.asarray(places)
        log_background = self.log_background(jnp.asarray(places))
        return jnp.exp(log_intensity_given_labels(self.cluster, *arrays, *self.rates, log_background))

    def sample_events(self, key, labels, points, *, num_empty=0):
        """Draw the events behind labelled points, and their amplitudes.

        Args:
            key: random key.
            labels: int ``(N,)``.
            points: ``(N,)`` and the shape of a point.
            num_empty: slots for events without a point, which are drawn too; how many there are is Poisson, with mean
                ``events - occupied_events`` of :meth:`expected_counts`, and those beyond the slots are left out.

        Returns:
            ``(events, amplitudes)`` with a leading axis of ``N + num_empty``: row ``k`` is the cluster with label ``k``. Rows
            that are no event have amplitude zero, so that :meth:`given_events` can take them all.
        """
        event_key, amplitude_key, empty_key = random.split(key, 3)
        labels, points = jnp.asarray(labels), jnp.asarray(points)
        if not len(labels):
            return self._sample_empty_events(empty_key, num_empty)
        clusters = clusters_of_labels(self.cluster, labels, points, self.window)
        keys = random.split(event_key, len(labels))
        events = jax.vmap(self.cluster.sample_event_given)(keys, clusters.statistics, clusters.window)
        concentration = self.amplitude.concentration + clusters.statistics.size
        amplitudes = random.gamma(amplitude_key, concentration) / (self.amplitude.rate + 1)
        amplitudes = jnp.where(clusters.occupied, amplitudes, 0.0)
        events = jax.vmap(self.cluster.moved)(events, clusters.origins)
        if not num_empty:
            return events, amplitudes
        empty, empty_amplitudes = self._sample_empty_events(empty_key, num_empty)
        joined = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), events, empty)
        return joined, jnp.concatenate([amplitudes, empty_amplitudes])

    def _sample_empty_events(self, key, num_slots):
        """Events that made no point: fewer and fainter than those of the prior."""
        number_key, event_key, amplitude_key = random.split(key, 3)
        expected = self.expected_counts()
        number = random.poisson(number_key, expected.events - expected.occupied_events)
        events = jax.vmap(self.cluster.sample_event, (0, None))(random.split(event_key, num_slots), self.window)
        amplitudes = random.gamma(amplitude_key, self.amplitude.concentration, (num_slots,)) / (self.amplitude.rate + 1)
        return events, jnp.where(jnp.arange(num_slots) < number, amplitudes, 0.0)

    def given_events(self, events, amplitudes) -> ClusterIntensity:
        """The Poisson process of the points when every event and its amplitude is known.

        Args:
            events: the events, with a leading axis ``(K,)``, as :meth:`simulate` gives them; also those without a point.
            amplitudes: points expected of each, ``(K,)``; zero for a row that is no event.

        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
        >>> process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
        >>> pattern = process.simulate(jax.random.key(0))
        >>> given = process.given_events(pattern.events, pattern.amplitudes)
        >>> given.residuals(pattern.points).shape == pattern.points.shape
        True
        """
        return ClusterIntensity(self, events, amplitudes)

    def background_prob(self, points, events, amplitudes):
        """Probability that each point belongs to no event, given all events and amplitudes: ``(N,)``."""
        return self.given_events(events, amplitudes).background_prob(points)

    def log_prob_given_events(self, points, events, amplitudes):
        """Log density of points, in the order given, when every event and its amplitude is known: Poisson.

        Arguments as for :meth:`given_events`.
        """
        return self.given_events(events, amplitudes).log_prob(points)

    def thinned(self, keep_prob):
        """The process of the points that are left when each is kept with this probability: of the same kind.

        Events are the same, and points expected of each, and of the background, ``keep_prob`` times as many.
        """
        amplitude = dist.Gamma(self.amplitude.concentration, self.amplitude.rate / keep_prob)
        background = self.background_rate
        background = background.thinned(keep_prob) if isinstance(background, PointProcess) else background * keep_prob
        return NeymanScott(self.event_rate, amplitude, self.cluster, background, self.window)

    def simulate(self, key) -> PointPattern:
        """Draw a whole pattern, sorted by (the first coordinate of) its places. Outside of ``jit``: its size is random.

        >>> import jax, numpyro.distributions as dist, tsppl.distributions as tsd
        >>> process = tsd.NeymanScott(1.0, dist.Gamma(20.0, 1.0), tsd.GaussianCluster(0.1), 2.0, (0.0, 10.0))
        >>> pattern = process.simulate(jax.random.key(0))
        >>> pattern.points.shape == pattern.labels.shape
        True
        """
        return simulate_pattern(key, self)

    def tree_flatten(self):
        """Everything is an array or holds arrays."""
        return (self.event_rate, self.amplitude, self.cluster, self.background_rate, self.window), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        process = object.__new__(cls)
        process.event_rate, process.amplitude, process.cluster, process.background_rate, process.window = children
        return process
