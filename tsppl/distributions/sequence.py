"""The base of every sequence distribution: one contract, so that everything after sampling is written once."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import Distribution

from tsppl.distributions.shapes import broadcast_to_batch, is_concrete
from tsppl.messages.methods import HIDDEN_MARKOV_METHODS, check_method
from tsppl.upstream import set_shapes


class SequenceDistribution(Distribution):
    """A distribution over a whole series, of event shape ``(T,) + emission event``.

    Besides ``sample`` and ``log_prob`` it answers the questions below. Results carry the batch on the left, then
    time. What a class cannot answer raises NotImplementedError that names the alternative.

    ============================== ============================================================================
    ``scored_steps(value)``        bool ``(..., T)``: steps that have a log-probability of their own
    ``log_prob_steps(value)``      ``(..., T)``: of each step given its past; zero where not scored
    ``log_prob_left_out(value)``   ``(..., T)``: of each step given all the others; zero where not scored
    ``cdf_steps(value)``           pair of arrays like ``value``: probability of less, and of at most, each entry
                                   given the steps before
    ``sample_latents(key, value)`` dict: ``"states"`` int32 ``(..., T)``, ``"trajectory"`` ``(..., T, D)``
    ``latent_marginals(value)``    dict: ``"state_probs"``; ``"trajectory_mean"``, ``"trajectory_scale_tril"``
    ``latent_mode(value)``         dict: most likely path; smoothed mean
    ``sample_missing(key, value)`` the value with everything unobserved drawn
    ``forecast(key, value, h)``    dict: ``"value"`` and the latents of the next ``h`` steps
    ``sample_with_latents(key)``   ``(value, latents)`` drawn together
    ============================== ============================================================================

    A subclass stores its arguments as given (never broadcast), lists every array and distribution among them in
    ``pytree_data_fields``, and supplies the methods above and ``_completion``. ``expand`` returns the same class with a
    new batch shape, so that a plate's distribution still answers every question.
    """

    has_rsample = False
    known_methods = HIDDEN_MARKOV_METHODS
    pytree_data_fields = ("observed_mask", "lengths")
    pytree_aux_fields = ("num_steps", "time_varying", "method", "_parameter_batch_shape")

    @classmethod
    def gather_pytree_data_fields(cls):
        """Names of the array fields, sorted: the same order in every process, so that compiled programs can be cached."""
        return tuple(sorted(super().gather_pytree_data_fields()))

    @classmethod
    def gather_pytree_aux_fields(cls):
        """Names of the static fields, sorted."""
        return tuple(sorted(super().gather_pytree_aux_fields()))

    def _initialize(
        self, batch_shape, step_shape, *, num_steps, time_varying, method, mask=None, lengths=None, validate_args=None
    ):
        """Store what every class has and check the mask and the lengths; the last call of a subclass's ``__init__``."""
        self.num_steps, self.time_varying = num_steps, time_varying
        self.method = check_method(method, self.known_methods)
        event_shape = (num_steps,) + tuple(step_shape)
        self.observed_mask = None if mask is None else jnp.asarray(mask, bool)
        self.lengths = None if lengths is None else jnp.asarray(lengths)
        if mask is not None:
            batch_shape = _join("mask", mask_batch(self.observed_mask.shape, event_shape), batch_shape)
        if lengths is not None:
            check_lengths(self.lengths, num_steps)
            batch_shape = _join("lengths", self.lengths.shape, batch_shape)
        self._parameter_batch_shape = tuple(batch_shape)
        Distribution.__init__(self, tuple(batch_shape), event_shape, validate_args=validate_args)
        self._warn_if_nothing_is_observed()

    def _warn_if_nothing_is_observed(self):
        if self.observed_mask is None or not is_concrete(self.observed_mask, self.lengths):
            return
        with jax.ensure_compile_time_eval():
            silent = np.asarray(~self.observed_steps().any(-1))
        if silent.any():
            sequence = int(np.argwhere(np.atleast_1d(silent))[0][0])
            warnings.warn(f"sequence {sequence} has no observed step: it contributes nothing", stacklevel=4)

    def expand(self, batch_shape):
        """The same distribution with a larger batch; parameters stay as they are and broadcast at use."""
        batch_shape = tuple(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        try:
            fits = lax.broadcast_shapes(batch_shape, self.batch_shape) == batch_shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"cannot expand batch shape {self.batch_shape} to {batch_shape}")
        expanded = copy.copy(self)
        set_shapes(expanded, batch_shape=batch_shape)
        return expanded

    def mask(self, mask):
        """NumPyro's mask over whole series; steps are masked by the argument ``mask`` of the distribution.

        Raises:
            ValueError: if ``mask`` ends in an axis of ``T`` entries that is no batch axis.
        """
        if jnp.ndim(mask) and jnp.shape(mask)[-1] == self.num_steps > 1 and self.batch_shape[-1:] != (self.num_steps,):
            raise ValueError(
                f"a mask of shape {jnp.shape(mask)} around a series of {self.num_steps} steps: handlers.mask and obs_mask "
                "work on sequences, not on steps, and the series would be counted once for each step. Pass mask= to the "
                "distribution"
            )
        return super().mask(mask)

    def sample(self, key, sample_shape=()):
        """Draw series of shape ``sample_shape + batch_shape + event_shape``."""
        return self.sample_with_latents(key, sample_shape)[0]

    def log_prob(self, value, intermediates=None):
        """Log density of the observed entries of ``value``, one number for each series."""
        raise NotImplementedError

    def scored_steps(self, value):
        """Steps that have a log-probability of their own: bool ``(..., T)``."""
        raise NotImplementedError

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)``, zero where not scored; sums to ``log_prob(value)``. Shape ``(..., T)``."""
        raise NotImplementedError

    def log_prob_left_out(self, value):
        """``log p(y_t | all other observations)``, zero where not scored. Shape ``(..., T)``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no exact left-out terms here; log_prob_steps gives one-step-ahead terms, "
            "which answer another question"
        )

    def cdf_steps(self, value):
        """``P(Y_t < y_t)`` and ``P(Y_t <= y_t)`` given the steps before, for residuals; NaN where nothing was observed.

        Both have the shape of ``value``. Of several channels each is taken by itself.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cumulative probabilities here")

    def sample_latents(self, key, value):
        """Draw the hidden things given the data."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden states or trajectory")

    def latent_marginals(self, value, given="all"):
        """What is known about the hidden things, given all the data or (``given="past"``) the data up to each step."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden states or trajectory")

    def latent_mode(self, value):
        """The single best explanation of the data."""
        raise NotImplementedError(f"{type(self).__name__} has no hidden states or trajectory")

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(value, latents)`` together."""
        raise NotImplementedError

    def _completion(self, key, value):
        """Draw everything unobserved: ``(completed value, latents)``; steps from ``lengths`` on count as unobserved."""
        raise NotImplementedError(f"{type(self).__name__} cannot draw missing values")

    def sample_missing(self, key, value):
        """``value`` with every masked entry, and every step from ``lengths`` on, drawn from its posterior."""
        return broadcast_to_batch(self._completion(key, self.check_value(value))[0], self.batch_shape, self.event_dim)

    def forecast(self, key, value, num_steps=None):
        """Draw the steps that follow ``value``.

        Args:
            key: random key.
            value: the observed series, ``T`` steps.
            num_steps: how many steps to draw. Leave it out when this distribution already spans ``T + h`` steps: it
                must, where an argument varies in time, because the future of that argument is needed.

        Returns:
            dict with ``"value"`` of shape ``(..., h) + step`` and the latents of the same steps. With ``lengths``, the
            forecast of each series starts at its own end.

        Raises:
            ValueError: if an argument varies in time and ``num_steps`` is given.
        """
        value = jnp.asarray(value)
        time_axis = value.ndim - self.event_dim
        if num_steps is None:
            spanning, num_steps = self, self.num_steps - value.shape[time_axis]
            if num_steps <= 0:
                raise ValueError(
                    f"value has {value.shape[time_axis]} steps and the distribution {self.num_steps}: build it for "
                    "T + h steps, or pass num_steps if nothing varies in time"
                )
        else:
            spanning = self._extended(num_steps)
        observed = spanning.num_steps - num_steps
        ends = jnp.full((), observed) if self.lengths is None else self.lengths
        padding = [(0, num_steps if axis == time_axis else 0) for axis in range(value.ndim)]
        spanning = copy.copy(spanning)
        spanning.lengths = ends
        completed, latents = spanning._completion(key, jnp.pad(value, padding))
        steps = ends[..., None] + jnp.arange(num_steps)

        def ahead(array, event_ndim):
            lead = array.shape[: array.ndim - event_ndim - 1]
            index = jnp.broadcast_to(steps, lead + (num_steps,)).reshape(lead + (num_steps,) + (1,) * event_ndim)
            return jnp.take_along_axis(array, index, axis=array.ndim - event_ndim - 1)

        future = {
            name: ahead(array, array.ndim - completed.ndim + self.event_dim - 1) for name, array in latents.items()
        }
        return {"value": ahead(completed, self.event_dim - 1), **future}

    def _extended(self, num_steps):
        """This distribution with ``num_steps`` more steps; only where nothing varies in time."""
        if self.time_varying:
            raise ValueError(
                f"{self.time_varying[0]} varies in time over {self.num_steps} steps, and a forecast needs its "
                f"future: build the distribution for {self.num_steps} + {num_steps} steps and call forecast(key, value) without "
                "num_steps"
            )
        longer = copy.copy(self)
        longer.num_steps = self.num_steps + num_steps
        set_shapes(longer, event_shape=(longer.num_steps,) + self.event_shape[1:])
        return longer.continuing(self)

    def continuing(self, past):
        """This distribution over more steps than ``past``, of whose steps the same was observed as in ``past``."""
        longer = copy.copy(self)
        longer.observed_mask, longer.lengths = past.observed_mask, past.lengths
        if past.observed_mask is not None:
            axis = time_axis_of_mask(past.observed_mask.shape, past.event_shape)
            num_steps = self.num_steps - past.num_steps
            padding = [(0, num_steps if i == axis else 0) for i in range(past.observed_mask.ndim)]
            longer.observed_mask = jnp.pad(past.observed_mask, padding, constant_values=True)
        return longer

    def observed_entries(self):
        """Bool array that broadcasts against batch + event: True where an entry was observed; None if all were."""
        entries = None
        if self.observed_mask is not None:
            mask = self.observed_mask
            elementwise = time_axis_of_mask(mask.shape, self.event_shape) == mask.ndim - self.event_dim
            entries = mask if elementwise else mask.reshape(mask.shape + (1,) * (self.event_dim - 1))
        if self.lengths is not None:
            within = jnp.arange(self.num_steps) < self.lengths[..., None]
            within = within.reshape(within.shape + (1,) * (self.event_dim - 1))
            entries = within if entries is None else entries & within
        return entries

    def observed_steps(self):
        """Bool ``(..., T)``: steps of which at least one entry was observed."""
        entries = self.observed_entries()
        if entries is None:
            return jnp.ones((self.num_steps,), bool)
        return entries.any(tuple(range(entries.ndim - self.event_dim + 1, entries.ndim)))

    def check_value(self, value):
        """``value`` as an array, after checking its shape and, where it is concrete, its observed entries.

        Raises:
            ValueError: if the trailing shape is not the event shape, or an observed entry is NaN or outside the
                support; the message names the first such entry.
        """
        value = jnp.asarray(value)
        if value.shape[value.ndim - self.event_dim :] != self.event_shape:
            raise ValueError(
                f"value has shape {value.shape}, which must end in the event shape {self.event_shape} "
                "(steps, then the shape of one observation)"
            )
        self._check_not_repeated_over_time(value)
        try:
            lax.broadcast_shapes(value.shape[: value.ndim - self.event_dim], self.batch_shape)
        except ValueError:
            raise ValueError(
                f"value has shape {value.shape}, which does not fit batch shape {self.batch_shape}"
            ) from None
        entries = self.observed_entries()
        if is_concrete(value, entries):
            observed = np.asarray(True if entries is None else entries)
            self._check_concrete(*np.broadcast_arrays(np.asarray(value), observed))
        return value

    def _check_not_repeated_over_time(self, value):
        """Raise if one series would be counted once for each of its steps."""
        added = len(self.batch_shape) - len(self._parameter_batch_shape)
        alone = value.ndim == self.event_dim and self.batch_shape[-1:] == (self.num_steps,)
        if added > 0 and alone and self.num_steps > 1:
            raise ValueError(
                f"value is one series of {self.num_steps} steps, and the distribution was expanded to a batch of "
                f"{self.num_steps}: it would be counted once for each step. Time is never a plate: leave the plate out"
            )

    def _check_concrete(self, value, observed):
        if np.issubdtype(value.dtype, np.floating):
            wrong = np.isnan(value) & observed
            if wrong.any():
                raise ValueError(
                    f"value is NaN at {self._locate(wrong)}, and the mask says that it was observed. "
                    "Use tsppl.nan_to_mask, or pass mask"
                )

    def _locate(self, wrong):
        """Words for the first True of ``wrong``, an array of batch + event shape."""
        index = [int(i) for i in np.argwhere(wrong)[0]]
        batch, step, rest = index[: -self.event_dim], index[-self.event_dim], index[len(index) - self.event_dim + 1 :]
        words = [f"sequence {batch[0] if len(batch) == 1 else tuple(batch)}"] if batch else []
        words.append(f"step {step}")
        if rest:
            words.append(f"channel {rest[0] if len(rest) == 1 else tuple(rest)}")
        return ", ".join(words)


