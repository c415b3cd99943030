"""A window that a user writes, a disc, wherever a window is asked for something."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.inference import LabelGibbs


@jax.tree_util.register_pytree_node_class
class Disc(tsd.Window):
    """All places of the plane at most ``radius`` from a centre."""

    position_shape = (2,)

    def __init__(self, centre, radius):
        self.centre, self.radius = jnp.asarray(centre), jnp.asarray(radius)

    @property
    def bounds(self):
        return jnp.stack([self.centre - self.radius, self.centre + self.radius])

    def contains(self, position):
        return jnp.sum((position - self.centre) ** 2) <= self.radius**2

    def overlap(self, box):
        """Chords cut off at the box, by Gauss and Legendre's rule in the angle."""
        nodes, weights = np.polynomial.legendre.leggauss(200)
        low, high = jnp.clip((jnp.asarray(box) - self.centre) / self.radius, -1.0, 1.0)
        first, last = jnp.arcsin(low[0]), jnp.arcsin(high[0])
        chord = jnp.cos(0.5 * (first + last) + 0.5 * (last - first) * nodes)
        height = jnp.clip(high[1], -chord, chord) - jnp.clip(low[1], -chord, chord)
        return self.radius**2 * 0.5 * (last - first) * jnp.sum(weights * height * chord)

    def __sub__(self, origin):
        return Disc(self.centre - origin, self.radius)

    def tree_flatten(self):
        return (self.centre, self.radius), None

    @classmethod
    def tree_unflatten(cls, static, children):
        disc = object.__new__(cls)
        disc.centre, disc.radius = children
        return disc


DISC = Disc([1.0, -0.5], 2.0)
AREA = 4 * np.pi
CLUSTER = tsd.GaussianCluster(jnp.array([0.1, 0.2]), edges="ignored")
PROCESS = tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), CLUSTER, 2.0, DISC)


def inside(places):
    return ((np.asarray(places) - np.array([1.0, -0.5])) ** 2).sum(1) <= 4.0


def test_what_follows_from_its_answers():
    assert_allclose(DISC.volume, AREA)
    assert_allclose(DISC.log_volume, np.log(AREA))
    assert_allclose(DISC.overlap([[1.0, -jnp.inf], [jnp.inf, jnp.inf]]), AREA / 2)
    assert DISC.boxes is None
    assert DISC.same_as(Disc([1.0, -0.5], 2.0))
    assert not DISC.same_as(Disc([1.0, -0.5], 2.1))
    drawn = np.asarray(jax.vmap(DISC.uniform)(random.split(random.key(0), 500)))
    squares = ((drawn - np.array([1.0, -0.5])) ** 2).sum(1) / 4.0
    assert stats.kstest(squares, "uniform").pvalue > 1e-3


def test_densities_draws_and_residuals():
    points = PROCESS.simulate(random.key(0))
    alone = np.asarray(points.points[points.labels < 0])
    assert inside(alone).all()
    assert inside(points.events.centre).all()
    assert_allclose(PROCESS.expected_counts().background, 2 * AREA)
    labels = jnp.array([0, -1, 0])
    places = jnp.array([[1.0, 1.0], [1.0, 0.0], [1.1, 1.1]])
    pair = np.exp(-0.25 * ((0.1 / 0.1) ** 2 + (0.1 / 0.2) ** 2)) / (4 * np.pi * 0.02)
    assert_allclose(PROCESS.points(labels).log_prob(places), np.log(pair) - 2 * np.log(AREA))
    assert PROCESS.points(labels).log_prob(places.at[1, 0].set(3.5)) == -jnp.inf

    poisson = tsd.PoissonProcess(30.0, DISC)
    pattern = poisson.simulate(random.key(1))
    assert inside(pattern).all()
    assert stats.kstest(np.asarray(poisson.residuals(pattern)), "expon").pvalue > 1e-3
    beside = tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), CLUSTER, poisson, DISC)
    assert_allclose(beside.expected_background, 30 * AREA)
    given = PROCESS.given_events(points.events, points.amplitudes)
    assert_allclose(given.rescaled(points.points)[-1], given.compensator(), rtol=0.1)


def test_label_sweeps():
    pattern = PROCESS.simulate(random.key(0))
    block = LabelGibbs(lambda points, window: tsd.NeymanScott(
        1.0, dist.Gamma(8.0, 1.0), CLUSTER, 2.0, window
    ).sample("x", points), "x", num_split_merge=2)  # fmt: skip
    arguments = pattern.points, DISC
    state = block.init(random.key(1), 0, {"x_labels": jnp.full(len(pattern.points), -1)}, arguments, {})
    sample = jax.jit(lambda state: block.sample(state, arguments, {}))
    for _ in range(20):
        state = sample(state)
    assert abs(int(state.num_clusters) - int(pattern.labels.max()) - 1) <= 3


def test_what_it_cannot_do_is_named():
    with pytest.raises(NotImplementedError, match=r'cannot be kept inside of a Disc.*edges="ignored"'):
        tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), tsd.GaussianCluster(jnp.ones(2)), 2.0, DISC)
    with pytest.raises(NotImplementedError, match="cannot be integrated over a Disc"):
        tsd.InhomogeneousPoissonProcess(jnp.sum, DISC)
    with pytest.raises(NotImplementedError, match="not in a Disc"):
        tsd.PoissonProcess(1.0, DISC).compensator(DISC)
    with pytest.raises(NotImplementedError, match="no lowest and highest place"):
        DISC[0]
    with pytest.raises(ValueError, match="another window"):
        tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), CLUSTER, tsd.PoissonProcess(1.0, Disc([1.0, -0.5], 1.0)), DISC)
    with pytest.raises(NotImplementedError, match="Half does not state overlap"):
        type("Half", (tsd.Window,), {})().overlap((0.0, 1.0))


def test_the_window_of_a_process_is_read_like_the_pair_that_was_passed():
    window = tsd.PoissonProcess(1.0, (1.0, 3.0)).window
    low, high = window
    assert (float(low), float(high), float(window[1] - window[0]), len(window)) == (1.0, 3.0, 2.0, 2)
    assert_allclose(np.asarray(window, np.float32), np.array([1.0, 3.0], np.float32))
    assert_allclose(
        jax.jit(lambda window: jnp.asarray(window) + jnp.diff(window.bounds))(window), jnp.array([3.0, 5.0])
    )
    cells = tsd.PiecewisePoissonProcess(jnp.ones(2), jnp.array([1.0, 2.0, 3.0]))
    assert cells.window.same_as(window)
    assert_allclose(cells.compensator(window), 2.0)
