"""Long MCMC runs in chunks, with a checkpoint on disk after each, so that a run that was killed goes on where it was."""

import hashlib
import os
import pickle
import platform
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from tqdm.auto import tqdm

from tsppl.inference.runs.code_contents import VERSIONED
from tsppl.inference.runs.program_reuse import compile_once
from tsppl.inference.runs.same_program import digest
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

    A run is the same if nothing that its draws depend on has changed: data, key, the code of the model and of your own
    functions that it calls, what these close over, read or are bound to, options of the kernel, versions, precision, devices.

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
        ValueError: if the folder holds another run, with what differs; if a file in it is damaged or missing, which is left
            as it is; if the model or its arguments hold what cannot be compared between processes, an open file, say; if
            ``chunk_size`` is no multiple of the thinning.

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
    done, chunks = (saved["done"], saved["chunks"]) if saved else (0, [])
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
                    chunks = [*chunks, f"draws_{done - mcmc.num_warmup:09}.pkl"]
                    _write(path / chunks[-1], {"settings": settings, "states": _to_host(collected(mcmc))})
                done += mcmc.num_samples
                record = {"settings": settings, "done": done, "chunks": chunks, "state": _to_host(state)}
                _write(path / _STATE, record)
                progress.set_description("warm-up" if done < mcmc.num_warmup else "draws")
                progress.update(mcmc.num_samples)
            progress.set_description("draws")
    finally:
        mcmc.num_samples, mcmc.progress_bar, mcmc.post_warmup_state = whole, bar, None
    states = _joined(path, chunks)
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
        ValueError: if a file is damaged or missing.
    """
    path = Path(path)
    saved = _load(path / _STATE) if (path / _STATE).is_file() else {"chunks": []}
    if not saved["chunks"]:
        raise FileNotFoundError(f"{path} holds no draws of a run in chunks yet")
    return _joined(path, saved["chunks"])[saved["settings"]["field"]]


def _settings(mcmc, key, args, kwargs, chunk_size, extra_fields, init_params):
    """What must be the same for a run to be resumed, by the words of the message that says so."""
    key = random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    model = getattr(mcmc.sampler, "model", None)
    return {
        "data": digest((args, tuple(sorted(kwargs.items()))), what="data"),
        "key": digest(key),
        "start": digest(init_params, what="start"),
        "model": digest(model, what="model"),
        "kernel": digest(mcmc.sampler, what="kernel", known=[model]),
        "postprocess_fn": digest(mcmc.postprocess_fn, what="postprocess_fn", known=[model]),
        "chain_method": digest(mcmc.chain_method, what="chain_method"),
        "number of chains": mcmc.num_chains,
        "warm-up steps": mcmc.num_warmup,
        "thinning": mcmc.thinning,
        "chunk_size": chunk_size,
        "extra_fields": tuple(extra_fields),
        "precision": "64 bits" if jax.config.jax_enable_x64 else "32 bits",
        "kind of device": jax.default_backend(),
        "number of devices": jax.local_device_count(),
        "version of Python": ".".join(platform.python_version_tuple()[:2]),
        **{f"version of {name}": sys.modules[name].__version__ for name in VERSIONED},
        "field": sample_field(mcmc),
    }


def _resumed(path, settings):
    """What was saved of this run, after looking at every file in the folder; None at its beginning.

    Raises:
        ValueError: if a file is damaged, missing or of another run.
    """
    saved = _load(path / _STATE) if (path / _STATE).is_file() else None
    names = {chunk.name for chunk in path.glob("draws_*.pkl")} | set(saved["chunks"] if saved else ())
    for record in (*([saved] if saved else []), *(_load(path / name) for name in sorted(names))):
        differing = [name for name, value in settings.items() if record["settings"].get(name) != value]
        if differing:
            raise ValueError(
                f"the run in {path} differs from this one in: {', '.join(differing)}. Give this run a folder of its own, or "
                "delete that one"
            )
    return saved


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


def _write(path, tree):
    """Write a file so that it is either the old one or the new one, whole, whenever the process ends."""
    content = pickle.dumps(tree)
    partial_path = path.with_suffix(".partial")
    with partial_path.open("wb") as file:
        file.write(hashlib.sha256(content).digest())
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial_path.replace(path)


def _load(path):
    if not path.is_file():
        raise ValueError(f"{path} is missing: put it back, or give this run a folder of its own")
    content = memoryview(path.read_bytes())
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(
            f"{path} is damaged, half written, or not of this version of tsppl; it was left as it is. Put back a whole copy, or "
            "give this run a folder of its own"
        )
    return pickle.loads(content[32:])


def _joined(path, chunks):
    """Draws of all chunks: ``(chains, draws, ...)``."""
    parts = [_load(path / name)["states"] for name in chunks]
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *parts)
