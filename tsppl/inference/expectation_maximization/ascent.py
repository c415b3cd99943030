"""Climbing an objective over constrained parameters, where no closed form exists."""

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.distributions.transforms import biject_to


def climb(objective, values, constraints, *, num_steps=10):
    """Raise ``objective`` by some steps of L-BFGS over unconstrained parameters (Liu and Nocedal 1989).

    Args:
        objective: function of a dict of arrays.
        values: starting point, ``name -> array``.
        constraints: ``name -> constraint`` that the values obey.
        num_steps: number of steps; each has its own line search.

    Returns:
        values at which the objective is at least as large as at the start: these themselves where no step helped.
    """
    import optax  # slow to import, and seldom needed

    transforms = {name: biject_to(constraints[name]) for name in values}

    def constrain(free):
        return {name: transforms[name](array) for name, array in free.items()}

    size = jnp.maximum(jnp.abs(objective(values)), 1.0)

    def loss(free):
        return -objective(constrain(free)) / size

    optimizer = optax.lbfgs()
    loss_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        free, state = carry
        value, gradient = loss_and_gradient(free, state=state)
        updates, state = optimizer.update(gradient, state, free, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(free, updates), state), None

    start = {name: transforms[name].inv(array) for name, array in values.items()}
    (free, _), _ = lax.scan(step, (start, optimizer.init(start)), length=num_steps)
    found = constrain(free)
    better = objective(found) > objective(values)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), found, values)
