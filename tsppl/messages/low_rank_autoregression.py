"""Means of a switching autoregression through the factors of its weights, one sequence at a time (Lee et al. 2023).

``weights[k, l, i, j] = sum_def core[k, d, e, f] output[k, i, d] input[k, j, e] lag[k, l, f]`` (Tucker), and with
``core`` None ``sum_d output[k, i, d] input[k, j, d] lag[k, l, d]`` (CP). Index 0 of the lag axis is lag 1. Shapes: output
factors ``(K, N, D1)``, input factors ``(K, N, D2)``, lag factors ``(K, L, D3)``, core ``(K, D1, D2, D3)``, series ``(T, N)``;
a factor that all states share has a state axis of 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

BLOCK = 16


def dense_weights(output_factors, input_factors, lag_factors, core=None) -> Float[Array, "K L N N"]:
    """The weights that the factors stand for; the state axis is 1 if every factor is shared."""
    if core is None:
        return jnp.einsum("kid,kjd,kld->klij", output_factors, input_factors, lag_factors)
    return jnp.einsum("kdef,kid,kje,klf->klij", core, output_factors, input_factors, lag_factors)


def low_rank_means(output_factors, input_factors, lag_factors, core, values) -> Float[Array, "T K N"]:
    """``sum_l weights[k, l] @ y[t-1-l]`` for every step and state, with zeros before the start of the series.

    The series is projected on the input factors, its lags are combined in that small space, and the result goes
    through the output factors: ``T K (N + L) R`` products where the dense weights need ``T K L N^2``.
    """
    projected = jnp.einsum("tj,kje->tke", values, input_factors)
    if core is None:
        combined = _combine_lags(lag_factors, projected, "kdrs,bskd->brkd")
    else:
        lag_matrices = jnp.einsum("kdef,klf->klde", core, lag_factors)
        combined = _combine_lags(lag_matrices, projected, "kders,bske->brkd")
    return jnp.einsum("tkd,kid->tki", combined, output_factors)


def _combine_lags(filters, series, product):
    """``sum_l filters[:, l] * series[t-1-l]`` by a matrix product for each block of steps.

    The filters ``(K, L, ...)`` become banded matrices from the steps that a block of steps looks back on to its own.
    """
    num_lags, num_steps = filters.shape[1], series.shape[0]
    size = min(BLOCK, num_steps)
    before, num_blocks = -(-num_lags // size), -(-num_steps // size)
    padded = jnp.pad(series, ((before * size, num_blocks * size - num_steps), (0, 0), (0, 0)))
    blocks = padded.reshape((-1, size) + series.shape[1:])
    frames = jnp.concatenate([blocks[i : i + num_blocks] for i in range(before + 1)], axis=1)
    combined = jnp.einsum(product, _banded(jnp.moveaxis(filters, 1, -1), size, before * size), frames)
    return combined.reshape((-1,) + combined.shape[2:])[:num_steps]


def _banded(filters, size, before):
    """``(..., size, before + size)`` with entry ``[r, s]`` the weight of lag ``before + r - s`` from filters ``(..., L)``."""
    lead, num_lags = filters.shape[:-1], filters.shape[-1]
    padding = [(0, 0)] * len(lead) + [(before - num_lags, size + 1)]
    row = jnp.pad(filters[..., ::-1], padding)
    repeated = jnp.broadcast_to(row[..., None, :], lead + (size,) + row.shape[-1:]).reshape(lead + (-1,))
    return repeated[..., : size * (before + size)].reshape(lead + (size, before + size))
