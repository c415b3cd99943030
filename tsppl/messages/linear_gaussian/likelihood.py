"""The log-likelihood of a linear-Gaussian model as one differentiable number, by the fastest form that fits."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tsppl.messages.certified import certified, with_gradient
from tsppl.messages.linear_gaussian.adjoint import predictor_gradient, predictor_value
from tsppl.messages.linear_gaussian.chunked import chunked_value
from tsppl.messages.linear_gaussian.filter import kalman_filter
from tsppl.messages.linear_gaussian.steady import num_transient_steps, steady_gradient, steady_value
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian
from tsppl.messages.methods import CHUNKED_BATCH, linear_gaussian_method, use_chunks


def kalman_log_likelihood(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    method: str = "auto",
) -> Float[Array, ""]:
    """Log density of the observed entries, with the trajectory integrated out.

    Equals ``kalman_filter(...).log_normalizers.sum()`` and is much cheaper, the more so with a gradient. First
    derivatives come from a backward pass of their own (:mod:`tsppl.messages.linear_gaussian.adjoint`); second ones are
    those of :func:`~tsppl.messages.kalman_filter`, and slow.

    Args:
        initial: of the first step.
        dynamics: fields constant or with ``T - 1`` rows.
        emission: fields constant or with ``T`` rows.
        values: observations ``(T, N)``, finite also where they are not observed.
        observed: True = observed, ``(T, N)``; None if every entry was.
        method: ``"auto"``, ``"sequential"``, ``"steady"`` or ``"parallel"``. Steady takes covariances as constant once
            they are, where nothing but biases varies in time and nothing is missing, and cuts the sequences of other
            small models into chunks side by side; where either would not be exact it answers as sequential.

    >>> import jax, jax.numpy as jnp
    >>> from tsppl.messages import AffineGaussian, Gaussian, kalman_log_likelihood
    >>> one = jnp.eye(1)
    >>> step = AffineGaussian(one, jnp.zeros(1), one)
    >>> log_likelihood = lambda start: kalman_log_likelihood(start, step, step, jnp.ones((3, 1)))
    >>> float(log_likelihood(Gaussian(jnp.zeros(1), one)).round(3))
    -4.347
    >>> jax.grad(log_likelihood)(Gaussian(jnp.zeros(1), one)).mean.round(3).tolist()
    [0.615]
    """
    in_chunks = use_chunks(method, emission, values)
    method = linear_gaussian_method(method, dynamics, emission, len(values), observed)
    model = initial, dynamics, emission, values
    if method == "parallel":
        return kalman_filter(*model, observed, method=method).log_normalizers.sum()
    # The rules below want arrays with a tangent each, so the pattern of missing entries travels as a float.
    leaves, tree = jax.tree.flatten(model if observed is None else (*model, observed.astype(values.dtype)))

    def on_leaves(function):
        def run(*leaves):
            *arguments, observed = (*jax.tree.unflatten(tree, leaves), None)[:5]
            return function(*arguments, None if observed is None else observed > 0)

        return run

    def reference(*leaves):
        def value(*leaves):
            return on_leaves(kalman_filter)(*leaves).log_normalizers.sum()

        return jax.value_and_grad(value, range(len(leaves)))(*leaves)

    value, gradient = on_leaves(predictor_value), on_leaves(_gradient_leaves)
    if method == "steady":
        steps = num_transient_steps(len(values))
        value = certified(on_leaves(partial(_steady_value, steps)), value)
        gradient = certified(on_leaves(partial(_steady_gradient_leaves, steps)), gradient)
    elif in_chunks:
        value = certified(on_leaves(chunked_value), value, largest_batch=CHUNKED_BATCH)
    return with_gradient(value, gradient, reference)(*leaves)


def _gradient_leaves(*model):
    value, gradients = predictor_gradient(*model)
    gradients = (*gradients, None if model[-1] is None else jnp.zeros(model[-1].shape, value.dtype))
    # Where entries are missing there is a row for each step also of what is constant; a derivative has its argument's shape.
    return value, tuple(
        slope.sum(0) if slope.ndim > leaf.ndim else slope
        for slope, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(model), strict=True)
    )


def _steady_value(num_transient, *model):
    return steady_value(num_transient, *model[:-1])


def _steady_gradient_leaves(num_transient, *model):
    (value, gradients), vouched = steady_gradient(num_transient, *model[:-1])
    return (value, tuple(jax.tree.leaves(gradients))), vouched
