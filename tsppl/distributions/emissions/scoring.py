"""Scoring and drawing one observation per step and state, with any NumPyro family and any entries missing."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from tsppl.distributions.shapes import is_concrete


def as_distribution(name, emission):
    """``emission`` as a NumPyro distribution; distributions of TensorFlow Probability are wrapped.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(emission, dist.Distribution):
        return emission
    if type(emission).__module__.startswith("tensorflow_probability"):
        from numpyro.contrib.tfp.distributions import TFPDistribution

        with warnings.catch_warnings():  # about importing wrapped classes; NumPyro's own sites wrap in the same way
            warnings.simplefilter("ignore", FutureWarning)
            return TFPDistribution[type(emission)](**emission.parameters)
    raise TypeError(f"{name} must be a NumPyro distribution, not {type(emission).__name__}")


def emission_log_likelihoods(emission, value, *, time_varying, step_observed=None, entry_observed=None):
    """``log p(y_t | z_t = k)`` for every step and state.

    Args:
        emission: distribution with batch ``(..., K)``, or ``(..., T, K)`` if it varies in time.
        value: ``(..., T) + event``; missing entries may hold anything.
        time_varying: whether the emission has a time axis.
        step_observed: bool ``(..., T)``, or None if every step was observed.
        entry_observed: bool that broadcasts against ``value``, for entries missing on their own, or None.

    Returns:
        ``(..., T, K)``, zero for steps that were not observed.
    """
    event_dim = emission.event_dim

    def arrange(array):
        return with_state_axis(array, event_dim, len(emission.batch_shape), time_varying=time_varying)

    def restore(array):
        return array if time_varying else jnp.moveaxis(array, 0, -2)

    def arrange_value(value):
        return against_batch(arrange(value), emission) if event_dim else arrange(value)

    value = jnp.asarray(value)
    if step_observed is None:
        return restore(_within_support(emission, arrange_value(value), emission.log_prob))
    lead = value.shape[: value.ndim - event_dim]
    steps = jnp.broadcast_to(step_observed, jnp.broadcast_shapes(step_observed.shape, lead))
    value = jnp.broadcast_to(value, steps.shape + value.shape[value.ndim - event_dim :])
    if entry_observed is None:
        observed = arrange(steps.reshape(steps.shape + (1,) * event_dim))
        score = emission.log_prob
    else:
        observed = arrange(jnp.broadcast_to(entry_observed, value.shape))
        score = partial(partial_log_prob, emission, observed=observed)
    log_prob = _within_support(emission, fill_unobserved(emission, arrange_value(value), observed), score)
    return jnp.where(steps[..., None], restore(log_prob), 0.0)


def with_state_axis(series, event_dim, batch_ndim, *, time_varying):
    """Give ``(..., T) + event`` a state axis of size one that broadcasts against an emission with ``batch_ndim`` axes.

    Unless the emission has a time axis, time is moved to the front, before every batch axis of the emission.
    """
    series = jnp.expand_dims(series, series.ndim - event_dim)
    if time_varying:
        return series
    absent = max(1 + batch_ndim - (series.ndim - event_dim), 0)
    series = series.reshape((1,) * absent + series.shape)
    return jnp.moveaxis(series, series.ndim - event_dim - 2, 0)


def against_batch(value, distribution):
    """``value`` with its leading axes broadcast against the batch: NumPyro's multivariate normal needs it."""
    lead = value.shape[: value.ndim - distribution.event_dim]
    return jnp.broadcast_to(value, jnp.broadcast_shapes(lead, distribution.batch_shape) + value.shape[len(lead) :])