def time_axis_of_mask(mask_shape, event_shape):
    """Position of the time axis: an elementwise mask ends in the event shape, a mask of steps in ``T``."""
    if len(event_shape) > 1 and tuple(mask_shape[len(mask_shape) - len(event_shape) :]) == tuple(event_shape):
        return len(mask_shape) - len(event_shape)
    return len(mask_shape) - 1


def mask_batch(mask_shape, event_shape):
    """Batch shape of a mask, of steps ``(..., T)`` or of entries ``(...,) + event_shape``."""
    axis = time_axis_of_mask(mask_shape, event_shape)
    if not mask_shape or mask_shape[axis] != event_shape[0]:
        raise ValueError(
            f"mask has shape {mask_shape}; it must end in ({event_shape[0]},), one entry for each step, or in the "
            f"event shape {event_shape}"
        )
    return tuple(mask_shape[:axis])


def check_lengths(lengths, num_steps):
    """Raise unless every concrete length is an integer from 1 to ``num_steps``."""
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths must be integers, not {lengths.dtype}")
    if is_concrete(lengths):
        wrong = (np.asarray(lengths) < 1) | (np.asarray(lengths) > num_steps)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"lengths is {np.asarray(lengths)[index]} at index {index}; each must be from 1 to num_steps = "
                f"{num_steps}"
            )


def _join(name, batch, others):
    try:
        return lax.broadcast_shapes(batch, others)
    except ValueError:
        raise ValueError(
            f"{name} has batch shape {batch}, which does not fit {others} of the other arguments"
        ) from None
