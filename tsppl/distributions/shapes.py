"""Shape arithmetic of sequence distributions: where batch ends and time begins, and errors that say what to pass."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random


def is_concrete(*values) -> bool:
    """True when no leaf of ``values`` is being traced, so that its numbers may be looked at."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def split_keys(key, shape):
    """One typed key for each entry of ``shape``; accepts typed keys and raw uint32 keys."""
    return random.split(typed_key(key), tuple(shape))


def typed_key(key):
    """The key as a typed key array, so that it broadcasts like a scalar."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else random.wrap_key_data(key)


def broadcast_to_batch(result, batch_shape, core_ndim):
    """Broadcast the leading axes of every leaf against ``batch_shape``, leaving ``core_ndim`` axes (a tree or an int)."""

    def one(array, ndim):
        lead = array.shape[: array.ndim - ndim]
        return jnp.broadcast_to(array, lax.broadcast_shapes(lead, batch_shape) + array.shape[array.ndim - ndim :])

    if isinstance(core_ndim, int):
        return jax.tree.map(lambda leaf: one(leaf, core_ndim), result)
    return jax.tree.map(one, result, core_ndim)


def check_time_varying(class_name, time_varying, allowed):
    """Return ``time_varying`` as a tuple of known argument names."""
    if isinstance(time_varying, str):
        raise TypeError(f"time_varying is a tuple of argument names: pass time_varying=({time_varying!r},)")
    time_varying = tuple(time_varying)
    unknown = [name for name in time_varying if name not in allowed]
    if unknown:
        raise ValueError(f"{class_name} has no argument {unknown[0]!r} that can vary in time; it has {tuple(allowed)}")
    return time_varying


def parameter_batch(name, shape, core, *, num_steps, rows=None, time_varying=()):
    """Batch shape of an argument with trailing shape ``core``, behind a time axis of ``rows`` if it varies in time.

    Args:
        name: the argument's name, for the message and to look up in ``time_varying``.
        shape: shape of the argument.
        core: trailing shape that one step needs; ``None`` entries match any size.
        num_steps: number of steps ``T``, for the message.
        rows: length of the time axis, ``T`` or ``T - 1``; ``None`` where the argument cannot vary.
        time_varying: names of the arguments that vary in time.

    Raises:
        ValueError: naming the argument, its shape and the shape that is needed.
    """
    varies = name in time_varying
    wanted = (
        "(..., " + ", ".join(([str(rows)] if varies else []) + ["any" if n is None else str(n) for n in core]) + ")"
    )
    tail = shape[len(shape) - len(core) :]
    fits = len(shape) >= len(core) and all(n is None or n == m for n, m in zip(core, tail, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {shape}; the shape {wanted} is needed")
    lead = shape[: len(shape) - len(core)]
    if not varies:
        return lead
    if not lead:
        raise ValueError(f"{name} is named in time_varying, but has shape {shape}; the shape {wanted} is needed")
    if lead[-1] == rows:
        return lead[:-1]
    if rows == num_steps - 1 and lead[-1] == num_steps:
        raise ValueError(
            f"{name} has {num_steps} steps; {rows} are needed (row t moves from step t to step t + 1). "
            "If row t belongs to the step of arrival, drop the first row"
        )
    raise ValueError(f"{name} has {lead[-1]} steps (shape {shape}); {rows} are needed, num_steps is {num_steps}")


def emission_batch(name, emission, num_states, *, num_steps, rows=None, time_varying=()):
    """Batch shape of a distribution whose last batch axis is the state, behind a time axis if it varies in time.

    ``(..., K)``, ``(..., 1)`` or ``()`` are accepted: the state axis is always last.
    """
    shape = emission.batch_shape
    rows = num_steps if rows is None else rows
    varies = name in time_varying
    if not shape and not varies:
        return ()
    if not shape or shape[-1] not in (num_states, 1):
        raise ValueError(
            f"{name} has batch shape {shape}; its last axis must be the {num_states} states. "
            f"For covariates use shape {shape + (num_states,)} and time_varying=('{name}',); for several channels "
            "make them an event, by .to_event(1)"
        )
    return parameter_batch(name, shape, (None,), num_steps=num_steps, rows=rows, time_varying=time_varying)


def check_noise_and_start(noise, initial, num_conditioned, lags, *, num_states, num_steps, time_varying):
    """Check the noise, initial distribution and number of conditioned steps of an autoregression.

    Args:
        noise, initial, num_conditioned: the arguments; ``initial`` and ``num_conditioned`` may be None.
        lags: pair of the argument that gives the number of lags, and that number.
        num_states, num_steps, time_varying: as elsewhere in this module.

    Returns:
        ``name -> batch shape`` of the distributions, and the number of conditioned steps.

    Raises:
        ValueError: naming the argument, its shape and the shape that is needed.
    """
    lags_name, num_lags = lags
    step_shape = noise.event_shape
    batches = {"noise": emission_batch("noise", noise, num_states, num_steps=num_steps, time_varying=time_varying)}
    if num_lags >= num_steps:
        raise ValueError(
            f"{lags_name} has {num_lags} lags and num_steps is {num_steps}: a series must be longer than its lags"
        )
    if initial is not None:
        if num_conditioned is not None:
            raise ValueError(
                "num_conditioned is for initial=None: with an initial distribution nothing is conditioned on"
            )
        accepted = [(num_lags,) + step_shape] + ([step_shape] if num_lags == 1 else [])
        if initial.event_shape not in accepted:
            raise ValueError(
                f"initial has event shape {initial.event_shape}; with {num_lags} lags it must be "
                + " or ".join(map(str, accepted))
            )
        batches["initial"] = emission_batch("initial", initial, num_states, num_steps=num_steps)
    steps = num_lags if num_conditioned is None else num_conditioned
    if not num_lags <= steps < num_steps:
        raise ValueError(
            f"num_conditioned is {steps}; it must be from the number of lags, {num_lags}, to num_steps - 1 = "
            f"{num_steps - 1}"
        )
    return batches, steps


def broadcast_batches(batches, *, num_steps, time_varying=(), rows=None):
    """Common batch shape of the arguments, given as ``name -> batch shape``.

    ``rows`` maps the names that may vary in time to the length of their time axis. A batch axis of just that length
    which no other argument shares is most likely time, and raises.
    """
    common, owners = (), []
    for name, batch in batches.items():
        try:
            common = lax.broadcast_shapes(common, batch)
        except ValueError:
            raise ValueError(
                f"{name} has batch shape {batch}, which does not fit {common} of {', '.join(owners)}"
            ) from None
        if batch:
            owners.append(name)
    for name, needed in (rows or {}).items():
        batch = batches[name]
        length = num_steps if batch[-1:] == (num_steps,) else needed
        alone = all(other == name or not shape or shape[-1] != length for other, shape in batches.items())
        if name not in time_varying and batch and batch[-1] == length > 1 and alone:
            raise ValueError(
                f"{name} has {length} entries on the axis before its own shape (batch {batch}) and num_steps is "
                f"{num_steps}: if that axis is time, add {name!r} to time_varying; if it is a batch of {length} "
                "series, give another argument (the initial probabilities, say) that batch axis too"
            )
    return common


def check_probabilities(name, probs):
    """Raise if concrete probabilities are negative or do not sum to one over the last axis."""
    if probs is None or not is_concrete(probs):
        return
    probs = np.asarray(probs)
    sums = probs.sum(-1)
    tolerance = 100 * max(np.finfo(sums.dtype).eps, 1e-7) if np.issubdtype(sums.dtype, np.floating) else 1e-6
    wrong = (np.abs(sums - 1) > tolerance) | (probs < 0).any(-1) | np.isnan(sums)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f" at index {index}" if index else ""
        if len(index) >= 1 and name == "transition_probs":
            where = f" at state {index[-1]}" + (f" of batch or time index {index[:-1]}" if index[:-1] else "")
        raise ValueError(f"{name} must be probabilities: a row sums to {sums[index]:.6g}{where}")


def check_not_nan(name, array):
    """Raise if a concrete array holds NaN, most likely a covariate that was not observed."""
    if array is None or not is_concrete(array):
        return
    wrong = np.isnan(np.asarray(array))
    if wrong.any():
        raise ValueError(
            f"{name} is NaN at index {tuple(int(i) for i in np.argwhere(wrong)[0])}: covariates cannot be masked. Fill "
            "them with any finite number, and mask the step if it is not to count"
        )


def choose_parameter(probs_name, probs, logits_name, logits):
    """Return the name and array of whichever of two alternative arguments was given."""
    if (probs is None) == (logits is None):
        raise ValueError(f"pass either {probs_name} or {logits_name}" + (", not both" if probs is not None else ""))
    return (logits_name, jnp.asarray(logits)) if probs is None else (probs_name, jnp.asarray(probs))


def check_given(given):
    """Raise unless ``given`` is ``"all"`` or ``"past"``."""
    if given not in ("all", "past"):
        raise ValueError(f"given must be 'all' (smoothed) or 'past' (filtered), not {given!r}")
