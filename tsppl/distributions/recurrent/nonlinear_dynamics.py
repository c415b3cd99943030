"""Trajectories of a nonlinear state-space model, as a transformation of independent noise."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from tsppl.recurrence.lanes import shift
from tsppl.recurrence.nonlinear import check_solver, deer_scan


class NonlinearDynamics(dist.TransformedDistribution):
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
        solver: of :func:`tsppl.recurrence.deer_scan`.

    Raises:
        ValueError: if shapes do not fit together.

    The event shape is ``(T, D)``. Observe the states through any emission, e.g.
    ``numpyro.sample("y", dist.Poisson(jnp.exp(x @ weights)).to_event(2), obs=y)``.

    Source of the parametrisation by noise: Papaspiliopoulos, Roberts and Skold (2007), A general framework for the
    parametrization of hierarchical models.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> dynamics = NonlinearDynamics(lambda x, u: jnp.tanh(x), jnp.zeros(2), 0.1, num_steps=50)
    >>> x = dynamics.sample(jax.random.key(0))
    >>> x.shape, dynamics.log_prob(x).shape
    ((50, 2), ())
    """

    def __init__(self, transition, initial, scale, *, num_steps, inputs=None, solver="auto", validate_args=None):
        initial = jnp.asarray(initial)
        if initial.ndim != 1:
            raise ValueError(
                f"initial has shape {initial.shape}; it must be one state, (D,); for several series use a vmap of its log_prob"
            )
        shape = (num_steps, initial.size)
        try:
            scale = jnp.broadcast_to(scale, shape)
        except ValueError as error:
            raise ValueError(
                f"scale has shape {jnp.shape(scale)}; it must be a scalar, (D,) or (T, D) = {shape}"
            ) from error
        for path, leaf in jax.tree.leaves_with_path(inputs):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != num_steps:
                name = "inputs" + jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name} has shape {jnp.shape(leaf)}; its first axis must be time, of {num_steps} steps"
                )
        row = jax.tree.map(lambda leaf: leaf[0], inputs)
        image = jax.eval_shape(transition, initial, row)
        if not hasattr(image, "shape"):
            raise TypeError(
                f"transition returns a {type(image).__name__}; it must return the next state, of shape (D,), alone"
            )
        if image.shape != initial.shape:
            raise ValueError(
                f"transition returns shape {image.shape} for a state of shape {initial.shape}: make them equal"
            )
        check_solver(solver)
        noise = dist.Normal(jnp.zeros((), scale.dtype), 1).expand(shape).to_event(2)
        transform = NoiseToTrajectory(transition, initial, scale, inputs, solver)
        super().__init__(noise, transform, validate_args=validate_args)


class NoiseToTrajectory(Transform):
    """Noise ``(T, D)`` to the trajectory that it drives; the inverse is that of every step by itself."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.independent(constraints.real, 2)

    def __init__(self, transition, initial, scale, inputs, solver):
        self.transition, self.initial, self.scale, self.inputs, self.solver = transition, initial, scale, inputs, solver

    def __call__(self, noise):
        return jnp.vectorize(self._drive, signature="(t,d)->(t,d)")(noise)

    def _drive(self, noise):
        def step(state, row):
            kick, x = row
            state = self.transition(state, x) + kick
            return state, state

        return deer_scan(step, self.initial, (self.scale * noise, self.inputs), solver=self.solver)[1]

    def _inverse(self, trajectory):
        return jnp.vectorize(self._noise, signature="(t,d)->(t,d)")(trajectory)

    def _noise(self, trajectory):
        mean = jax.vmap(self.transition)(shift(self.initial, trajectory), self.inputs)
        return (trajectory - mean) / self.scale

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        # Step t moves with the noise of step t by the scale alone, and with no later noise.
        return jnp.broadcast_to(jnp.log(self.scale).sum(), jnp.shape(x)[:-2])

    def tree_flatten(self):
        return (self.initial, self.scale, self.inputs), (
            ("initial", "scale", "inputs"),
            {"transition": self.transition, "solver": self.solver},
        )