def fill_unobserved(emission, value, observed):
    """``value`` with unobserved entries replaced by a number inside the emission's support, so that no NaN is seen.

    A discrete distribution of TensorFlow Probability does not tell its support (None); zero is inside.
    """
    batch_shape = emission.batch_shape if _varies_over_states(emission.support) else ()
    fill = jnp.zeros(batch_shape + emission.event_shape, value.dtype)
    if hasattr(emission.support, "bijector"):
        bijector = emission.support.bijector
        fill = bijector.forward(jnp.zeros(bijector.inverse_event_shape(fill.shape), value.dtype))
    elif emission.support is not None:
        fill = emission.support.feasible_like(fill)
    return jnp.where(observed, value, jnp.asarray(fill).astype(value.dtype))


def _within_support(emission, value, score):
    """``score(value)``, and ``-inf`` in the states that cannot have made the value, where the support depends on the state.

    NumPyro's ``log_prob`` says nothing about values outside the support (a uniform density is constant everywhere), and
    that of MultivariateNormal needs a value with every batch axis of the covariance.
    """
    lead = lax.broadcast_shapes(value.shape[: value.ndim - emission.event_dim], emission.batch_shape)
    value = jnp.broadcast_to(value, lead + emission.event_shape)
    if not _varies_over_states(emission.support):
        return score(value)
    inside = emission.support(value)
    inside = inside.all(tuple(range(emission.support.event_dim - emission.event_dim, 0)))
    filled = fill_unobserved(emission, value, inside.reshape(inside.shape + (1,) * emission.event_dim))
    return jnp.where(inside, score(filled), -jnp.inf)


def partial_log_prob(emission, value, observed):
    """Log density of the observed entries of ``value`` alone; zero where none is observed.

    Raises:
        NotImplementedError: if the components are neither independent nor jointly Gaussian.
    """
    if hasattr(emission, "partial_log_prob"):
        return emission.partial_log_prob(value, observed)
    if isinstance(emission, dist.ExpandedDistribution):
        return partial_log_prob(emission.base_dist, value, observed)
    if isinstance(emission, dist.Independent):
        terms = partial_log_prob(emission.base_dist, value, observed)
        return terms.sum(tuple(range(-emission.reinterpreted_batch_ndims, 0)))
    if emission.event_dim == 0:
        return jnp.where(observed, emission.log_prob(value), 0.0)
    if isinstance(emission, dist.MultivariateNormal):
        return _partial_normal_log_prob(emission, value, observed)
    raise NotImplementedError(
        f"the components of {type(emission).__name__} are neither independent nor Gaussian, so single entries "
        "cannot be "
        "missing: pass a mask over steps, of shape (..., T), or an emission made by .to_event(1)"
    )


def _partial_normal_log_prob(emission, value, observed):
    """Marginal density of the observed components: the others get unit variance, no covariance and no residual."""
    pairs = observed[..., :, None] & observed[..., None, :]
    covariance = jnp.where(pairs, emission.covariance_matrix, jnp.eye(emission.event_shape[-1], dtype=value.dtype))
    residual = jnp.where(observed, value - emission.loc, 0.0)
    scale_tril = jnp.linalg.cholesky(covariance)
    scale_tril, residual = jnp.broadcast_arrays(scale_tril, residual[..., None])[0], residual[..., None]
    residual = jnp.broadcast_to(residual, scale_tril.shape[:-1] + (1,))
    whitened = solve_triangular(scale_tril, residual, lower=True)[..., 0]
    log_scales = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    return (
        -0.5 * (whitened**2).sum(-1)
        - log_scales.sum(-1)
        - 0.5 * jnp.log(2 * jnp.pi) * observed.sum(-1, dtype=value.dtype)
    )


