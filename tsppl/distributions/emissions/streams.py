"""Several emission streams side by side, each with its own family and its own gaps."""

import jax
import jax.numpy as jnp
from jax import lax, random
from numpyro.distributions import Distribution, constraints

from tsppl.distributions.emissions.scoring import partial_log_prob
from tsppl.distributions.wrappers import as_distribution


class Streams(Distribution):
    """Independent observations of several kinds at the same step, concatenated in the order given.

    Step length and turning angle of an animal, choice and response time of a subject: one emission, so that all streams
    share the hidden states. A mask over entries ``(..., T, N)`` lets each stream have its own gaps.

    Args:
        **streams: NumPyro distributions by name, each with event ``()`` or ``(n,)``; their batch shapes are broadcast.

    Raises:
        ValueError: if no stream is given, or an event has more than one axis.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> emission = tsd.Streams(step=dist.Gamma(jnp.array([1.0, 5.0])), turn=dist.VonMises(0.0, jnp.array([0.1, 3.0])))
    >>> emission.batch_shape, emission.event_shape, emission.names
    ((2,), (2,), ('step', 'turn'))
    """

    arg_constraints = {}
    has_rsample = False
    pytree_data_fields = ("streams",)
    pytree_aux_fields = ("names",)

    def __init__(self, *, validate_args=None, **streams):
        if not streams:
            raise ValueError("Streams needs at least one stream, such as Streams(step=Gamma(...), turn=VonMises(...))")
        self.names = tuple(streams)
        self.streams = tuple(as_distribution(name, stream) for name, stream in streams.items())
        for name, stream in zip(self.names, self.streams, strict=True):
            if stream.event_dim > 1:
                raise ValueError(f"stream {name!r} has event shape {stream.event_shape}; it must be () or (n,)")
        batch_shape = lax.broadcast_shapes(*(stream.batch_shape for stream in self.streams))
        super().__init__(batch_shape, (sum(self._sizes()),), validate_args=validate_args)

    def _sizes(self):
        return [stream.event_shape[0] if stream.event_dim else 1 for stream in self.streams]

    @property
    def support(self):
        """Each stream inside its own support."""
        return _StreamSupport(tuple(stream.support for stream in self.streams), tuple(self._sizes()), self._scalar())

    def _scalar(self):
        return tuple(stream.event_dim == 0 for stream in self.streams)

    def separate(self):
        """Pairs of a stream and the place of its entries in the event: a number for a scalar stream, else a slice."""
        ends = [sum(self._sizes()[: i + 1]) for i in range(len(self.streams))]
        places = zip(self.streams, self._sizes(), ends, strict=True)
        return [(stream, slice(end - size, end) if stream.event_dim else end - 1) for stream, size, end in places]

    def split(self, array):
        """An array with the streams side by side in its last axis, cut into those of each stream."""
        return _split(array, self._sizes(), self._scalar())

    def sample(self, key, sample_shape=()):
        """Draw ``sample_shape + batch_shape + (N,)``."""
        keys = random.split(key, len(self.streams))
        draws = [
            stream.expand(self.batch_shape).sample(k, sample_shape)
            for k, stream in zip(keys, self.streams, strict=True)
        ]
        return jnp.concatenate(
            [d[..., None] if scalar else d for d, scalar in zip(draws, self._scalar(), strict=True)], -1
        )

    def log_prob(self, value, intermediates=None):
        """Sum of the log densities of the streams."""
        return sum(stream.log_prob(part) for stream, part in zip(self.streams, self.split(value), strict=True))

    def partial_log_prob(self, value, observed):
        """Log density of the observed entries alone."""
        parts = zip(self.streams, self.split(value), self.split(observed), strict=True)
        return sum(partial_log_prob(stream, part, seen) for stream, part, seen in parts)


def _split(array, sizes, scalar):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = [array[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return [part[..., 0] if is_scalar else part for part, is_scalar in zip(parts, scalar, strict=True)]


class _StreamSupport(constraints.Constraint):
    """The product of the supports of several streams, over a concatenated event."""

    event_dim = 1

    def __init__(self, supports, sizes, scalar):
        self.supports, self.sizes, self.scalar = supports, sizes, scalar
        super().__init__()

    is_discrete = property(lambda self: all(support.is_discrete for support in self.supports))

    def __call__(self, value):
        parts = _split(value, self.sizes, self.scalar)
        inside = [support(part) for support, part in zip(self.supports, parts, strict=True)]
        return jax.tree.reduce(jnp.logical_and, inside)

    def feasible_like(self, prototype):
        parts = zip(self.supports, _split(prototype, self.sizes, self.scalar), self.scalar, strict=True)
        filled = [(support.feasible_like(part), is_scalar) for support, part, is_scalar in parts]
        return jnp.concatenate([part[..., None] if is_scalar else part for part, is_scalar in filled], -1)

    def tree_flatten(self):
        return (self.supports,), (("supports",), {"sizes": self.sizes, "scalar": self.scalar})
