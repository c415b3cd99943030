"""
One long sequence over several devices
======================================

The steps of one sequence are divided over eight devices. Each sums up its block, the summaries are exchanged, and the
log-likelihood, its gradient and the smoother are those of one device. Here the eight devices are pretended ones on
one processor: this shows that the numbers agree, not that anything is faster.
"""

# %%
# The number of devices on a processor is an option of XLA, to be set before JAX starts. Skip this on real accelerators.

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tsppl.messages import (
    AffineGaussian,
    Gaussian,
    hidden_markov_smooth,
    kalman_log_likelihood,
    kalman_smoother,
    log_normalizer,
    sharded_kalman_log_likelihood,
    sharded_kalman_smoother,
    sharded_log_normalizer,
    sharded_smooth,
)

jax.config.update("jax_enable_x64", True)

mesh = Mesh(jax.devices(), ("time",))
along_time = NamedSharding(mesh, PartitionSpec("time"))
print(f"{mesh.size} devices")


def largest_difference(left, right):
    differences = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), left, right)
    return max(jax.tree.leaves(differences))


# %%
# A hidden Markov chain with two levels and Gaussian noise. Only ``y`` is divided; the parameters are everywhere. The
# log-likelihoods of the states are computed where the data are, so the gradient by the levels needs nothing special.

num_steps = 8 * 1000
rng = np.random.default_rng(0)
states = np.cumsum(rng.random(num_steps) < 0.02) % 2
y = states + rng.normal(size=num_steps)
log_initial, log_transition = np.log([0.5, 0.5]), np.log([[0.98, 0.02], [0.02, 0.98]])


def log_likelihoods(levels, y):
    return -0.5 * (y[:, None] - levels) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def over_devices(levels, log_transition, y):
    return sharded_log_normalizer(log_initial, log_transition, log_likelihoods(levels, y), mesh=mesh)


def on_one_device(levels, log_transition, y):
    return log_normalizer(log_initial, log_transition, log_likelihoods(levels, y))


levels = np.array([0.0, 1.0])
divided = jax.device_put(y, along_time)
value, gradient = jax.jit(jax.value_and_grad(over_devices, argnums=(0, 1)))(levels, log_transition, divided)
expected_value, expected = jax.jit(jax.value_and_grad(on_one_device, argnums=(0, 1)))(levels, log_transition, y)
print(f"hidden Markov log-likelihood {value:.6f}, on one device {expected_value:.6f}")
print(f"largest difference in the gradient: {largest_difference(gradient, expected):.1e}")

statistics = sharded_smooth(log_initial, log_transition, log_likelihoods(levels, divided), mesh=mesh)
one_device = hidden_markov_smooth(log_initial, log_transition, log_likelihoods(levels, y))
print(f"largest difference in the smoother: {largest_difference(statistics, one_device):.1e}")
print(f"each device holds state probabilities of shape {statistics.state_probs.addressable_shards[0].data.shape}")

# %%
# A local linear trend, seen through noise; one observation in five is missing.

initial = Gaussian(np.zeros(2), np.eye(2))
dynamics = AffineGaussian(np.array([[1.0, 1.0], [0.0, 1.0]]), np.zeros(2), np.diag([0.1, 0.001]))
emission = AffineGaussian(np.array([[1.0, 0.0]]), np.zeros(1), np.array([[0.5]]))
values = np.cumsum(np.cumsum(0.001 * rng.normal(size=num_steps)) + 0.1 * rng.normal(size=num_steps))[:, None]
values += 0.5 * rng.normal(size=values.shape)
observed = rng.random(values.shape) < 0.8


def trend_over_devices(dynamics, values, observed):
    return sharded_kalman_log_likelihood(initial, dynamics, emission, values, observed, mesh=mesh)


def trend_on_one_device(dynamics, values, observed):
    return kalman_log_likelihood(initial, dynamics, emission, values, observed)


divided = jax.device_put((values, observed), along_time)
value, gradient = jax.jit(jax.value_and_grad(trend_over_devices))(dynamics, *divided)
expected_value, expected = jax.jit(jax.value_and_grad(trend_on_one_device))(dynamics, values, observed)
scale = max(np.abs(array).max() for array in jax.tree.leaves(expected))
print(f"linear-Gaussian log-likelihood {value:.6f}, on one device {expected_value:.6f}")
print(f"largest difference in the gradient, relative to its size: {largest_difference(gradient, expected) / scale:.1e}")

smoothed = sharded_kalman_smoother(initial, dynamics, emission, *divided, mesh=mesh)
one_device = jax.jit(kalman_smoother)(initial, dynamics, emission, values, observed)
print(f"largest difference in the smoothed means: {largest_difference(smoothed.means, one_device.means):.1e}")
