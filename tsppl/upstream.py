"""What tsppl uses of NumPyro that NumPyro does not promise: private names, all in this module.

``tests/test_upstream.py`` says in a sentence which of them a newer NumPyro lacks, and what needs it.
"""

from contextlib import contextmanager

import numpyro.util
from numpyro.handlers import block, condition, seed, substitute, trace
from numpyro.infer.gibbs import GIBBS_SITES_KWARG as GIBBS_SITES_KWARG
from numpyro.primitives import _PYRO_STACK


def model_arguments(mcmc):
    """``(args, kwargs)`` of the model in the last run of an MCMC object."""
    return mcmc._args, mcmc._kwargs


def traces_model_arguments(mcmc):
    """Whether an MCMC object was made with ``jit_model_args=True``."""
    return mcmc._jit_model_args


def sample_field(mcmc):
    """The field of the kernel's state that holds the draws."""
    return mcmc._sample_field


def compile_run(mcmc, key, *args, **options):
    """Compile a run and initialise the state of all chains, ``mcmc.last_state``, without a step."""
    mcmc._compile(key, *args, **options)


def collected(mcmc):
    """All fields that a run collected, by chain."""
    return mcmc._states


def hold_run(mcmc, args, kwargs, last_state, states):
    """Make an MCMC object what it is after a run that ended in ``last_state`` and collected ``states``."""
    mcmc._args, mcmc._kwargs, mcmc._last_state = args, kwargs, last_state
    mcmc._states, mcmc._states_flat = states, None


@contextmanager
def loops_kept(identity):
    """Inside of this block NumPyro's loops that are alike by ``identity(function)`` are one compiled function.

    NumPyro wraps its loop in a new compiled function for each ``MCMC.run``. A NumPyro that does it in another way is left
    alone: its runs are right, and compile one by one.
    """
    make, made = getattr(numpyro.util, "maybe_jit", None), {}
    if make is None:
        yield
        return

    def make_once(function, **options):
        key = identity(function), tuple(sorted(options.items()))
        if key not in made:
            made[key] = make(function, **options)
        return made[key]

    numpyro.util.maybe_jit = make_once
    try:
        yield
    finally:
        numpyro.util.maybe_jit = make


@contextmanager
def refusing_sites(explain):
    """Raise ``ValueError(explain(name of the statement))`` for NumPyro statements inside of this block.

    What a model samples under handlers of its own inside of the block, as ``log_density`` evaluates it, is its own affair.
    """
    depth = len(_PYRO_STACK)

    def hide(site):
        if any(isinstance(handler, (condition, seed, substitute, trace)) for handler in _PYRO_STACK[depth + 1 :]):
            return True
        raise ValueError(explain(site.get("name") or site["type"]))

    with block(hide_fn=hide):
        yield


def mask_of(distribution):
    """The mask of a ``MaskedDistribution``: a truth value or an array."""
    return distribution._mask


def set_shapes(distribution, *, batch_shape=None, event_shape=None):
    """Change the shapes of a distribution in place."""
    if batch_shape is not None:
        distribution._batch_shape = batch_shape
    if event_shape is not None:
        distribution._event_shape = event_shape
