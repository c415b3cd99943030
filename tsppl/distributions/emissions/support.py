"""Which series an emission can make, where its support may depend on the state."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from tsppl.distributions.emissions.scoring import fill_unobserved, support_leaves, varies_over_states, with_state_axis
from tsppl.distributions.shapes import is_concrete


class _EachStepInSomeState(constraints.Constraint):
    """A series of which each step is possible in some state, where the support of the emission depends on the state."""

    def __init__(self, base, event_dim, batch_ndim, time_varying):
        self.base, self.step_dim, self.batch_ndim, self.time_varying = base, event_dim, batch_ndim, time_varying
        super().__init__()

    event_dim = property(lambda self: self.step_dim + 1)
    is_discrete = property(lambda self: self.base.is_discrete)

    def __call__(self, value):
        value = jnp.asarray(value)
        value = with_state_axis(value, self.step_dim, self.batch_ndim, time_varying=self.time_varying)
        inside = self.base(value).any(-1)
        return inside.all(-1 if self.time_varying else 0)

    def feasible_like(self, prototype):
        raise NotImplementedError("the support of the emission depends on the state")

    def tree_flatten(self):
        static = {"step_dim": self.step_dim, "batch_ndim": self.batch_ndim, "time_varying": self.time_varying}
        return (self.base,), (("base",), static)


@biject_to.register(_EachStepInSomeState)
def _no_bijection(constraint):
    raise NotImplementedError(
        "the support of this emission depends on the state, so the series cannot be a latent site of NUTS or SVI: "
        "observe it, or use an emission whose support is the same in every state"
    )


def series_support(emission, *, time_varying):
    """The support of a whole series with this emission."""
    support, event_dim = emission.support, emission.event_dim
    if support is None:
        return None
    if varies_over_states(support):
        within = (
            constraints.independent(support, event_dim - support.event_dim)
            if event_dim > support.event_dim
            else support
        )
        return _EachStepInSomeState(within, event_dim, len(emission.batch_shape), time_varying)
    return constraints.independent(support, 1 + event_dim - support.event_dim)


def check_support(emission, value, observed, *, time_varying, locate):
    """Raise if a concrete observed entry is possible in no state, and say which, where, and the likely reason."""
    if hasattr(emission, "separate"):
        width = value.shape[-1]
        for stream, place in emission.separate():

            def locate_in_stream(wrong, place=place):
                whole = np.zeros(wrong.shape[: value.ndim - 1] + (width,), bool)
                whole[..., place] = wrong
                return locate(whole)

            check_support(
                stream,
                value[..., place],
                observed[..., place],
                time_varying=time_varying,
                locate=locate_in_stream,
            )
        return
    if emission.support is None or not is_concrete(support_leaves(emission.support)):
        return
    event_dim = emission.event_dim
    with jax.ensure_compile_time_eval():
        arranged, observed = (
            with_state_axis(array, event_dim, len(emission.batch_shape), time_varying=time_varying)
            for array in (value, observed)
        )
        filled = fill_unobserved(emission, arranged, observed)
        inside = emission.support(filled)
        inside = inside.reshape(inside.shape + (1,) * (filled.ndim - inside.ndim))
        wrong = ~inside.any(filled.ndim - event_dim - 1)
        wrong = wrong if time_varying else jnp.moveaxis(wrong, 0, wrong.ndim - event_dim - 1)
        wrong = np.broadcast_to(np.asarray(wrong), np.broadcast_shapes(wrong.shape, value.shape))
    if wrong.any():
        found = np.broadcast_to(value, wrong.shape)[tuple(np.argwhere(wrong)[0])]
        raise ValueError(
            f"observation at {locate(wrong)} (value {found}) is outside the support of {type(emission).__name__} "
            f"in every state.{_hint(emission, found)}"
        )


def _hint(emission, found):
    base = emission
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if base.support is constraints.circular or isinstance(base, dist.VonMises):
        return " Angles are in radians, from -pi to pi: degrees?"
    if base.support.is_discrete:
        return " Counts are whole and not negative: did you standardise them?"
    if found == 0:
        return f" {type(base).__name__} has no mass at 0: wrap it, tsd.ZeroInflated({type(base).__name__}(...), prob)"
    return ""
