"""A Gaussian Markov chain over a trajectory: prior of a linear dynamical system, structured posterior, guide."""

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import MultivariateNormal, constraints

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
    check_time_varying,
    is_concrete,
    split_keys,
)
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.linear_gaussian.chain import (
    Marginals,
    chain_entropy,
    chain_left_out,
    chain_log_prob_steps,
    chain_marginals,
    simulate_chain,
)
from tsppl.messages.linear_gaussian.information import InformationMatrix
from tsppl.messages.linear_gaussian.roots import lower_root
from tsppl.messages.linear_gaussian.smoother import tilt_chain
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian, each_step, tilt
from tsppl.messages.methods import LINEAR_GAUSSIAN_METHODS

_NAMES = Names("weights", "noise")


class LinearGaussianChain(SequenceDistribution):
    """A Gaussian Markov chain over a trajectory: ``x_{t+1} = weights @ x_t + noise``.

    A latent site: a linear dynamical system with any emission, ``x = sample("x", LinearGaussianChain(...))`` and then
    ``sample("y", Poisson(jnp.exp(x @ C.T)).to_event(2), obs=y)``; also a structured posterior and a guide. It is
    latent, so there is no mask and there are no lengths: mask the emission. Fix the scale of the noise and leave the
    emission matrix free. For a Gaussian emission, :class:`~tsppl.distributions.LinearGaussianSSM` integrates the
    trajectory out.

    Draws are differentiable functions of the parameters. The Kullback-Leibler divergence from another chain is
    registered with NumPyro, so that ``TraceMeanField_ELBO`` uses its closed form.

    Args:
        initial: Gaussian distribution of ``x_0``, event ``(D,)``: ``MultivariateNormal`` or
            ``Normal(...).to_event(1)``.
        weights: dynamics matrix ``(..., D, D)``.
        noise: Gaussian distribution, event ``(D,)``; its location is the bias, through which inputs enter.
        num_steps: number of steps ``T``.
        noise_matrix: ``G`` of shape ``(..., D, R)``; the noise then has event ``(R,)``, and the trajectory moves by
            ``x_{t+1} = A x_t + G w_t``. Where ``R < D`` it can be drawn, conditioned and forecast, but has no density.
        time_varying: names of the arguments that carry a time axis of ``T - 1`` rows, of
            ``("weights", "noise", "noise_matrix")``: row ``t`` moves ``x_t`` to ``x_{t+1}``.
        method: ``"auto"``, ``"sequential"`` or ``"parallel"``.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``initial`` or ``noise`` is not Gaussian.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> unit = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    >>> walk = tsd.LinearGaussianChain(unit, jnp.eye(1), unit, num_steps=4)
    >>> (walk.marginals().scale_trils[:, 0, 0] ** 2).round(4).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    has_rsample = True
    arg_constraints = {}
    support = constraints.real_matrix
    known_methods = LINEAR_GAUSSIAN_METHODS
    pytree_data_fields = ("initial", "weights", "noise", "noise_matrix")

    def __init__(
        self,
        initial,
        weights,
        noise,
        *,
        num_steps,
        noise_matrix=None,
        time_varying=(),
        method="auto",
        validate_args=None,
    ):
        self.initial, self.noise = as_distribution("initial", initial), as_distribution("noise", noise)
        self.weights = jnp.asarray(weights)
        self.noise_matrix = None if noise_matrix is None else jnp.asarray(noise_matrix)
        time_varying = check_time_varying("LinearGaussianChain", time_varying, ("weights", "noise", "noise_matrix"))
        batches = check_dynamics(
            self.initial,
            self.weights,
            self.noise,
            self.noise_matrix,
            _NAMES,
            num_steps=num_steps,
            time_varying=time_varying,
        )
        rows = {name: num_steps - 1 for name in batches if name != "initial"}
        batch = broadcast_batches(batches, num_steps=num_steps, time_varying=time_varying, rows=rows)
        self._initialize(
            batch,
            self.initial.event_shape,
            num_steps=num_steps,
            time_varying=time_varying,
            method=method,
            validate_args=validate_args,
        )

    def _on_arrays(self, core, inputs, outputs, *arguments):
        """Run ``core(Dynamics, *arguments)`` over the batch; signatures of the arguments and of the results."""
        dynamics, signature = self._read()
        count = len(dynamics)

        def on_dynamics(*arrays):
            return core(Dynamics(*arrays[:count], *[None] * (6 - count)), *arrays[count:])

        signature = f"{signature},{inputs}->{outputs}" if inputs else f"{signature}->{outputs}"
        return jnp.vectorize(on_dynamics, signature=signature)(*with_common_dtype(*dynamics, *arguments))

    def _read(self):
        arrays, signature = read_dynamics(
            self.initial, self.weights, self.noise, self.noise_matrix, _NAMES, self.time_varying
        )
        return with_common_dtype(*(array for array in arrays if array is not None)), signature

    def _vectorize(self, core, inputs, outputs, *arguments):
        """Run ``core(initial, steps, *arguments)`` over the batch."""
        return self._on_arrays(lambda dynamics, *rest: core(*as_steps(dynamics), *rest), inputs, outputs, *arguments)

    def _density_arrays(self):
        """Mean and Cholesky factor of ``x_0``, weights, bias and Cholesky factor of the steps, and their signature.

        Raises:
            NotImplementedError: if the noise has fewer dimensions than the trajectory.
        """
        (size,), (width,) = self.initial.event_shape, self.noise.event_shape
        if width < size:
            raise NotImplementedError(
                f"noise_matrix has shape {self.noise_matrix.shape}: with noise of dimension {width} < {size} the "
                "trajectory has no density. Draw it, condition it, or integrate it out with LinearGaussianSSM"
            )

        def core(dynamics):
            initial, steps = as_steps(dynamics)
            return *initial, steps.weights, steps.bias, lower_root(steps.root, size)

        if self.noise_matrix is None:
            arrays, signature = self._read()
            return arrays, signature.replace("r", "d")
        axis = "s," * ("noise" in self.time_varying or "noise_matrix" in self.time_varying)
        weights_axis = "s," * ("weights" in self.time_varying)
        signature = f"(d),(d,d),({weights_axis}d,d),({axis}d),({axis}d,d)"
        return self._on_arrays(core, "", signature), signature

    def _on_density(self, core, inputs, outputs, *arguments):
        """Run ``core(initial, steps, *arguments)``, the noise given by a Cholesky factor, over the batch."""
        arrays, signature = self._density_arrays()

        def on_arrays(*arrays):
            return core(Gaussian(*arrays[:2]), AffineGaussian(*arrays[2:5]), *arrays[5:])

        signature = f"{signature},{inputs}->{outputs}" if inputs else f"{signature}->{outputs}"
        return jnp.vectorize(on_arrays, signature=signature)(*with_common_dtype(*arrays, *arguments))

    def scored_steps(self, value):
        """All steps: bool ``(..., T)``."""
        return jnp.ones(jnp.broadcast_shapes(jnp.shape(value)[:-2], self.batch_shape) + (self.num_steps,), bool)

    def log_prob(self, value, intermediates=None):
        """Log density of the trajectory."""
        return self.log_prob_steps(value).sum(-1)

    def log_prob_steps(self, value):
        """``log p(x_t | x_{t-1})``."""
        terms = self._on_density(chain_log_prob_steps, "(t,d)", "(t)", self.check_value(value))
        return broadcast_to_batch(terms, self.batch_shape, 1)

    def log_prob_left_out(self, value):
        """``log p(x_t | all other steps)``."""
        terms = self._on_density(chain_left_out, "(t,d)", "(t)", self.check_value(value))
        return broadcast_to_batch(terms, self.batch_shape, 1)

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(trajectory, {})``."""

        def core(initial, steps, key):
            return simulate_chain(key, initial, steps, self.num_steps, method=self.method)

        keys = split_keys(key, tuple(sample_shape) + self.batch_shape)
        return self._vectorize(core, "()", "(t,d)", keys), {}

    def sample_latents(self, key, value):
        """Not available: the trajectory is itself the value."""
        raise NotImplementedError("a LinearGaussianChain hides nothing: its value is the trajectory. See marginals()")

    def latent_marginals(self, value, given="all"):
        """Not available: the trajectory is itself the value."""
        raise NotImplementedError("a LinearGaussianChain hides nothing: its value is the trajectory. See marginals()")

    def latent_mode(self, value):
        """Not available: the trajectory is itself the value."""
        raise NotImplementedError("a LinearGaussianChain hides nothing: its value is the trajectory. See marginals()")

    def _completion(self, key, value):
        if self.lengths is None:
            return value, {}

        def core(initial, steps, key, value, known):
            return simulate_chain(key, initial, steps, self.num_steps, values=value, known=known, method=self.method)

        known = jnp.arange(self.num_steps) < self.lengths[..., None]
        keys = split_keys(key, jnp.broadcast_shapes(value.shape[:-2], self.batch_shape))
        return self._vectorize(core, "(),(t,d),(t)", "(t,d)", keys, value, known), {}

    def marginals(self) -> Marginals:
        """Means ``(..., T, D)``, Cholesky factors ``(..., T, D, D)``, ``Cov(x_{t+1}, x_t)`` ``(..., T-1, D, D)``."""

        def core(initial, steps):
            return tuple(chain_marginals(initial, steps, self.num_steps, method=self.method))

        marginals = self._vectorize(core, "", "(t,d),(t,d,d),(u,d,d)")
        return broadcast_to_batch(Marginals(*marginals), self.batch_shape, Marginals(2, 3, 3))

    def entropy(self):
        """Differential entropy of the whole trajectory, in nats."""

        def core(initial, steps):
            return chain_entropy(initial, steps, self.num_steps)

        return broadcast_to_batch(self._on_density(core, "", "()"), self.batch_shape, 0)

    def condition(self, J, h):
        """Multiply by the potentials ``exp(-x_t' J_t x_t / 2 + h_t' x_t)`` and renormalise.

        A Gaussian likelihood is such a potential, and so is what a recognition network says about a step. ``J = 0`` is
        exact: a step about which nothing is known.

        Args:
            J: precisions, ``(..., T, D)`` for diagonal ones (as many axes as ``h``) or ``(..., T, D, D)``; positive
                semidefinite, in units of one over the trajectory squared.
            h: ``(..., T, D)``, precision times location.

        Returns:
            ``(chain, log_normalizer)``: a :class:`LinearGaussianChain` that varies in time, and the logarithm of the
            mean of the product of the potentials under this chain, ``(...)``.

        Raises:
            ValueError: on shapes that do not fit, or precisions that are not positive semidefinite.
        """
        J, h = jnp.asarray(J), jnp.asarray(h)
        size = self.event_shape[1]
        if h.shape[-2:] != self.event_shape:
            raise ValueError(f"h has shape {h.shape}; it must end in the event shape {self.event_shape}")
        if J.ndim == h.ndim and J.shape[-2:] == self.event_shape:
            J = J[..., None] * jnp.eye(size, dtype=J.dtype)
        elif J.ndim != h.ndim + 1 or J.shape[-3:] != self.event_shape + (size,):
            raise ValueError(
                f"J has shape {J.shape} and h has shape {h.shape}: J must end in {self.event_shape} for diagonal "
                f"precisions, with as many axes as h, or in {self.event_shape + (size,)}, with one axis more"
            )

        def core(dynamics, J, h):
            tilted = tilt_chain(*as_steps(dynamics), InformationMatrix(J, h), method=self.method)
            noise = Gaussian(tilted.dynamics.bias, tilted.dynamics.root)
            if dynamics.noise_matrix is not None:
                driving = AffineGaussian(dynamics.noise_matrix, dynamics.noise_loc, dynamics.noise_root)
                noise = each_step(_tilt_driving_noise, driving, tilted.arrivals)
            start = tilted.initial
            noise_root = lower_root(noise.root, noise.root.shape[-1])
            laws = (start.mean, lower_root(start.root, size), tilted.dynamics.weights, noise.mean, noise_root)
            return *laws, tilted.log_normalizer

        results = self._on_arrays(core, "(t,d,d),(t,d)", "(d),(d,d),(u,d,d),(u,r),(u,r,r),()", J, h)
        mean, root, weights, noise_loc, noise_root, log_normalizer = results
        if is_concrete(log_normalizer) and np.isnan(np.asarray(log_normalizer)).any():
            raise ValueError("the log normalizer is NaN: J must be positive semidefinite, and J and h free of NaN")
        chain = LinearGaussianChain(
            MultivariateNormal(mean, scale_tril=root, validate_args=False),
            weights,
            MultivariateNormal(noise_loc, scale_tril=noise_root, validate_args=False),
            num_steps=self.num_steps,
            noise_matrix=self.noise_matrix,
            time_varying=("weights", "noise") + ("noise_matrix",) * ("noise_matrix" in self.time_varying),
            method=self.method,
        )
        log_normalizer = broadcast_to_batch(log_normalizer, self.batch_shape, 0)
        return chain.expand(log_normalizer.shape), log_normalizer


def _tilt_driving_noise(step, arrival):
    """``w`` given information about ``x' = G w``, in the coordinates of ``w``."""
    return tilt(Gaussian(step.bias, step.root), arrival.pull_back(step.weights))[0]
