"""How many numbers hold the weights in the C. elegans example: 7 states, 48 channels, 9 lags, rank 11.

Counted on real objects, array by array. Covariances, transition rows and biases are left out, as in the paper.
"""

import jax.numpy as jnp
import numpyro.distributions as dist
from _common import arrays_of, build, is_quick, print_table, weight_arrays

import tsppl.distributions as tsd

K, N, L, RANK, SLDS_DIMENSION = 7, 48, 9, 11, 17
CHAIN = jnp.full(K, 1 / K), jnp.full((K, K), 1 / K)
RANKS = {"CP-SALT": RANK, "Tucker-SALT": (RANK, RANK, RANK), "ARHMM": None}
FORMULAS = {
    "SLDS": "N D + K D²",
    "CP-SALT": "K (2 N D + L D)",
    "Tucker-SALT": "K (2 N D + L D + D³)",
    "ARHMM": "K N² L",
}
PAPER = {"SLDS": "2.8K", "CP-SALT": "8.1K", "Tucker-SALT": "17.4K", "ARHMM": "145.2K"}


def noise_of(size):
    """Standard noise for each state."""
    return dist.Normal(jnp.zeros((K, size)), 1.0).to_event(1)


def counts():
    """Name to count, from the models' own arrays."""
    start = dist.Normal(jnp.zeros(SLDS_DIMENSION), 1.0).to_event(1)
    dynamics = jnp.zeros((K, SLDS_DIMENSION, SLDS_DIMENSION))
    latent = tsd.SwitchingLinearDynamics(*CHAIN, dynamics, noise_of(SLDS_DIMENSION), start, num_steps=100)
    emission_matrix = jnp.zeros((N, SLDS_DIMENSION))
    found = {"SLDS": latent.weights.size + emission_matrix.size}
    for name, ranks in RANKS.items():
        model = build(weight_arrays(ranks, K, L, N), CHAIN, noise_of(N), num_steps=100)
        found[name] = sum(array.size for array in arrays_of(model).values())
    return found


def main():
    """Print the counts beside the paper's."""
    is_quick(__doc__)
    found = counts()
    columns = ["model", "formula", "D", "counted", "in the paper", "ARHMM has so many times more"]
    dimensions = {"SLDS": SLDS_DIMENSION, "ARHMM": "none"}
    print_table(
        columns,
        (
            [name, FORMULAS[name], dimensions.get(name, RANK), f"{n:,}", PAPER[name], f"{found['ARHMM'] / n:.1f}"]
            for name, n in found.items()
        ),
    )


if __name__ == "__main__":
    main()
