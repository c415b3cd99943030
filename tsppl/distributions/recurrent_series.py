"""An observed series whose law at each step is read off a recurrent network that is driven by the steps before."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import constraints

from tsppl.recurrence import deer_scan


class RecurrentSeries(dist.Distribution):
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
        ValueError: if the emission has a batch.

    The event shape is ``(T,)`` and that of the emission. Batch models by a plate over ``vmap``.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl
    >>> params = tsppl.recurrence.init_gru_cell(jax.random.key(0), num_inputs=1, num_units=3)
    >>> series = RecurrentSeries(
    ...     lambda h, previous, _: tsppl.recurrence.gru_cell(params, h, jnp.log1p(previous)[None]),
    ...     jnp.zeros(3),
    ...     lambda h: dist.Poisson(jnp.exp(h.sum())),
    ...     num_steps=50,
    ... )
    >>> counts = series.sample(jax.random.key(1))
    >>> counts.shape, series.log_prob_steps(counts).shape
    ((50,), (50,))
    """

    has_rsample = False

    def __init__(self, transition, initial, emission, *, num_steps, inputs=None, solver="auto", validate_args=None):
        self.transition, self.initial, self.emission = transition, initial, emission
        self.num_steps, self.inputs, self.solver = num_steps, inputs, solver
        one = emission(initial)
        if one.batch_shape:
            raise ValueError(
                f"the emission of one state has batch shape {one.batch_shape}: make it one observation, by "
                f".to_event({len(one.batch_shape)})"
            )
        self._support = constraints.independent(one.support, 1)
        super().__init__((), (num_steps, *one.event_shape), validate_args=validate_args)

    @property
    def support(self):
        """That of the emission, at every step."""
        return self._support

    def states(self, value):
        """``h_1 .. h_T`` given the series: a tree like ``initial`` with a leading time axis."""
        previous = jnp.concatenate([jnp.zeros_like(value[:1]), value[:-1]])

        def step(state, row):
            state = self.transition(state, *row)
            return state, state

        return deer_scan(step, self.initial, (previous, self.inputs), solver=self.solver)[1]

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)``, ``(..., T)``."""

        def terms(value):
            return jax.vmap(lambda state, y: self.emission(state).log_prob(y))(self.states(value), value)

        event = ",".join(["t", *(f"e{axis}" for axis in range(len(self.event_shape) - 1))])
        return jnp.vectorize(terms, signature=f"({event})->(t)")(jnp.asarray(value))

    def log_prob(self, value, intermediates=None):
        """Log density of the series, the sum of :meth:`log_prob_steps`."""
        return self.log_prob_steps(value).sum(-1)

    def sample(self, key, sample_shape=()):
        """Draw series, step by step: ``sample_shape + (T, ...)``."""

        def draw(key):
            def step(carry, row):
                state, previous = carry
                key, x = row
                state = self.transition(state, previous, x)
                y = self.emission(state).sample(key)
                return (state, y.astype(previous.dtype)), y

            # Observations are fed back as numbers, whatever their type.
            nothing = jnp.zeros(self.event_shape[1:], jnp.result_type(float))
            rows = jax.random.split(key, self.num_steps), self.inputs
            return lax.scan(step, (self.initial, nothing), rows)[1]

        keys = jax.random.split(key, sample_shape)
        for _ in sample_shape:
            draw = jax.vmap(draw)
        return draw(keys)
