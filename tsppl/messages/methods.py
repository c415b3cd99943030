"""The one place that chooses an algorithm: from shapes, dtype and backend, never from values.

What ``method="auto"`` means:

=========================== ================================================================== ============
model                       case                                                               form
=========================== ================================================================== ============
hidden Markov               CPU, T >= 8192, constant transitions, K <= 4                       chunked
hidden Markov               CPU, T >= 65536, constant transitions, K <= 12                     chunked
hidden Markov               anything else                                                      sequential
linear-Gaussian             constant matrices and noises, every entry observed, T >= 256       steady
linear-Gaussian, value only CPU, float64, T >= 4096, at most 4 latent and observed dimensions  steady
linear-Gaussian             anything else                                                      sequential
=========================== ================================================================== ============

Every form answers exactly: one that cannot for the values at hand gives way to the next
(:mod:`tsppl.messages.certified`). Associative scans, ``"parallel"``, lose on a CPU at every size measured and are taken
only on request.
"""

import jax
import jax.numpy as jnp

HIDDEN_MARKOV_METHODS = ("auto", "sequential", "chunked", "parallel")
LINEAR_GAUSSIAN_METHODS = ("auto", "sequential", "steady", "parallel")

CHUNKED_BATCH = 8
"""Under ``vmap`` over more sequences than this they fill the machine themselves, and chunks only cost."""


def check_method(method: str, known: tuple[str, ...]) -> str:
    """Return ``method`` if it is among the ``known`` ones, else raise a ValueError that lists these."""
    if method not in known:
        raise ValueError(f"method must be one of {known}, not {method!r}")
    return method


def resolve_method(method: str, known: tuple[str, ...]) -> str:
    """``"parallel"`` or ``"sequential"``, for algorithms that have these two forms alone."""
    return "parallel" if check_method(method, known) == "parallel" else "sequential"


def hidden_markov_method(method, log_transition, log_likelihoods) -> str:
    """The form of the evidence, the statistics and the paths; only constant transitions have a chunked one."""
    check_method(method, HIDDEN_MARKOV_METHODS)
    if method == "auto":
        num_steps, num_states = log_likelihoods.shape
        pays = num_states <= 4 if num_steps < 65536 else num_states <= 12
        method = "chunked" if num_steps >= 8192 and pays and jax.default_backend() == "cpu" else "sequential"
    return "sequential" if method == "chunked" and log_transition.ndim == 3 else method


def linear_gaussian_method(method, dynamics, emission, num_steps, observed=None) -> str:
    """The form of the evidence, the smoother and the draws.

    Steady means that covariances settle. Asked for by name, it is used from 16 steps on.
    """
    check_method(method, LINEAR_GAUSSIAN_METHODS)
    constant = all(step.weights.ndim == 2 and step.root.ndim == 2 for step in (dynamics, emission))
    possible = constant and observed is None and num_steps >= 16
    if method == "auto":
        method = "steady" if num_steps >= 256 else "sequential"
    return "sequential" if method == "steady" and not possible else method


def use_chunks(method, emission, values) -> bool:
    """Whether the value of a model that does not settle is computed in chunks side by side."""
    channels, size = emission.weights.shape[-2:]
    small = values.dtype == jnp.float64 and max(channels, size) <= 4 and len(values) >= 4096
    return (
        check_method(method, LINEAR_GAUSSIAN_METHODS) in ("auto", "steady") and small and jax.default_backend() == "cpu"
    )
