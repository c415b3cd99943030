"""An observed series whose law at each step is read off a recurrent network that is driven by the steps before."""

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.distributions import constraints

from tsppl.distributions.emissions.marginal_cdf import marginal_cdf
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import split_keys
from tsppl.distributions.wrappers import as_distribution
from tsppl.recurrence.nonlinear import check_solver, deer_scan


class RecurrentSeries(SequenceDistribution):
    """Series ``y_1 .. y_T`` with ``y_t ~ emission(h_t)`` and ``h_t = transition(h_{t-1}, y_{t-1}, u_t)``.

    The states are functions of the past, so the density of an observed series is exact: all states are found at once by
    :func:`tsppl.recurrence.deer_scan`, and all steps are scored side by side. Draws are made step by step.

    Args:
        transition: ``(state, previous, input) -> state``, e.g. a cell of :mod:`tsppl.recurrence` that is fed the observation
            before and the input side by side; it may close over sampled values. ``previous`` is zero at the first step;
            ``input`` is None where there are no ``inputs``.
        initial: ``h_0``, a tree of floating-point arrays such as the carry of a cell.
        emission: ``state -> Distribution`` without batch: ``Normal(readout @ h, scale).to_event(1)`` for a Gaussian
            series, ``Poisson(exp(readout @ h)).to_event(1)`` for counts.
        num_steps: ``T``.
        inputs: what is known and drives the states: a tree of arrays ``(T, ...)``, or None.
        solver: of :func:`tsppl.recurrence.deer_scan`.

    Raises:
        ValueError: if the emission has a batch, inputs do not have ``T`` rows, or there is no such solver.
        TypeError: if the emission returns no distribution.

    The event shape is ``(T,)`` and that of the emission. A plate makes several series of one law. For a law of each series
    score them by ``numpyro.factor("y", jax.vmap(lambda h, y: RecurrentSeries(...).log_prob(y))(starts, values).sum())``.
    Steps cannot be masked, and there are no exact left-out terms, but one-step-ahead terms and forecasts.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl
    >>> params = tsppl.nn.init_gru_cell(jax.random.key(0), num_inputs=1, num_units=3)
    >>> series = RecurrentSeries(
    ...     lambda h, previous, _: tsppl.nn.gru_cell(params, h, jnp.log1p(previous)[None]),
    ...     jnp.zeros(3),
    ...     lambda h: dist.Poisson(jnp.exp(h.sum())),
    ...     num_steps=50,
    ... )
    >>> counts = series.sample(jax.random.key(1))
    >>> counts.shape, series.log_prob_steps(counts).shape
    ((50,), (50,))
    """

    has_rsample = False
    arg_constraints = {}

    def __init__(self, transition, initial, emission, *, num_steps, inputs=None, solver="auto", validate_args=None):
        self.transition, self.initial, self.emission = transition, initial, emission
        self.inputs, self.solver = inputs, check_solver(solver)
        for path, leaf in jax.tree.leaves_with_path(inputs):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != num_steps:
                name = "inputs" + jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name} has shape {jnp.shape(leaf)}; its first axis must be time, of {num_steps} steps"
                )
        one = as_distribution("the emission of one state", emission(initial))
        if one.batch_shape:
            raise ValueError(
                f"the emission of one state has batch shape {one.batch_shape}: make it one observation, by "
                f".to_event({len(one.batch_shape)})"
            )
        self._support = constraints.independent(one.support, 1)
        varying = () if inputs is None else ("inputs",)
        self._initialize(
            (), one.event_shape, num_steps=num_steps, time_varying=varying, method="auto", validate_args=validate_args
        )

    @property
    def support(self):
        """That of the emission, at every step."""
        return self._support

    @property
    def _series(self):
        """Signature of one series."""
        return "(" + ",".join(["t", *(f"e{axis}" for axis in range(len(self.event_shape) - 1))]) + ")"

    def states(self, value):
        """``h_1 .. h_T`` given one series: a tree like ``initial`` with a leading time axis."""
        if jnp.shape(value) != self.event_shape:
            raise ValueError(
                f"value has shape {jnp.shape(value)}; states are those of one series, {self.event_shape}: use jax.vmap"
            )
        previous = jnp.concatenate([jnp.zeros_like(value[:1]), value[:-1]])

        def step(state, row):
            state = self.transition(state, *row)
            return state, state

        return deer_scan(step, self.initial, (previous, self.inputs), solver=self.solver)[1]

    def scored_steps(self, value):
        """All steps, or those before the end of a series: bool ``(..., T)``."""
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        shape = jnp.broadcast_shapes(lead, self.batch_shape) + (self.num_steps,)
        return jnp.broadcast_to(self.observed_steps(), shape)

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)``, ``(..., T)``."""
        value = self.check_value(value)

        def terms(value):
            return jax.vmap(lambda state, y: self.emission(state).log_prob(y))(self.states(value), value)

        found = jnp.vectorize(terms, signature=f"{self._series}->(t)")(value)
        return jnp.where(self.scored_steps(value), found, 0.0)

    def log_prob(self, value, intermediates=None):
        """Log density of the series, the sum of :meth:`log_prob_steps`."""
        return self.log_prob_steps(value).sum(-1)

    def cdf_steps(self, value):
        """``(P(Y_t < y_t | y_<t), P(Y_t <= y_t | y_<t))`` of every entry on its own; NaN where not scored."""
        value = self.check_value(value)

        def bounds(value):
            return jax.vmap(lambda state, y: marginal_cdf(self.emission(state), y))(self.states(value), value)

        found = jnp.vectorize(bounds, signature=f"{self._series}->{self._series},{self._series}")(value)
        scored = self.scored_steps(value)
        scored = scored.reshape(scored.shape + (1,) * (self.event_dim - 1))
        return tuple(jnp.where(scored, bound, jnp.nan) for bound in found)

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(series, {})``, step by step; the states are functions of the series."""
        shape = tuple(sample_shape) + self.batch_shape
        value = jnp.zeros(shape + self.event_shape, self.emission(self.initial).sample(key).dtype)
        return self._continue(key, value, jnp.zeros(shape, int)), {}

    def _completion(self, key, value):
        ends = self.num_steps if self.lengths is None else self.lengths
        shape = jnp.broadcast_shapes(value.shape[: value.ndim - self.event_dim], self.batch_shape)
        value = jnp.broadcast_to(value, shape + self.event_shape)
        return self._continue(key, value, jnp.broadcast_to(ends, shape)), {}

    def _continue(self, key, value, num_given):
        """Draw the steps from ``num_given`` on."""

        def one(key, value, num_given):
            def step(carry, row):
                state, previous = carry
                t, key, x, given = row
                state = self.transition(state, previous, x)
                y = jnp.where(t < num_given, given, self.emission(state).sample(key).astype(given.dtype))
                return (state, y.astype(previous.dtype)), y

            # Observations are fed back as numbers, whatever their type.
            nothing = jnp.zeros(self.event_shape[1:], jnp.result_type(float))
            rows = jnp.arange(self.num_steps), jax.random.split(key, self.num_steps), self.inputs, value
            return lax.scan(step, (self.initial, nothing), rows)[1]

        keys = split_keys(key, num_given.shape)
        return jnp.vectorize(one, signature=f"(),{self._series},()->{self._series}")(keys, value, num_given)
