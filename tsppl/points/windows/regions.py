"""Parts of a window, or of the neurons in a part of it, in which points were not seen."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from tsppl.points.windows.box import Box


@jax.tree_util.register_pytree_node_class
class Regions:
    """Intervals or boxes in which points were not seen, or held out: of all points, or of some neurons only.

    :meth:`NeymanScott.sample` takes them as ``unseen``, so that missing points are drawn with everything else, and
    :func:`tsppl.region_log_prob` scores points that were held out there.

    Args:
        boxes: lowest and highest place of each, ``(Q, 2)`` in time, ``(Q, 2, D)`` in space.
        neurons: bool ``(Q, M)``: which neurons each of them hides, for points of time and neuron; all points if None.

    Raises:
        ValueError: on other shapes, or a box that is empty, or two that overlap.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> lost = tsd.Regions([[2.0, 3.0]], neurons=[[True, False]])
    >>> lost.contains(jnp.array([[2.5, 0.0], [2.5, 1.0], [3.5, 0.0]])).tolist()
    [True, False, False]
    """

    def __init__(self, boxes, *, neurons=None):
        boxes = jnp.asarray(boxes, jnp.result_type(float))
        if boxes.ndim not in (2, 3) or boxes.shape[1] != 2 or len(boxes) == 0:
            raise ValueError(f"boxes has shape {boxes.shape}; pass (Q, 2) in time, (Q, 2, D) in space")
        if neurons is not None:
            neurons = jnp.asarray(neurons, bool)
            if neurons.ndim != 2 or len(neurons) != len(boxes) or boxes.ndim != 2:
                raise ValueError(
                    f"neurons has shape {neurons.shape} and boxes {boxes.shape}; pass (Q, M) beside intervals (Q, 2)"
                )
        _check_apart(np.asarray(boxes), None if neurons is None else np.asarray(neurons))
        self.boxes, self.neurons = boxes, neurons

    @property
    def position_shape(self):
        """``()`` in time, ``(D,)`` in space."""
        return self.boxes.shape[2:]

    def contains(self, points):
        """Which points are in one of them: bool ``(N,)``, for points ``(N,)`` and the shape of a point, its place first."""
        points = jnp.asarray(points)
        if self.position_shape:
            positions = points[:, : self.position_shape[0]]
        else:
            positions = points if points.ndim == 1 else points[:, 0]
        inside = jax.vmap(lambda place: jax.vmap(lambda box: Box(box).contains(place))(self.boxes))(positions)
        if self.neurons is not None:
            inside &= self.neurons[:, points[:, 1].astype(jnp.int32)].T
        return inside.any(1)

    def split(self, points):
        """Points outside of the regions, and those inside, each in the order given. Outside of ``jit``."""
        inside = np.asarray(self.contains(points))
        return jnp.asarray(points)[~inside], jnp.asarray(points)[inside]

    def tree_flatten(self):
        """Arrays; nothing is static."""
        return (self.boxes, self.neurons), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        regions = object.__new__(cls)
        regions.boxes, regions.neurons = children
        return regions


def random_regions(key, window, num_neurons, *, length, prob):
    """Hide each neuron in each stretch of time independently: a checkerboard to hold spikes out by. Outside of ``jit``.

    Args:
        key: random key.
        window: begin and end, ``(2,)``.
        num_neurons: ``M``.
        length: of the stretches, in units of time; the last is shorter.
        prob: probability of each to be hidden, above 0 and below 1.

    >>> import jax, tsppl.distributions as tsd
    >>> tsd.random_regions(jax.random.key(0), (0.0, 10.0), 3, length=2.0, prob=0.3).neurons.shape
    (5, 3)
    """
    if not 0 < prob < 1 or not length > 0:
        raise ValueError(f"prob is {prob} and length {length}; prob must be between 0 and 1, length above 0")
    begin, end = map(float, window)
    edges = np.append(np.arange(begin, end - 1e-9 * (end - begin), length), end)
    neurons = random.bernoulli(key, prob, (len(edges) - 1, num_neurons))
    return Regions(np.stack([edges[:-1], edges[1:]], 1), neurons=neurons)


def _check_apart(boxes, neurons):
    """Raise unless boxes have a volume, and nothing is in two of them."""
    ends = boxes.reshape(len(boxes), 2, -1)
    empty = ~(ends[:, 0] < ends[:, 1]).all(1)
    if empty.any():
        raise ValueError(f"box {empty.argmax()}, {boxes[empty.argmax()].tolist()}, is empty: lowest place first")
    shared = ((ends[:, None, 0] < ends[None, :, 1]) & (ends[None, :, 0] < ends[:, None, 1])).all(2)
    if neurons is not None:
        shared &= (neurons[:, None] & neurons[None]).any(2)
    first, second = np.argwhere(np.triu(shared, 1)).reshape(-1, 2)[:1].T
    if len(first):
        raise ValueError(f"boxes {first[0]} and {second[0]} overlap: join or cut them, so that each place is in one")
