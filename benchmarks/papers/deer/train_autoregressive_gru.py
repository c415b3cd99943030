"""Train small GRUs that feed their own output back, so that they draw a sine wave; writes autoregressive_gru.npz.

Three hidden units and one output, so a state of four: the net of the ELK paper (Gonzalez, Warrington, Smith and
Linderman, NeurIPS 2024, figure 4), whose weights are not published. A seed takes a few seconds; of ``--candidates`` seeds
those are kept that follow the wave, in the order of their seeds.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsppl.nn import gru_cell, init_gru_cell

WEIGHTS = Path(__file__).with_name("autoregressive_gru.npz")
NUM_HIDDEN, PERIOD, NUM_STEPS, LEARNING_RATE, LARGEST_ERROR = 3, 50, 200, 1e-2, 2e-3


def init(key):
    """Untrained weights of the cell and the readout, and the first state."""
    cell, readout, hidden = jax.random.split(key, 3)
    return init_gru_cell(cell, 1, NUM_HIDDEN) | {
        "readout": jax.random.normal(readout, (NUM_HIDDEN,)) / NUM_HIDDEN**0.5,
        "readout_bias": jnp.zeros(()),
        "start": 0.1 * jnp.append(jax.random.normal(hidden, (NUM_HIDDEN,)), 0.0),
    }


def step(params, state):
    """The next state, hidden units and then output, of the last one."""
    hidden = gru_cell(params, state[:-1], state[-1:])
    return jnp.append(hidden, hidden @ params["readout"] + params["readout_bias"])


def loss(params):
    """Mean squared error of a run on its own over four periods."""

    def body(state, _):
        state = step(params, state)
        return state, state[-1]

    wave = jnp.sin(2 * jnp.pi * jnp.arange(1, NUM_STEPS + 1) / PERIOD)
    return jnp.mean((jax.lax.scan(body, params["start"], None, NUM_STEPS)[1] - wave) ** 2)


def train(seeds, num_updates):
    """Weights and losses after training, one row for each seed."""
    adam = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_updates))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), adam)

    def from_seed(seed):
        def update(loop, _):
            params, memory = loop
            gradient = jax.grad(loss)(params)
            changes, memory = optimiser.update(gradient, memory)
            return (optax.apply_updates(params, changes), memory), None

        params = init(jax.random.key(seed))
        (params, _), _ = jax.lax.scan(update, (params, optimiser.init(params)), None, num_updates)
        return params, loss(params)

    return jax.jit(jax.vmap(from_seed))(jnp.asarray(seeds))


def load():
    """``{seed: params}`` of the trained nets."""
    with np.load(WEIGHTS) as file:
        arrays = dict(file)
    seeds = arrays.pop("seeds")
    return {
        int(seed): {name: jnp.asarray(rows[index]) for name, rows in arrays.items()} for index, seed in enumerate(seeds)
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--updates", type=int, default=6000)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    params, losses = train(np.arange(options.candidates), options.updates)
    kept = np.flatnonzero(np.asarray(losses) < LARGEST_ERROR)
    for seed, error in enumerate(np.asarray(losses)):
        print(f"seed {seed}: mean squared error {error:.2e}{'' if seed in kept else ', left out'}")
    np.savez(options.output, seeds=kept, **{name: np.asarray(rows)[kept] for name, rows in params.items()})
