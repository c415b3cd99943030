"""An observed series whose law at each step is read off a recurrent network that is driven by the steps before."""

import copy

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.tree_util import Partial
from numpyro.distributions import constraints

from tsppl.distributions.emissions.drawing import complete_emissions
from tsppl.distributions.emissions.marginal_cdf import marginal_cdf
from tsppl.distributions.emissions.scoring import fill_unobserved, partial_log_prob
from tsppl.distributions.recurrent.laws import as_tree, check_batch, first_series, over_series
from tsppl.distributions.sequence import SequenceDistribution, time_axis_of_mask
from tsppl.distributions.shapes import split_keys
from tsppl.distributions.wrappers import as_distribution
from tsppl.recurrence.nonlinear import deer_scan
from tsppl.recurrence.solvers import check_solver

_NOTHING_HIDDEN = "the states of a RecurrentSeries are functions of the series: see RecurrentSeries.states(value)"


class RecurrentSeries(SequenceDistribution):
    """Series ``y_1 .. y_T`` with ``y_t ~ emission(h_t)`` and ``h_t = transition(h_{t-1}, y_{t-1}, u_t)``.

    The states are functions of the past, so the density of an observed series is exact: all states are found at once by
    :func:`tsppl.recurrence.deer_scan`, and all steps are scored side by side. Draws are made step by step.

    Args:
        transition: ``(state, previous, input) -> state``, e.g. a cell of :mod:`tsppl.nn` that is fed the observation
            before and the input side by side; it may close over sampled values. ``previous`` is zero at the first step;
            ``input`` is None where there are no ``inputs``.
        initial: ``h_0``, a tree of floating-point arrays such as the carry of a cell.
        emission: ``state -> Distribution`` without batch: ``Normal(readout @ h, scale).to_event(1)`` for a Gaussian
            series, ``Poisson(exp(readout @ h)).to_event(1)`` for counts.
        num_steps: ``T``.
        inputs: what is known and drives the states: a tree of arrays ``(T, ...)``, or None.
        batch_shape: of several series, each with its own law: ``initial``, ``inputs`` and what
            ``jax.tree_util.Partial(function, weights)`` binds to the functions then begin with these axes, or with axes of
            size one where the series share them. What functions close over is shared. A plate makes several series of
            one law without it.
        mask: True = observed, ``(..., T)``, or ``(...,) + event`` where the entries of a step are missing on their own,
            which needs an emission with independent or jointly Gaussian entries.
        lengths: numbers of steps of ragged series, ``(...)``. After its last step a series has no observation.
        missing: what ``transition`` is fed in place of a value that was not observed, as the law of all later steps
            hangs on it: a constant, or a function of the state of that step, such as the mean of the emission. A
            ``mask`` needs it; ``lengths`` do not.
        solver: of :func:`tsppl.recurrence.deer_scan`.

    Raises:
        ValueError: if the emission has a batch, shapes do not fit, there is a mask and nothing to feed, or there is no
            such solver.
        TypeError: if the emission returns no distribution.

    The event shape is ``(T,)`` and that of the emission. ``missing`` makes a law of its own, in which a masked value has
    no effect on later steps: so the density of what was observed is exact, and what was not is drawn from the emission of
    its step. Without it that density would be an integral over all that may have been fed. There are no exact left-out
    terms, but one-step-ahead terms and forecasts; in these each drawn value is fed back.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> params = tsppl.nn.init_gru_cell(jax.random.key(0), num_inputs=1, num_units=3)
    >>> series = tsd.RecurrentSeries(
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
    pytree_data_fields = ("transition", "initial", "emission", "inputs", "missing")
    pytree_aux_fields = ("solver", "_batch_ndim")

    def __init__(
        self,
        transition,
        initial,
        emission,
        *,
        num_steps,
        inputs=None,
        batch_shape=(),
        mask=None,
        lengths=None,
        missing=None,
        solver="auto",
        validate_args=None,
    ):
        batch_shape = tuple(batch_shape)
        self.transition, self.emission = as_tree(transition), as_tree(emission)
        self.initial, self.inputs = jax.tree.map(jnp.asarray, (initial, inputs))
        self.solver, self._batch_ndim = check_solver(solver), len(batch_shape)
        for name in ("transition", "initial", "emission"):
            check_batch(name, getattr(self, name), batch_shape)
        check_batch("inputs", self.inputs, batch_shape, num_steps)
        one = self._first_emission()
        if one.batch_shape:
            raise ValueError(
                f"the emission of one state has batch shape {one.batch_shape}: make it one observation, by "
                f".to_event({len(one.batch_shape)})"
            )
        if mask is not None and missing is None:
            raise ValueError(
                "mask needs missing: what transition is fed in place of a value that was not observed, a constant such as "
                "0.0 or a function of the state such as the mean of the emission; series that only end early take lengths"
            )
        self.missing = self._checked_missing(missing, one.event_shape, batch_shape)
        self._initialize(
            batch_shape,
            one.event_shape,
            num_steps=num_steps,
            time_varying=() if inputs is None else ("inputs",),
            method="auto",
            mask=mask,
            lengths=lengths,
            validate_args=validate_args,
        )

    def _checked_missing(self, missing, event_shape, batch_shape):
        """What is fed in place of a missing value, as a function of the state."""
        if callable(missing):
            missing = as_tree(missing)
        elif missing is not None:
            missing = jnp.asarray(missing)
            if missing.shape not in ((), event_shape):
                raise ValueError(
                    f"missing has shape {missing.shape}; it must be a number, like one observation, {event_shape}, or a "
                    "function of the state"
                )
            missing = Partial(_constant, missing[(None,) * len(batch_shape)])
        check_batch("missing", missing, batch_shape)
        return missing

    def _first_emission(self):
        emission, initial = first_series((self.emission, self.initial), self._batch_ndim)
        return as_distribution("the emission of one state", emission(initial))

    @property
    def support(self):
        """That of the emission, at every step."""
        return constraints.independent(self._first_emission().support, 1)

    @property
    def _series(self):
        """Signature of one series."""
        return "(" + ",".join(["t", *(f"e{axis}" for axis in range(len(self.event_shape) - 1))]) + ")"

    @property
    def _law(self):
        return self.transition, self.initial, self.emission, self.inputs, self.missing

    @property
    def _entries_missing_alone(self):
        """Whether the mask is one of entries."""
        mask = self.observed_mask
        return (
            mask is not None
            and self.event_dim > 1
            and time_axis_of_mask(mask.shape, self.event_shape) == mask.ndim - self.event_dim
        )

    def states(self, value):
        """``h_1 .. h_T`` given one series: a tree like ``initial`` with a leading time axis."""
        if jnp.shape(value) != self.event_shape or self._parameter_batch_shape:
            raise ValueError(
                f"value has shape {jnp.shape(value)}; states are those of one series, {self.event_shape}: use jax.vmap"
            )
        return self._states(self._law, value, *self._observed(value))

    def _observed(self, value):
        """A list of the observed entries, like ``value``; empty if all were."""
        entries = self.observed_entries()
        return [] if entries is None else [jnp.broadcast_to(entries, jnp.broadcast_shapes(entries.shape, value.shape))]

    def _states(self, law, value, observed=None):
        transition, initial, _, inputs, missing = law

        def before(rows):
            return jnp.concatenate([jnp.zeros_like(value[:1], rows.dtype), rows[:-1]])

        def step(state, row):
            previous, replaced, x = row
            if replaced is not None:
                # Where nothing is given to feed, only what comes after the end of the series is not observed.
                previous = jnp.where(replaced, 0 if missing is None else missing(state), previous)
            state = transition(state, previous, x)
            return state, state

        rows = before(value), None if observed is None else before(~observed), inputs
        return deer_scan(step, initial, rows, solver=self.solver)[1]

    def _given(self, of_step, value, result):
        """``of_step(emission of a step, its value within the support, its observed entries or None)`` of all steps."""

        def core(law, value, observed=None):
            def one(state, y, observed):
                emission = as_distribution("the emission", law[2](state))
                y = y if observed is None else fill_unobserved(emission, y, observed)
                return of_step(emission, y, observed)

            return jax.vmap(one)(self._states(law, value, observed), value, observed)

        arrays = [value, *self._observed(value)]
        signature = ",".join([self._series] * len(arrays)) + "->" + result
        return over_series(core, self._law, self._batch_ndim, signature, *arrays)

    def scored_steps(self, value):
        """Steps with an observed entry: bool ``(..., T)``."""
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        shape = jnp.broadcast_shapes(lead, self.batch_shape) + (self.num_steps,)
        return jnp.broadcast_to(self.observed_steps(), shape)

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)`` of the observed entries, zero where not scored, ``(..., T)``."""

        def score(emission, y, observed):
            return partial_log_prob(emission, y, observed) if self._entries_missing_alone else emission.log_prob(y)

        value = self.check_value(value)
        return jnp.where(self.scored_steps(value), self._given(score, value, "(t)"), 0.0)

    def log_prob(self, value, intermediates=None):
        """Log density of what was observed of the series, the sum of :meth:`log_prob_steps`."""
        return self.log_prob_steps(value).sum(-1)

    def cdf_steps(self, value):
        """``(P(Y_t < y_t | y_<t), P(Y_t <= y_t | y_<t))`` of every entry on its own; NaN where not observed."""
        value = self.check_value(value)
        bounds = self._given(lambda emission, y, _: marginal_cdf(emission, y), value, f"{self._series},{self._series}")
        entries = self.observed_entries()
        return bounds if entries is None else tuple(jnp.where(entries, bound, jnp.nan) for bound in bounds)

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(series, {})``, step by step; the states are functions of the series."""
        shape = tuple(sample_shape) + self.batch_shape + self.event_shape
        value = jnp.zeros(shape, self._first_emission().sample(key).dtype)
        return self._draw(key, value, jnp.zeros(shape, bool)), {}

    def sample_latents(self, key, value):
        """Not available: given the series nothing is unknown."""
        raise NotImplementedError(_NOTHING_HIDDEN)

    def latent_marginals(self, value, given="all"):
        """Not available: given the series nothing is unknown."""
        raise NotImplementedError(_NOTHING_HIDDEN)

    def latent_mode(self, value):
        """Not available: given the series nothing is unknown."""
        raise NotImplementedError(_NOTHING_HIDDEN)

    def _completion(self, key, value):
        observed = self.observed_entries()
        if observed is None:
            return value, {}
        shape = jnp.broadcast_shapes(value.shape[: value.ndim - self.event_dim], self.batch_shape) + self.event_shape
        return self._draw(key, jnp.broadcast_to(value, shape), jnp.broadcast_to(observed, shape)), {}

    def _draw(self, key, value, kept):
        """Draw the entries that are not ``kept``, a step after the other."""
        # What follows the end of a series is fed back as it is drawn.
        endless = copy.copy(self)
        endless.lengths = None
        replaced = endless.observed_entries()
        replaced = jnp.zeros((), bool) if replaced is None or self.missing is None else ~replaced

        def one(law, key, value, kept, replaced):
            transition, initial, emission, inputs, missing = law

            def step(carry, row):
                state, previous = carry
                key, x, given, kept, replaced = row
                state = transition(state, previous, x)
                y = self._draw_step(as_distribution("the emission", emission(state)), key, given, kept)
                fed = y if missing is None else jnp.where(replaced, missing(state), y)
                return (state, fed.astype(previous.dtype)), y

            # Observations are fed back as numbers, whatever their type.
            numbers = [value] if jnp.issubdtype(value.dtype, jnp.floating) else []
            nothing = jnp.zeros(self.event_shape[1:], jnp.result_type(float, *jax.tree.leaves(initial), *numbers))
            rows = random.split(key, self.num_steps), inputs, value, kept, replaced
            return lax.scan(step, (initial, nothing), rows)[1]

        keys = split_keys(key, value.shape[: value.ndim - self.event_dim])
        arrays = keys, value, kept, jnp.broadcast_to(replaced, value.shape)
        series = self._series
        signature = f"(),{series},{series},{series}->{series}"
        return over_series(one, self._law, self._batch_ndim, signature, *arrays)

    def _draw_step(self, emission, key, given, kept):
        if self._entries_missing_alone:
            one = jnp.zeros(1, int)
            return complete_emissions(emission, key, one, given[None], kept[None], time_varying=False)[0]
        return jnp.where(kept, given, emission.sample(key).astype(given.dtype))


def _constant(value, state):
    return value
