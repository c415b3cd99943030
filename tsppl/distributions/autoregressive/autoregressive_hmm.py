"""The autoregressive hidden Markov model as a distribution over the observed series."""

import jax.numpy as jnp
from numpyro.distributions import MultivariateNormal

from tsppl.distributions.autoregressive.dense_weights import check_weights
from tsppl.distributions.autoregressive.switching_autoregression import SwitchingAutoregression
from tsppl.distributions.gaussians import gaussian_parameters
from tsppl.distributions.shapes import check_time_varying
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.autoregressive.conditional_means import gaussian_log_likelihoods


class AutoregressiveHMM(SwitchingAutoregression):
    """An autoregressive series whose weights and noise a hidden Markov state chooses; the states are summed out.

    ``y_t = sum_l weights[z_t, l] @ y[t-1-l] + noise[z_t]`` (Hamilton 1990 in intercept form; Fox et al. 2011). In the
    intercept form the noise's location is added after the regression; Hamilton's (1989) deviations from the mean of the
    regime are another model, :class:`MeanSwitchingAutoregression`.

    A step whose value or any of whose lags is missing is not scored. With steps missing inside a series the density is
    therefore that of the scored steps given their lags, not the marginal density of what was observed.

    Args:
        initial_probs: probabilities of the first state, ``(..., K)``.
        transition_probs: ``(..., K, K)``, or ``(..., T-1, K, K)``: row ``t`` moves ``z_t`` to ``z_{t+1}``.
        weights: ``(..., K, L, N, N)``; ``weights[k, l]`` multiplies ``y[t-1-l]``, so index 0 is lag 1. ``(..., K,
            L)`` for a scalar series. If they vary in time ``(..., T, K, L, N, N)``: row ``t`` belongs to step ``t``,
            and the rows of steps that are not scored are not used.
        noise: distribution with batch ``(..., K)``, ``(..., 1)`` or ``()`` and event ``(N,)``, or ``()`` for a scalar
            series; its location is the bias. MultivariateNormal, or ``StudentT(...).to_event(1)`` for a robust one.
            If it varies in time, batch ``(..., T, K)``.
        num_steps: number of steps ``T``, the first ``L`` included.
        initial: None: density of the steps after the first ``num_conditioned`` given these, the chain starting at step
            ``num_conditioned``; then ``sample`` raises. A distribution with event ``(L, N)``, or ``(N,)`` when ``L =
            1`` (without ``N`` for a scalar series) and batch ``(..., K)``, ``(..., 1)`` or ``()``: joint density of
            all ``T`` steps, the chain starting at step ``L - 1``, whose state chooses the distribution of the first
            ``L`` steps.
        num_conditioned: number of first steps that are conditioned on when ``initial`` is None; ``L`` by default. Give
            models of several orders the same number to compare them.
        initial_logits, transition_logits: alternatives to the probabilities.
        time_varying: names of the arguments that carry a time axis, of ``("transition_probs", "weights", "noise")``.
        mask: True = observed, ``(..., T)`` or ``(..., T, N)``.
        lengths: int ``(...,)``, where series end before ``T``.
        known_states: int ``(..., T)``, the state where it was observed and -1 where not; ``log_prob`` is then the density
            of the series and the known states together, and all answers are given them. Steps before the chain starts
            have no state, and their labels are not used.
        method: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"parallel"``: how states are summed out, exactly by all.

    Raises:
        ValueError: on shapes that do not fit, or ``num_conditioned`` outside ``L..T-1``.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> weights = jnp.array([[0.9], [-0.5]])
    >>> model = tsd.AutoregressiveHMM(
    ...     jnp.full(2, 0.5), jnp.full((2, 2), 0.5), weights, dist.Normal(0.0, jnp.array([0.1, 0.1])), num_steps=4
    ... )
    >>> model.latent_mode(jnp.array([1.0, 0.9, 0.8, -0.4]))["states"].tolist()
    [-1, 0, 0, 1]
    """

    pytree_data_fields = ("weights",)

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        weights=None,
        noise=None,
        *,
        num_steps,
        initial=None,
        num_conditioned=None,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        mask=None,
        lengths=None,
        known_states=None,
        method="auto",
        validate_args=None,
    ):
        self.weights, self.noise = jnp.asarray(weights), as_distribution("noise", noise)
        self.initial = None if initial is None else as_distribution("initial", initial)
        time_varying = check_time_varying(
            "AutoregressiveHMM", time_varying, ("transition_probs", "transition_logits", "weights", "noise")
        )
        num_states, batches, rows, varying = self._store_chain(
            initial_probs, transition_probs, initial_logits, transition_logits, num_steps, time_varying
        )
        step_shape = self.noise.event_shape
        steps = {"num_steps": num_steps, "time_varying": varying}
        batches["weights"], num_lags = check_weights(self.weights, step_shape, num_states, **steps)
        rows["weights"] = num_steps
        lags = ("weights", num_lags)
        batch = self._store_autoregression(num_states, batches, rows, lags, num_conditioned, known_states, **steps)
        self._initialize(
            batch, step_shape, mask=mask, lengths=lengths, method=method, validate_args=validate_args, **steps
        )
        self._warn_if_nothing_is_scored()

    @property
    def lag_weights(self):
        """As in the base class: the weights, as matrices."""
        return self.weights if self.event_dim == 2 else self.weights[..., None, None]

    def _step_log_likelihoods(self, value, entries):
        elementwise = entries is not None and self.observed_mask is not None
        constant = not (self.weights_vary or self.noise_varies)
        if not (isinstance(self.noise, MultivariateNormal) and constant) or elementwise:
            return super()._step_log_likelihoods(value, entries)
        loc, scale_tril = gaussian_parameters(self.noise)
        if not self.noise.batch_shape:
            loc, scale_tril = loc[None], scale_tril[None]
        states = (self.num_states,)
        weights, loc, scale_tril = (
            jnp.broadcast_to(array, array.shape[:-core] + states + array.shape[1 - core :])
            for array, core in ((self.weights, 4), (loc, 2), (scale_tril, 3))
        )
        return jnp.vectorize(gaussian_log_likelihoods, signature="(k,l,n,n),(k,n),(k,n,n),(t,n)->(t,k)")(
            weights, loc, scale_tril, value
        )
