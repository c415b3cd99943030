"""The linear-Gaussian state-space model: a distribution over the observed series, trajectory integrated out."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import random
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from tsppl.distributions.gaussians import check_scales, gaussian_parameters
from tsppl.distributions.linear_gaussian.dynamics import (
    Dynamics,
    Names,
    as_steps,
    check_dynamics,
    read_dynamics,
    with_common_dtype,
)
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import (
    broadcast_batches,
    broadcast_to_batch,
    check_given,
    check_time_varying,
    parameter_batch,
    split_keys,
)
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.linear_gaussian.chain import chain_gaussians, simulate_chain
from tsppl.messages.linear_gaussian.filter import kalman_filter
from tsppl.messages.linear_gaussian.likelihood import kalman_log_likelihood
from tsppl.messages.linear_gaussian.roots import lower_root
from tsppl.messages.linear_gaussian.smoother import (
    complete_observations,
    kalman_left_out,
    kalman_smoother,
    posterior_chain,
    sample_trajectory,
    simulate_observations,
)
from tsppl.messages.linear_gaussian.steps import AffineGaussian, each_step, predict
from tsppl.messages.methods import LINEAR_GAUSSIAN_METHODS

_NAMES = Names("transition_matrix", "transition_noise")
_VARYING = ("transition_matrix", "transition_noise", "noise_matrix", "emission_matrix", "emission_noise")


class PosteriorChain(NamedTuple):
    """The posterior of a trajectory: marginals, and the chain ``x_{t+1} = weights_t x_t + ... + kernel_root_t w``.

    Each field has the batch of the data in front.
    """

    means: Float[Array, "*batch T D"]
    roots: Float[Array, "*batch T D D"]
    weights: Float[Array, "*batch S D D"]
    kernel_roots: Float[Array, "*batch S D R"]


class LinearGaussianSSM(SequenceDistribution):
    """Noisy linear observations of a trajectory with linear dynamics (Kalman 1960); the trajectory is integrated out.

    ``x_{t+1} = transition_matrix @ x_t + transition_noise`` and ``y_t = emission_matrix @ x_t + emission_noise``. The
    locations of the noises are biases: regressors enter as a time-varying location. Fix the scale of the transition
    noise and leave the emission matrix free: their product is identified, each is not.

    Args:
        initial: Gaussian distribution of ``x_0``, event ``(D,)``: ``MultivariateNormal`` or
            ``Normal(...).to_event(1)``.
        transition_matrix: ``(..., D, D)``.
        transition_noise: Gaussian distribution, event ``(D,)``.
        emission_matrix: ``(..., N, D)``; ``(..., D)`` for a scalar series.
        emission_noise: Gaussian distribution, event ``(N,)``; a plain ``Normal`` for a scalar series, event ``(T,)``.
        num_steps: number of steps ``T``.
        noise_matrix: ``G`` of shape ``(..., D, R)``; the transition noise then has event ``(R,)``, and the trajectory
            moves by ``x_{t+1} = A x_t + G w_t``: seasonals, companion forms, lags of factors. Exact for any ``R``.
        time_varying: names of the arguments that carry a time axis: ``"transition_matrix"``, ``"transition_noise"`` and
            ``"noise_matrix"`` one of ``T - 1`` rows (row ``t`` moves ``x_t`` to ``x_{t+1}``), ``"emission_matrix"`` and
            ``"emission_noise"`` one of ``T`` rows.
        mask: True = observed. ``(..., T)``, or ``(..., T, N)`` for entries missing on their own. Masked entries may
            hold anything.
        lengths: int ``(...,)``, number of steps of each series, where they end before ``T``.
        method: ``"auto"``, ``"sequential"``, ``"steady"`` (covariances taken as constant once they are, where nothing but
            locations varies in time and nothing is missing) or ``"parallel"``.

    Raises:
        ValueError: on shapes that do not fit, noise of scale zero, lengths outside ``1..T``.
        TypeError: if ``initial`` or a noise is not Gaussian.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> level = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    >>> walk = tsd.LinearGaussianSSM(level, jnp.eye(1), level, jnp.ones(1), dist.Normal(0.0, 1.0), num_steps=3)
    >>> walk.latent_marginals(jnp.ones(3), given="past")["trajectory_mean"][:, 0].round(3).tolist()
    [0.5, 0.8, 0.923]
    """

    arg_constraints = {}
    known_methods = LINEAR_GAUSSIAN_METHODS
    pytree_data_fields = (
        "initial",
        "transition_matrix",
        "transition_noise",
        "emission_matrix",
        "emission_noise",
        "noise_matrix",
    )

    def __init__(
        self,
        initial,
        transition_matrix,
        transition_noise,
        emission_matrix,
        emission_noise,
        *,
        num_steps,
        noise_matrix=None,
        time_varying=(),
        mask=None,
        lengths=None,
        method="auto",
        validate_args=None,
    ):
        self.initial = as_distribution("initial", initial)
        self.transition_matrix = jnp.asarray(transition_matrix)
        self.transition_noise = as_distribution("transition_noise", transition_noise)
        self.noise_matrix = None if noise_matrix is None else jnp.asarray(noise_matrix)
        self.emission_matrix = jnp.asarray(emission_matrix)
        self.emission_noise = as_distribution("emission_noise", emission_noise)
        time_varying = check_time_varying("LinearGaussianSSM", time_varying, _VARYING)
        batches = check_dynamics(
            self.initial,
            self.transition_matrix,
            self.transition_noise,
            self.noise_matrix,
            _NAMES,
            num_steps=num_steps,
            time_varying=time_varying,
        )
        rows = {name: num_steps - 1 for name in batches if name != "initial"}
        batches |= self._check_emission(num_steps, time_varying)
        rows |= {"emission_matrix": num_steps, "emission_noise": num_steps}
        self._initialize(
            broadcast_batches(batches, num_steps=num_steps, time_varying=time_varying, rows=rows),
            self.emission_noise.event_shape,
            num_steps=num_steps,
            time_varying=time_varying,
            method=method,
            mask=mask,
            lengths=lengths,
            validate_args=validate_args,
        )

    def _check_emission(self, num_steps, time_varying):
        event_shape, size = self.emission_noise.event_shape, self.initial.event_shape[0]
        check_scales("emission_noise", self.emission_noise, "every observation needs noise of its own")
        core = event_shape + (size,)
        if self.emission_matrix.shape[-len(core) :] != core:
            raise ValueError(
                f"emission_matrix has shape {self.emission_matrix.shape}, emission_noise has event shape {event_shape} "
                f"and initial has event shape {self.initial.event_shape}: emission_matrix must end in {core}"
            )
        common = {"num_steps": num_steps, "rows": num_steps, "time_varying": time_varying}
        return {
            "emission_matrix": parameter_batch("emission_matrix", self.emission_matrix.shape, core, **common),
            "emission_noise": parameter_batch("emission_noise", self.emission_noise.batch_shape, (), **common),
        }

    @constraints.dependent_property
    def support(self):
        """All real series."""
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def _scalar(self):
        return not self.emission_noise.event_shape

    def _vectorize(self, core, inputs, outputs, *arguments):
        """Run ``core(initial, dynamics, emission, *arguments)`` over the batch; signatures of arguments and results."""
        dynamics, signature = read_dynamics(
            self.initial,
            self.transition_matrix,
            self.transition_noise,
            self.noise_matrix,
            _NAMES,
            self.time_varying,
        )
        count = 5 if self.noise_matrix is None else 6
        matrix = self.emission_matrix[..., None, :] if self._scalar else self.emission_matrix
        matrix_axis, noise_axis = ("t," * (name in self.time_varying) for name in ("emission_matrix", "emission_noise"))
        signature += f",({matrix_axis}n,d),({noise_axis}n),({noise_axis}n,n),{inputs}->{outputs}"

        def on_arrays(*arrays):
            initial, steps = as_steps(Dynamics(*arrays[:count], *[None] * (6 - count)))
            return core(initial, steps, AffineGaussian(*arrays[count : count + 3]), *arrays[count + 3 :])

        arrays = with_common_dtype(*dynamics[:count], matrix, *gaussian_parameters(self.emission_noise), *arguments)
        return jnp.vectorize(on_arrays, signature=signature)(*arrays)

    def _given(self, core, value, outputs, key=None):
        """Run ``core(initial, dynamics, emission, values, observed)``, or with a key first, over the batch."""
        value, observed = self.as_channels(value)
        arguments, inputs = [value], "(t,n)"
        if observed is not None:
            arguments, inputs = [jnp.where(observed, value, 0), observed], "(t,n),(t,n)"
        if key is not None:
            keys = split_keys(key, jnp.broadcast_shapes(arguments[0].shape[:-2], self.batch_shape))
            return self._vectorize(lambda *a: core(a[3], *a[:3], *a[4:]), f"(),{inputs}", outputs, keys, *arguments)
        return self._vectorize(core, inputs, outputs, *arguments)

    def as_channels(self, value):
        """Value and observed entries with a last axis of channels, ``(..., T, N)``; None if all were observed.

        With :meth:`posterior_chain` and ``log_prob_steps`` this is what EM and starting points ask about the series
        together with its trajectory.
        """
        observed = self.observed_entries()
        if observed is not None:
            observed = jnp.broadcast_to(observed, jnp.broadcast_shapes(observed.shape, value.shape))
        if self._scalar:
            value, observed = value[..., None], None if observed is None else observed[..., None]
        return value, observed

    def scored_steps(self, value):
        """Steps with an observed entry: bool ``(..., T)``."""
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        shape = jnp.broadcast_shapes(lead, self.batch_shape) + (self.num_steps,)
        return jnp.broadcast_to(self.observed_steps(), shape)

    def log_prob(self, value, intermediates=None):
        """Log density of the observed entries, trajectory integrated out."""

        def core(*arguments):
            return kalman_log_likelihood(*arguments, method=self.method)

        return broadcast_to_batch(self._given(core, self.check_value(value), "()"), self.batch_shape, 0)

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)`` of the observed entries, zero where not scored; sums to ``log_prob(value)``."""

        def core(*arguments):
            return kalman_filter(*arguments, method=self.method).log_normalizers

        return self._score(core, value)

    def log_prob_left_out(self, value):
        """``log p(y_t | all other observations)`` of the observed entries, zero where not scored."""

        def core(*arguments):
            return kalman_left_out(*arguments, method=self.method)

        return self._score(core, value)

    def cdf_steps(self, value):
        """``P(Y_t <= y_t)`` of each channel given the steps before, twice, like ``value``; NaN where not observed."""

        def core(initial, dynamics, emission, values, observed=None):
            predicted = kalman_filter(initial, dynamics, emission, values, observed, method=self.method).predicted

            def standardise(step, predicted, value):
                expected = predict(predicted, step)
                return (value - expected.mean) / jnp.sqrt(jnp.square(expected.root).sum(-1))

            return each_step(standardise, emission, predicted, values)

        value = self.check_value(value)
        residuals = broadcast_to_batch(self._given(core, value, "(t,n)"), self.batch_shape, 2)
        probs = ndtr(residuals[..., 0] if self._scalar else residuals)
        observed = self.observed_entries()
        probs = probs if observed is None else jnp.where(observed, probs, jnp.nan)
        return probs, probs

    def _score(self, core, value):
        value = self.check_value(value)
        terms = broadcast_to_batch(self._given(core, value, "(t)"), self.batch_shape, 1)
        return jnp.where(self.scored_steps(value), terms, 0)

    def posterior_chain(self, value):
        """The trajectory given all the data as a Markov chain, with roots of its covariances: :class:`PosteriorChain`."""

        def core(initial, dynamics, emission, values, observed=None):
            centre, chain = posterior_chain(initial, dynamics, emission, values, observed, self.method)
            marginals = chain_gaussians(chain.initial, chain.dynamics, values.shape[0], method=self.method)
            return centre + marginals.mean, marginals.root, chain.dynamics.weights, chain.dynamics.root

        results = self._given(core, self.check_value(value), "(t,d),(t,d,d),(s,d,d),(s,d,m)")
        return PosteriorChain(*broadcast_to_batch(results, self.batch_shape, (2, 3, 3, 3)))

    def sample_latents(self, key, value):
        """Draw the trajectory given the data: ``{"trajectory": (..., T, D)}``."""

        def core(*arguments):
            return sample_trajectory(*arguments, method=self.method)

        return {"trajectory": self._given(core, self.check_value(value), "(t,d)", key=key)}

    def latent_marginals(self, value, given="all"):
        """The trajectory given all the data, or given the data up to each step (``given="past"``).

        Returns ``{"trajectory_mean": (..., T, D), "trajectory_scale_tril": (..., T, D, D)}``.
        """
        check_given(given)

        def core(*arguments):
            if given == "past":
                mean, root = kalman_filter(*arguments, method=self.method).filtered
                return mean, lower_root(root, mean.shape[-1])
            marginals = kalman_smoother(*arguments, method=self.method)
            return marginals.means, marginals.scale_trils

        results = self._given(core, self.check_value(value), "(t,d),(t,d,d)")
        mean, scale_tril = broadcast_to_batch(results, self.batch_shape, (2, 3))
        return {"trajectory_mean": mean, "trajectory_scale_tril": scale_tril}

    def latent_mode(self, value):
        """The most likely trajectory, which is its smoothed mean: ``{"trajectory": (..., T, D)}``."""
        return {"trajectory": self.latent_marginals(value)["trajectory_mean"]}

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(value, {"trajectory": ...})`` together."""

        def core(initial, dynamics, emission, key):
            trajectory_key, emission_key = random.split(key)
            trajectory = simulate_chain(trajectory_key, initial, dynamics, self.num_steps, method=self.method)
            return simulate_observations(emission_key, emission, trajectory), trajectory

        keys = split_keys(key, tuple(sample_shape) + self.batch_shape)
        value, trajectory = self._vectorize(core, "()", "(t,n),(t,d)", keys)
        return value[..., 0] if self._scalar else value, {"trajectory": trajectory}

    def _completion(self, key, value):
        def core(key, initial, dynamics, emission, values, observed=None):
            trajectory_key, emission_key = random.split(key)
            arguments = (initial, dynamics, emission, values, observed)
            trajectory = sample_trajectory(trajectory_key, *arguments, method=self.method)
            if observed is None:
                return values, trajectory
            return complete_observations(emission_key, emission, trajectory, values, observed), trajectory

        completed, trajectory = self._given(core, value, "(t,n),(t,d)", key=key)
        completed = completed[..., 0] if self._scalar else completed
        observed = self.observed_entries()
        if observed is not None:
            completed = jnp.where(observed, value, completed)
        return completed.astype(value.dtype), {"trajectory": trajectory}
