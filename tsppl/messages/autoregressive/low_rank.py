"""Means of a switching autoregression through the factors of its weights, one sequence at a time (Lee et al. 2023).

``weights[k, l, i, j] = sum_def core[k, d, e, f] output[k, i, d] input[k, j, e] lag[k, l, f]`` (Tucker), and with
``core`` None ``sum_d output[k, i, d] input[k, j, d] lag[k, l, d]`` (CP). Index 0 of the lag axis is lag 1. Shapes: output
factors ``(K, N, D1)``, input factors ``(K, N, D2)``, lag factors ``(K, L, D3)``, core ``(K, D1, D2, D3)``, series ``(T, N)``;
a factor that all states share has a state axis of 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def dense_weights(output_factors, input_factors, lag_factors, core=None) -> Float[Array, "K L N N"]:
    """The weights that the factors stand for; the state axis is 1 if every factor is shared."""
    if core is None:
        return jnp.einsum("kid,kjd,kld->klij", output_factors, input_factors, lag_factors)
    return jnp.einsum("kdef,kid,kje,klf->klij", core, output_factors, input_factors, lag_factors)


def low_rank_means(output_factors, input_factors, lag_factors, core, values) -> Float[Array, "T K N"]:
    """``sum_l weights[k, l] @ y[t-1-l]`` for every step and state, with zeros before the start of the series.

    The series is projected on the input factors, its lags are combined in that small space, and the result goes
    through the output factors: ``T K (N + L) R`` products for CP of rank ``R``, and ``T K (N R + L R^2)`` for Tucker, where
    the dense weights need ``T K L N^2``. Time is an inner axis on the way, so that every product is one of matrices.
    """
    projected = jnp.einsum("tj,kje->kte", values, input_factors)
    if core is None:
        combined = _combine_lags(lag_factors, projected, "kdrs,kbsd->kbrd")
    else:
        lag_matrices = jnp.einsum("kdef,klf->klde", core, lag_factors)
        combined = _combine_lags(lag_matrices, projected, "kders,kbse->kbrd")
    return jnp.einsum("ktd,kid->tki", combined, output_factors)


def _combine_lags(filters, series, product):
    """``sum_l filters[:, l] * series[:, t-1-l]`` by one matrix product for each block of steps.

    The filters ``(K, L, ...)`` become banded matrices from the steps that a block looks back on, and its own, to its own.
    """
    num_lags, num_steps = filters.shape[1], series.shape[1]
    size = min(num_steps, _block_size(num_lags))
    blocks_before, num_blocks = -(-num_lags // size), -(-num_steps // size)
    before = blocks_before * size
    padded = jnp.pad(series, ((0, 0), (before, num_blocks * size - num_steps), (0, 0)))
    blocks = padded.reshape(padded.shape[:1] + (-1, size) + padded.shape[2:])
    frames = jnp.concatenate([blocks[:, i : i + num_blocks] for i in range(blocks_before + 1)], axis=2)
    combined = jnp.einsum(product, _banded(jnp.moveaxis(filters, 1, -1), size, before), frames)
    return combined.reshape(combined.shape[:1] + (-1,) + combined.shape[3:])[:, :num_steps]


def _block_size(num_lags):
    """Few enough steps that the banded matrices hold few zeros, enough that the series is copied at most five times."""
    return max(8, min(num_lags, 32), num_lags // 4)


def _banded(filters, size, before):
    """``(..., size, before + size)`` from ``(..., L)``: entry ``[r, s]`` is the weight of lag ``before + r - s``, or zero.

    One row that is one entry too long, repeated and read in rows of the right length, moves by one from row to row.
    """
    lead, num_lags = filters.shape[:-1], filters.shape[-1]
    row = jnp.pad(filters[..., ::-1], [(0, 0)] * len(lead) + [(before - num_lags, size + 1)])
    repeated = jnp.broadcast_to(row[..., None, :], lead + (size,) + row.shape[-1:]).reshape(lead + (-1,))
    return repeated[..., : size * (before + size)].reshape(lead + (size, before + size))
