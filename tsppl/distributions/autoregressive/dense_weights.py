"""Checks of weights that are given as one dense array."""

from tsppl.distributions.shapes import parameter_batch


def check_weights(weights, step_shape, num_states, *, num_steps, time_varying):
    """Check weights ``(..., K, L, N, N)``, or ``(..., K, L)`` of a scalar series; ``K`` may be 1.

    Args:
        weights: the array.
        step_shape: event shape of the noise.
        num_states, num_steps, time_varying: as elsewhere.

    Returns:
        the batch shape, and the number of lags.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if len(step_shape) > 1:
        raise ValueError(f"noise has event shape {step_shape}; it must be (N,), or () for a scalar series")
    square = step_shape * 2
    core_ndim = 2 + len(square)
    tail = weights.shape[max(weights.ndim - core_ndim, 0) :]
    if len(tail) < core_ndim or tail[2:] != square or tail[0] not in (num_states, 1):
        raise ValueError(
            f"weights has shape {weights.shape} and noise has event shape {step_shape}: weights must end in "
            + (
                f"({num_states}, L, {step_shape[0]}, {step_shape[0]})"
                if square
                else f"({num_states}, L) for a scalar series"
            )
        )
    batch = parameter_batch(
        "weights", weights.shape, tail, num_steps=num_steps, rows=num_steps, time_varying=time_varying
    )
    return batch, tail[1]
