"""Long MCMC runs in chunks, with a checkpoint on disk after each, so that a run that was killed goes on where it was."""

import hashlib
import os
import pickle
import warnings
from inspect import signature
from pathlib import Path
from types import CodeType

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from tqdm.auto import tqdm

from tsppl.inference.runs.program_reuse import compile_once
from tsppl.upstream import collected, compile_run, hold_run, sample_field

_STATE = "state.pkl"


def run_in_chunks(
    mcmc, key, *args, path, chunk_size=100, extra_fields=(), init_params=None, progress_bar=True, **kwargs
):
    """``mcmc.run(key, *args, **kwargs)`` in chunks, resumed from ``path`` if a run of the same kind was begun there.

    After every chunk, of warm-up too, the draws and the state of all chains are written to the folder ``path``: a
    run that is killed loses at most one chunk, and the call that started it, made again, goes on. The draws are those of
    an uninterrupted run. A finished run is read from disk at once; with a greater ``num_samples`` it is extended. While
    it runs, :func:`read_chunks` reads what there is.

    Args:
        mcmc: :class:`numpyro.infer.MCMC` with any kernel but ensembles; afterwards it holds all draws, as after ``run``.
        key: random key.
        *args: arguments of the model.
        path: folder of this run alone, which is made if needed. Its files are pickles: resume only from folders that you
            trust.
        chunk_size: steps of each chain between two checkpoints, a multiple of ``mcmc.thinning``.
        extra_fields, init_params: as for ``MCMC.run``.
        progress_bar: whether to show the steps done, if ``mcmc`` shows them at all.
        **kwargs: keyword arguments of the model.

    Returns:
        ``mcmc``.

    Raises:
        ValueError: if the folder holds a run of other data, another key, model, kernel, number of chains, of warm-up
            steps, chunks or precision; if ``chunk_size`` is no multiple of the thinning.

    >>> import jax, numpyro, numpyro.distributions as dist, tempfile
    >>> from numpyro.infer import MCMC, NUTS
    >>> from tsppl.inference import run_in_chunks
    >>> def model():
    ...     numpyro.sample("x", dist.Normal())
    >>> with tempfile.TemporaryDirectory() as path:
    ...     mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=20)
    ...     mcmc = run_in_chunks(mcmc, jax.random.key(0), path=path, chunk_size=10, progress_bar=False)
    >>> mcmc.get_samples()["x"].shape
    (20,)
    """
    if chunk_size < 1 or chunk_size % mcmc.thinning:
        raise ValueError(f"chunk_size is {chunk_size}; it must be a positive multiple of the thinning, {mcmc.thinning}")
    if mcmc.sampler.is_ensemble_kernel:
        raise ValueError(f"{type(mcmc.sampler).__name__} moves chains together: run it by mcmc.run")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    whole, bar = mcmc.num_samples, mcmc.progress_bar
    options = {"extra_fields": extra_fields, "init_params": init_params, **kwargs}
    settings = _settings(mcmc, key, args, kwargs, chunk_size, extra_fields, init_params)
    saved = _resumed(path, settings)
    done = saved["done"] if saved else 0
    total = mcmc.num_warmup + whole
    mcmc.progress_bar = False
    try:
        bar_options = {"total": total, "initial": min(done, total), "disable": not (progress_bar and bar)}
        with compile_once(), tqdm(**bar_options, unit="step") as progress:
            progress.set_description("compiling")
            if saved:
                state = _from_host(saved["state"])
            else:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Some donated buffers")  # of no step at all, nothing is collected
                    compile_run(mcmc, key, *args, **options)
                state = mcmc.last_state
            while done < total:
                warming = done < mcmc.num_warmup
                ahead = (mcmc.num_warmup if warming else total) - done
                mcmc.num_samples, mcmc.post_warmup_state = min(chunk_size, ahead), state
                mcmc.run(state.rng_key, *args, **options)
                state = mcmc.last_state
                if not warming:
                    _write(path / _chunk_name(done - mcmc.num_warmup), _to_host(collected(mcmc)))
                done += mcmc.num_samples
                _write(path / _STATE, {"settings": settings, "done": done, "state": _to_host(state)})
                progress.set_description("warm-up" if done < mcmc.num_warmup else "draws")
                progress.update(mcmc.num_samples)
            progress.set_description("draws")
    finally:
        mcmc.num_samples, mcmc.progress_bar, mcmc.post_warmup_state = whole, bar, None
    states = _read(path, done - mcmc.num_warmup)
    states = jax.tree.map(lambda draws: jnp.asarray(draws[:, : whole // mcmc.thinning]), states)
    hold_run(mcmc, args, kwargs, state, states)
    return mcmc


def read_chunks(path):
    """The draws that a run of :func:`run_in_chunks` has written so far, also while it goes on.

    Args:
        path: folder of the run.

    Returns:
        dict: name of a site -> array ``(chains, draws, ...)``; for other kernels than those of a model, their draws.

    Raises:
        FileNotFoundError: if there are no draws yet.
    """
    path = Path(path)
    saved = _load(path / _STATE) if (path / _STATE).is_file() else {"done": 0, "settings": {"warm-up steps": 0}}
    num_draws = saved["done"] - saved["settings"]["warm-up steps"]
    if num_draws <= 0:
        raise FileNotFoundError(f"{path} holds no draws of a run in chunks yet")
    states = _read(path, num_draws)
    return states[saved["settings"]["field"]]


def _settings(mcmc, key, args, kwargs, chunk_size, extra_fields, init_params):
    """What must be the same for a run to be resumed, by the words of the message that says so."""
    key = random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return {
        "data": _digest((args, tuple(sorted(kwargs.items())))),
        "key": _digest(key),
        "start": _digest(init_params),
        "model": _digest(_code(getattr(mcmc.sampler, "model", None))),
        "kernel": (type(mcmc.sampler).__name__, *_plain_options(mcmc.sampler)),
        "number of chains": mcmc.num_chains,
        "warm-up steps": mcmc.num_warmup,
        "thinning": mcmc.thinning,
        "chunk_size": chunk_size,
        "extra_fields": tuple(extra_fields),
        "precision": "64 bits" if jax.config.jax_enable_x64 else "32 bits",
        "field": sample_field(mcmc),
    }


def _plain_options(kernel):
    """Names and values of a kernel's options that are numbers, truth values or words."""
    values = ((name, getattr(kernel, f"_{name}", None)) for name in signature(type(kernel)).parameters)
    return tuple((name, value) for name, value in values if isinstance(value, bool | int | float | str))


def _resumed(path, settings):
    if not (path / _STATE).is_file():
        return None
    saved = _load(path / _STATE)
    differing = [name for name, value in settings.items() if saved["settings"].get(name) != value]
    if differing:
        raise ValueError(
            f"the run in {path} differs from this one in: {', '.join(differing)}. Give this run a folder of its own, or "
            "delete that one"
        )
    return saved


def _digest(tree):
    leaves, structure = jax.tree.flatten(tree)
    digest = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        array = np.asarray(leaf) if is_array else None
        if is_array:
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(_code(leaf) if callable(leaf) else leaf).encode())
    return digest.hexdigest()


def _code(function):
    """The instructions and constants of a function, whatever its name and place, functions inside it included."""
    function = getattr(function, "func", function)
    code = function if isinstance(function, CodeType) else getattr(function, "__code__", None)
    if code is None:
        return type(function).__name__
    return (code.co_code, code.co_names, *(_code(c) if isinstance(c, CodeType) else c for c in code.co_consts))


def _to_host(tree):
    """Leaves as NumPy arrays; typed keys as pairs of their data and the name of their kind."""

    def one(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return _Key(np.asarray(random.key_data(leaf)), str(random.key_impl(leaf)))
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def _from_host(tree):
    def one(leaf):
        return random.wrap_key_data(leaf.data, impl=leaf.kind) if isinstance(leaf, _Key) else jnp.asarray(leaf)

    return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, _Key))


class _Key:
    """A typed key on disk."""

    def __init__(self, data, kind):
        self.data, self.kind = data, kind


def _chunk_name(first):
    return f"draws_{first:09}.pkl"


def _write(path, tree):
    """Write a file so that it is either the old one or the new one, whole, whenever the process ends."""
    partial_path = path.with_suffix(".partial")
    with partial_path.open("wb") as file:
        pickle.dump(tree, file)
        file.flush()
        os.fsync(file.fileno())
    partial_path.replace(path)


def _load(path):
    return pickle.loads(path.read_bytes())


def _read(path, num_draws):
    """Draws of all chunks before draw ``num_draws``, joined: ``(chains, draws, ...)``."""
    chunks = sorted(path.glob("draws_*.pkl"))
    chunks = [_load(chunk) for chunk in chunks if int(chunk.stem.removeprefix("draws_")) < num_draws]
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *chunks)
