"""The switching autoregressive low-rank tensor model as a distribution over the observed series."""

import jax.numpy as jnp
from numpyro.distributions import MultivariateNormal

from tsppl.distributions.autoregressive.steady_predictor import (
    bias_of_predictor,
    factors_of_predictor,
    steady_predictor,
)
from tsppl.distributions.autoregressive.switching_autoregression import SwitchingAutoregression
from tsppl.distributions.shapes import check_time_varying, parameter_batch
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.autoregressive.low_rank import dense_weights, low_rank_means


class SALT(SwitchingAutoregression):
    """An autoregressive hidden Markov model whose weights are a low-rank tensor; the states are summed out.

    ``y_t = sum_l weights[z_t, l] @ y[t-1-l] + noise[z_t]`` with ``weights[k, l, i, j] = sum_def core[k, d, e, f]
    output_factors[k, i, d] input_factors[k, j, e] lag_factors[k, l, f]`` (Tucker), or with ``core=None`` the sum over
    ``d = e = f`` alone (CP). Everything else is as in :class:`AutoregressiveHMM`, missing lags included; the means are
    computed through the factors, so that long lags and many channels stay cheap (Lee, Warrington, Glaser and Linderman
    2023).

    Only the weights are identified, not the factors: invertible maps of the factors (Tucker), or their order and scale
    (CP), leave the weights as they are.

    Args:
        initial_probs: probabilities of the first state, ``(..., K)``.
        transition_probs: ``(..., K, K)``, or ``(..., T-1, K, K)``: row ``t`` moves ``z_t`` to ``z_{t+1}``.
        output_factors: ``(..., K, N, D1)``. Here and below a state axis of 1 instead of ``K`` shares the factor between
            states: one output subspace for all, say.
        input_factors: ``(..., K, N, D2)``.
        lag_factors: ``(..., K, L, D3)``; index 0 is lag 1.
        noise: distribution with batch ``(..., K)``, ``(..., 1)`` or ``()`` and event ``(N,)``; its location is the bias.
            MultivariateNormal, or ``StudentT(...).to_event(1)`` for a robust one. If it varies in time, batch ``(..., T,
            K)``.
        num_steps: number of steps ``T``, the first ``L`` included.
        core: ``(..., K, D1, D2, D3)`` for Tucker; None for CP, and then ``D1 = D2 = D3``.
        initial: None: density of the steps after the first ``num_conditioned`` given these; then ``sample`` raises. A
            distribution with event ``(L, N)``, or ``(N,)`` when ``L = 1``, and batch ``(..., K)``, ``(..., 1)`` or
            ``()``: joint density of all ``T`` steps.
        num_conditioned: number of first steps that are conditioned on when ``initial`` is None; ``L`` by default. Give
            models of several orders the same number to compare them.
        initial_logits, transition_logits: alternatives to the probabilities.
        time_varying: names of the arguments that carry a time axis, of ``("transition_probs", "noise")``.
        mask: True = observed, ``(..., T)`` or ``(..., T, N)``.
        lengths: int ``(...,)``, where series end before ``T``.
        known_states: int ``(..., T)``, the state where it was observed and -1 where not; ``log_prob`` is then the density
            of the series and the known states together, and all answers are given them. Steps before the chain starts
            have no state, and their labels are not used.
        method: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"parallel"``: how states are summed out, exactly by all.

    Raises:
        ValueError: on shapes that do not fit, unequal ranks without a core, or ``num_conditioned`` outside ``L..T-1``.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> channels, lags = jnp.ones((2, 3, 1)), jnp.array([[[0.2], [0.1]], [[-0.2], [-0.1]]])
    >>> noise = dist.Normal(jnp.zeros(3), 0.1).to_event(1)
    >>> model = tsd.SALT(jnp.full(2, 0.5), jnp.full((2, 2), 0.5), channels, channels, lags, noise, num_steps=4)
    >>> model.latent_mode(jnp.array([[1.0], [0.9], [0.8], [-0.7]]) * jnp.ones(3))["states"].tolist()
    [-1, -1, 0, 1]
    """

    pytree_data_fields = ("output_factors", "input_factors", "lag_factors", "core")

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        output_factors=None,
        input_factors=None,
        lag_factors=None,
        noise=None,
        *,
        num_steps,
        core=None,
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
        self.output_factors, self.input_factors = jnp.asarray(output_factors), jnp.asarray(input_factors)
        self.lag_factors, self.core = jnp.asarray(lag_factors), None if core is None else jnp.asarray(core)
        self.noise = as_distribution("noise", noise)
        self.initial = None if initial is None else as_distribution("initial", initial)
        time_varying = check_time_varying("SALT", time_varying, ("transition_probs", "transition_logits", "noise"))
        num_states, batches, rows, varying = self._store_chain(
            initial_probs, transition_probs, initial_logits, transition_logits, num_steps, time_varying
        )
        step_shape = self.noise.event_shape
        if len(step_shape) != 1:
            raise ValueError(
                f"noise has event shape {step_shape}; it must be (N,): for a scalar series give it one channel by "
                ".to_event(1), or use AutoregressiveHMM"
            )
        batches |= self._check_factors(num_states, step_shape[0], num_steps)
        lags, steps = ("lag_factors", self.num_lags), {"num_steps": num_steps, "time_varying": varying}
        batch = self._store_autoregression(num_states, batches, rows, lags, num_conditioned, known_states, **steps)
        self._initialize(
            batch, step_shape, mask=mask, lengths=lengths, method=method, validate_args=validate_args, **steps
        )
        self._warn_if_nothing_is_scored()

    def _check_factors(self, num_states, size, num_steps):
        """Check the factors against the noise and each other; returns ``name -> batch shape``."""
        factors = {
            "output_factors": (self.output_factors, (size, None)),
            "input_factors": (self.input_factors, (size, None)),
            "lag_factors": (self.lag_factors, (None, None)),
        }
        ranks = tuple(factor.shape[-1] if factor.ndim else 0 for factor, _ in factors.values())
        if self.core is not None:
            factors["core"] = (self.core, ranks)
        batches = {}
        for name, (factor, tail) in factors.items():
            states = factor.shape[-1 - len(tail)] if factor.ndim > len(tail) else num_states
            wanted = (1 if states == 1 else num_states,) + tail
            batches[name] = parameter_batch(name, factor.shape, wanted, num_steps=num_steps)
        if self.core is None and len(set(ranks)) > 1:
            raise ValueError(
                f"output_factors, input_factors and lag_factors have ranks {ranks}, and without a core (CP) they must be "
                f"equal: give all the same number of columns, or pass core of shape (..., {num_states}, "
                f"{', '.join(map(str, ranks))}) for Tucker"
            )
        return batches

    @classmethod
    def from_linear_gaussian(cls, ssm, num_lags):
        """The steady-state Kalman predictor of a linear-Gaussian model, as a model with one state and Tucker weights.

        ``weights[0, l] = C Gamma^l A K`` with the gain ``K`` of the settled filter and ``Gamma = A (I - K C)``; the noise is
        Gaussian with the covariance of the innovations. Earlier lags count as if the trajectory had been at its mean.
        :func:`low_rank_report` says what leaving them out costs.

        Args:
            ssm: :class:`LinearGaussianSSM` in which nothing varies in time; its mask and lengths are kept.
            num_lags: number of lags ``L``.

        Returns:
            :class:`SALT` of ranks ``(D, D, min(D, L))``.

        Raises:
            ValueError: if an argument varies in time, is traced, if the series is scalar, or if the filter never settles:
                parts of the trajectory that do not die out are not observed, or are not driven by noise.

        Source: Lee, Warrington, Glaser and Linderman (NeurIPS 2023), on linear dynamical systems.

        >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
        >>> level = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
        >>> walk = tsd.LinearGaussianSSM(level, jnp.eye(1), level, jnp.ones((1, 1)), level, num_steps=50)
        >>> tsd.SALT.from_linear_gaussian(walk, 3).weights.ravel().round(3).tolist()
        [0.618, 0.236, 0.09]
        """
        predictor = steady_predictor(ssm)
        dtype = jnp.result_type(ssm.transition_matrix, ssm.emission_matrix, float)
        factors = [jnp.asarray(factor, dtype) for factor in factors_of_predictor(predictor, num_lags)]
        bias, covariance = bias_of_predictor(predictor, num_lags), predictor.covariance
        noise = MultivariateNormal(
            jnp.asarray(bias[..., None, :], dtype), jnp.asarray(covariance[..., None, :, :], dtype)
        )
        return cls(
            jnp.ones(1, dtype),
            jnp.ones((1, 1), dtype),
            *factors[:3],
            noise,
            num_steps=ssm.num_steps,
            core=factors[3],
            mask=ssm.observed_mask,
            lengths=ssm.lengths,
        )

    @property
    def num_lags(self):
        """Number of lags ``L``."""
        return self.lag_factors.shape[-2]

    @property
    def weights(self):
        """The dense weights ``(..., K, L, N, N)``; the state axis is 1 if every factor is shared."""
        return self._through_factors(dense_weights, "->(k,l,n,n)")

    @property
    def lag_weights(self):
        """As in the base class: the dense weights."""
        return self.weights

    def _means(self, value):
        means = self._through_factors(low_rank_means, ",(t,n)->(t,k,n)", self._as_matrix(value))
        return jnp.broadcast_to(means, means.shape[:-2] + (self.num_states, means.shape[-1]))

    def _through_factors(self, core, signature, *arguments):
        """Run ``core(output_factors, input_factors, lag_factors, core, *arguments)`` over the batch."""
        factors = [self.output_factors, self.input_factors, self.lag_factors]
        factor_signature = "(a,n,d),(b,n,e),(c,l,f)"
        if self.core is None:
            function = lambda *arrays: core(*arrays[:3], None, *arrays[3:])  # noqa: E731
        else:
            function, factors, factor_signature = core, [*factors, self.core], factor_signature + ",(g,d,e,f)"
        return jnp.vectorize(function, signature=factor_signature + signature)(*factors, *arguments)
