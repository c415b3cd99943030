"""Trajectories of a nonlinear state-space model, as a transformation of independent noise."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from tsppl.distributions.recurrent.laws import as_tree, check_batch, first_series, over_series
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.recurrence.chunks import shift
from tsppl.recurrence.nonlinear import deer_scan
from tsppl.recurrence.solvers import check_solver

_NOTHING_HIDDEN = "a NonlinearDynamics hides nothing: its value is the trajectory"


class NonlinearDynamics(SequenceDistribution, dist.TransformedDistribution):
    """Law of ``x_1 .. x_T`` where ``x_t = transition(x_{t-1}, u_t) + scale * e_t`` with standard normal ``e_t``.

    ``log_prob`` needs no loop. A draw runs the recurrence by :func:`tsppl.recurrence.deer_scan`, and so does a model in
    which the noise is the parameter, which NUTS explores far better wherever the data say little about a single
    state: ask for it with ``numpyro.handlers.reparam(model, config={"x": TransformReparam()})``. Then ``"x_base"`` is the
    noise, ``(T, D)``, and ``"x"`` a deterministic site.

    Args:
        transition: mean of the next state, ``(state, input) -> state``, in units of the state; it may close over sampled
            values. ``input`` is None where there are no ``inputs``.
        initial: the state before the first step, ``(D,)``.
        scale: standard deviation of the noise of a step, a scalar, ``(D,)`` or ``(T, D)``.
        num_steps: ``T``.
        inputs: what is known and drives the states: a tree of arrays ``(T, ...)``, or None.
        batch_shape: of several series, each with its own parameters: ``initial``, ``inputs`` and what
            ``jax.tree_util.Partial(function, weights)`` binds to a ``transition`` then begin with these axes, or with
            axes of size one where the series share them, and ``scale`` may. What ``transition`` closes over is shared.
        solver: of :func:`tsppl.recurrence.deer_scan`.

    Raises:
        ValueError: if shapes do not fit together.

    The event shape is ``(T, D)``. It is latent, so there is no mask and there are no lengths: observe the states through
    any emission, e.g. ``numpyro.sample("y", dist.Poisson(jnp.exp(x @ weights)).to_event(2), obs=y)``, and mask that.

    Source of the parametrisation by noise: Papaspiliopoulos, Roberts and Skold (2007), A general framework for the
    parametrization of hierarchical models.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> dynamics = tsd.NonlinearDynamics(lambda x, u: jnp.tanh(x), jnp.zeros(2), 0.1, num_steps=50)
    >>> x = dynamics.sample(jax.random.key(0))
    >>> x.shape, dynamics.log_prob(x).shape
    ((50, 2), ())
    """

    has_rsample = True
    arg_constraints = {}
    support = constraints.real_matrix
    pytree_data_fields = ("transition", "initial", "scale", "inputs")
    pytree_aux_fields = ("solver", "_batch_ndim")

    def __init__(
        self, transition, initial, scale, *, num_steps, inputs=None, batch_shape=(), solver="auto", validate_args=None
    ):
        batch_shape = tuple(batch_shape)
        self.transition, self.initial, self.scale = as_tree(transition), jnp.asarray(initial), jnp.asarray(scale)
        self.inputs = jax.tree.map(jnp.asarray, inputs)
        self.solver, self._batch_ndim = check_solver(solver), len(batch_shape)
        if self.initial.ndim != len(batch_shape) + 1:
            raise ValueError(
                f"initial has shape {self.initial.shape}; it must be one state, (D,), or with batch_shape={batch_shape} one "
                f"for each series, {(*batch_shape, 'D')}: pass the shape of several series as batch_shape"
            )
        for name in ("transition", "initial"):
            check_batch(name, getattr(self, name), batch_shape)
        check_batch("inputs", self.inputs, batch_shape, num_steps)
        shape = (*batch_shape, num_steps, self.initial.shape[-1])
        try:
            fits = jnp.broadcast_shapes(self.scale.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"scale has shape {self.scale.shape}; it must be a scalar, (D,) or (T, D) = {shape}")
        transition, initial, inputs = first_series((self.transition, self.initial, self.inputs), len(batch_shape))
        image = jax.eval_shape(transition, initial, jax.tree.map(lambda leaf: leaf[0], inputs))
        if not hasattr(image, "shape"):
            raise TypeError(
                f"transition returns a {type(image).__name__}; it must return the next state, of shape (D,), alone"
            )
        if image.shape != initial.shape:
            raise ValueError(
                f"transition returns shape {image.shape} for a state of shape {initial.shape}: make them equal"
            )
        varying = ("inputs",) * (inputs is not None) + ("scale",) * (self.scale.shape[-2:-1] == (num_steps,) != (1,))
        self._initialize(
            batch_shape,
            initial.shape,
            num_steps=num_steps,
            time_varying=varying,
            method="auto",
            validate_args=validate_args,
        )

    @classmethod
    def gather_pytree_data_fields(cls):
        """Names of the array fields; the noise and its transform follow from them."""
        return tuple(name for name in super().gather_pytree_data_fields() if name not in ("base_dist", "transforms"))

    @property
    def base_dist(self):
        """The noise."""
        return dist.Normal(jnp.zeros((), self.scale.dtype), 1).expand(self.batch_shape + self.event_shape).to_event(2)

    @property
    def transforms(self):
        """From the noise to the trajectory."""
        return [NoiseToTrajectory(self)]

    def _over_series(self, core, signature, *arrays):
        """``core((transition, initial, inputs), scale, *arrays)`` over the batch."""
        scale = jnp.broadcast_to(self.scale, jnp.broadcast_shapes(self.scale.shape, self.event_shape))
        parameters = self.transition, self.initial, self.inputs
        return over_series(core, parameters, self._batch_ndim, f"(t,d),{signature}", scale, *arrays)

    def drive(self, noise, known=None, value=None):
        """The trajectory that noise drives, ``(..., T, D)``; where ``known``, ``(..., T)``, it goes through ``value``."""

        def core(parameters, scale, noise, *kept):
            transition, initial, inputs = parameters

            def step(state, row):
                kick, x, *kept = row
                state = transition(state, x) + kick
                if kept:
                    state = jnp.where(kept[0], kept[1], state)
                return state, state

            return deer_scan(step, initial, (scale * noise, inputs, *kept), solver=self.solver)[1]

        if known is None:
            return self._over_series(core, "(t,d)->(t,d)", noise)
        return self._over_series(core, "(t,d),(t),(t,d)->(t,d)", noise, known, value)

    def noise(self, trajectory):
        """The noise that drives a trajectory, that of every step by itself, ``(..., T, D)``."""

        def core(parameters, scale, trajectory):
            transition, initial, inputs = parameters
            return (trajectory - jax.vmap(transition)(shift(initial, trajectory), inputs)) / scale

        return self._over_series(core, "(t,d)->(t,d)", trajectory)

    def scored_steps(self, value):
        """All steps: bool ``(..., T)``."""
        return jnp.ones(jnp.broadcast_shapes(jnp.shape(value)[:-2], self.batch_shape) + (self.num_steps,), bool)

    def log_prob(self, value, intermediates=None):
        """Log density of the trajectory."""
        return self.log_prob_steps(value).sum(-1)

    def log_prob_steps(self, value):
        """``log p(x_t | x_{t-1})``, ``(..., T)``."""
        noise = self.noise(self.check_value(value))
        terms = (dist.Normal(validate_args=False).log_prob(noise) - jnp.log(self.scale)).sum(-1)
        return jnp.broadcast_to(terms, jnp.broadcast_shapes(terms.shape[:-1], self.batch_shape) + terms.shape[-1:])

    def cdf_steps(self, value):
        """``P(X_t <= x_t | x_{t-1})`` of each entry, twice, like ``value``."""
        probs = ndtr(self.noise(self.check_value(value)))
        return probs, probs

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(trajectory, {})``."""
        return self.drive(self.base_dist.sample(key, tuple(sample_shape))), {}

    def sample_latents(self, key, value):
        """Not available: the trajectory is itself the value."""
        raise NotImplementedError(_NOTHING_HIDDEN)

    def latent_marginals(self, value, given="all"):
        """Not available: the trajectory is itself the value."""
        raise NotImplementedError(_NOTHING_HIDDEN)

    def latent_mode(self, value):
        """Not available: the trajectory is itself the value."""
        raise NotImplementedError(_NOTHING_HIDDEN)

    def _completion(self, key, value):
        if self.lengths is None:
            return value, {}
        shape = jnp.broadcast_shapes(value.shape[:-2], self.batch_shape)
        known = jnp.arange(self.num_steps) < self.lengths[..., None]
        return self.drive(self.expand(shape).base_dist.sample(key), known, value).astype(value.dtype), {}


class NoiseToTrajectory(Transform):
    """Noise ``(..., T, D)`` to the trajectory that it drives; the inverse is that of every step by itself."""

    domain = constraints.real_matrix
    codomain = constraints.real_matrix

    def __init__(self, dynamics):
        self.dynamics = dynamics

    def __call__(self, noise):
        return self.dynamics.drive(noise)

    def _inverse(self, trajectory):
        return self.dynamics.noise(trajectory)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        # Step t moves with the noise of step t by the scale alone, and with no later noise.
        log_scale = jnp.broadcast_to(
            jnp.log(self.dynamics.scale), jnp.broadcast_shapes(jnp.shape(self.dynamics.scale), x.shape)
        )
        return log_scale.sum((-2, -1))

    def tree_flatten(self):
        return (self.dynamics,), (("dynamics",), {})