def sample_emissions(emission, key, states, *, sample_shape, batch_shape, time_varying):
    """Draw one observation per step from the emission of its state.

    Args:
        emission: distribution with batch ``(..., K)``, or ``(..., T, K)`` if it varies in time.
        key: random key.
        states: int ``sample_shape + batch_shape + (T,)``.
        sample_shape: shape of independent draws.
        batch_shape: batch shape of the sequence distribution.
        time_varying: whether the emission has a time axis.

    Returns:
        ``states.shape + event``.
    """
    num_steps, event_dim = states.shape[-1], emission.event_dim
    num_states = emission.batch_shape[-1] if emission.batch_shape else 1
    if time_varying:
        draws = emission.expand(batch_shape + (num_steps, num_states)).sample(key, sample_shape)
    else:
        draws = emission.expand(batch_shape + (num_states,)).sample(key, sample_shape + (num_steps,))
        draws = jnp.moveaxis(draws, len(sample_shape), draws.ndim - event_dim - 2)
    return select_state(draws, states, event_dim)


def select_state(per_state, states, event_dim):
    """Pick the entry of ``states`` from the state axis of ``per_state``, ``(..., T, K) + event``; clips ``-1`` to 0."""
    axis = per_state.ndim - event_dim - 1
    last = per_state.shape[axis] - 1
    index = jnp.clip(states, 0, last).reshape(states.shape + (1,) * (event_dim + 1))
    return jnp.squeeze(jnp.take_along_axis(per_state, index, axis=axis), axis)


def complete_emissions(emission, key, states, value, observed, *, time_varying):
    """Draw the unobserved entries of ``value`` given the states and the observed entries of the same step.

    ``value`` is ``states.shape + event`` and ``observed`` broadcasts against it.
    """
    batch_shape, num_states = states.shape[:-1], emission.batch_shape[-1] if emission.batch_shape else 1
    normal = _dependent_normal(emission)
    if normal is None:
        draws = sample_emissions(
            emission, key, states, sample_shape=(), batch_shape=batch_shape, time_varying=time_varying
        )
        return jnp.where(observed, value, draws.astype(value.dtype))
    size = emission.event_shape[-1]
    rows = (states.shape[-1], num_states) if time_varying else (1, num_states)

    def of_state(parameter, event_shape):
        if not time_varying and emission.batch_shape:
            parameter = jnp.expand_dims(parameter, parameter.ndim - len(event_shape) - 1)
        parameter = jnp.broadcast_to(parameter, batch_shape + rows + event_shape)
        parameter = jnp.broadcast_to(parameter, states.shape + (num_states,) + event_shape)
        return select_state(parameter, states, len(event_shape))

    loc, covariance = of_state(normal.loc, (size,)), of_state(normal.covariance_matrix, (size, size))
    observed = jnp.broadcast_to(observed, value.shape)
    residual = jnp.where(observed, value - loc, 0.0)
    among = jnp.where(
        observed[..., :, None] & observed[..., None, :], covariance, jnp.eye(size, dtype=covariance.dtype)
    )
    across = jnp.where(~observed[..., :, None] & observed[..., None, :], covariance, 0.0)
    gain = jnp.swapaxes(jnp.linalg.solve(among, jnp.swapaxes(across, -1, -2)), -1, -2)
    whole = jnp.linalg.cholesky(covariance) @ random.normal(key, value.shape + (1,), loc.dtype)
    correction = gain @ (residual[..., None] - jnp.where(observed[..., None], whole, 0.0))
    return jnp.where(observed, value, loc + (whole + correction)[..., 0])


def _dependent_normal(emission):
    while isinstance(emission, dist.ExpandedDistribution):
        emission = emission.base_dist
    return emission if isinstance(emission, dist.MultivariateNormal) else None


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


def _support_leaves(support):
    """Arrays in a support; a constraint of TensorFlow Probability is no pytree, but its bijector is."""
    return jax.tree.leaves(getattr(support, "bijector", support))


def _varies_over_states(support):
    return any(jnp.ndim(leaf) > 0 for leaf in _support_leaves(support))


def series_support(emission, *, time_varying):
    """The support of a whole series with this emission."""
    support, event_dim = emission.support, emission.event_dim
    if support is None:
        return None
    if _varies_over_states(support):
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
    if emission.support is None or not is_concrete(_support_leaves(emission.support)):
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
            "in every "
            f"state.{_hint(emission, found)}"
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
