"""Log-likelihood of a hidden Markov chain with its derivative, and the posterior statistics that are the same numbers.

The fastest algorithm that vouches for its answer is taken: chunks side by side, else scaled probabilities step by step,
else log space, which is right for every chain. Notation as in :mod:`tsppl.messages.hidden_markov.forward_backward`.
"""

from jaxtyping import Array, Float

from tsppl.messages.certified import certified, with_gradient
from tsppl.messages.hidden_markov.chunked import chunked_log_normalizer, chunked_statistics
from tsppl.messages.hidden_markov.forward_backward import Statistics, hidden_markov_forward, log_space_statistics
from tsppl.messages.hidden_markov.scaled import scaled_forward, scaled_log_normalizer, scaled_statistics
from tsppl.messages.methods import CHUNKED_BATCH, hidden_markov_method


def log_normalizer(log_initial, log_transition, log_likelihoods, *, method="auto") -> Float[Array, ""]:
    """``log p(y)``, whose derivative is the expected sufficient statistics (Fisher's identity).

    The rule is a ``custom_jvp`` that is linear in the tangents, so forward mode, reverse mode and second
    derivatives (Laplace guides) all work; nothing differentiates the forward loop.
    Arguments as in :func:`tsppl.messages.hidden_markov_forward`. Value ``-inf`` has derivative zero, never NaN.

    >>> import jax, jax.numpy as jnp
    >>> from tsppl.messages import log_normalizer
    >>> uniform = jnp.log(jnp.full((2, 2), 0.5))
    >>> jax.grad(log_normalizer, argnums=2)(uniform[0], uniform, jnp.zeros((1, 2))).tolist()
    [[0.5, 0.5]]
    """
    method = hidden_markov_method(method, log_transition, log_likelihoods)
    return _LOG_NORMALIZERS[method](log_initial, log_transition, log_likelihoods)


def hidden_markov_smooth(log_initial, log_transition, log_likelihoods, *, method="auto") -> Statistics:
    """Posterior state probabilities and expected transition counts given the whole sequence.

    Arguments as in :func:`tsppl.messages.hidden_markov_forward`. For an impossible sequence everything is zero.
    """
    method = hidden_markov_method(method, log_transition, log_likelihoods)
    _, (_, counts, state_probs) = _STATISTICS[method](log_initial, log_transition, log_likelihoods)
    return Statistics(state_probs, counts)


def _in_log_space(method):
    return lambda *potentials: log_space_statistics(*potentials, method=method)


def _value_in_log_space(method):
    return lambda *potentials: hidden_markov_forward(*potentials, method=method).log_normalizers.sum()


def _value_keeping_steps(*potentials):
    scaled, vouched = scaled_forward(*potentials)
    return scaled.log_normalizer, vouched


_keeping_steps = certified(_value_keeping_steps, _value_in_log_space("sequential"))
_step_by_step = certified(scaled_log_normalizer, _keeping_steps)
_VALUES = {
    "sequential": _step_by_step,
    "chunked": certified(chunked_log_normalizer, _step_by_step, largest_batch=CHUNKED_BATCH),
    "parallel": _value_in_log_space("parallel"),
}
_step_by_step = certified(scaled_statistics, _in_log_space("sequential"))
_STATISTICS = {
    "sequential": _step_by_step,
    "chunked": certified(chunked_statistics, _step_by_step, largest_batch=CHUNKED_BATCH),
    "parallel": _in_log_space("parallel"),
}
_REFERENCES = {method: _in_log_space("parallel" if method == "parallel" else "sequential") for method in _VALUES}
_LOG_NORMALIZERS = {
    method: with_gradient(_VALUES[method], _STATISTICS[method], _REFERENCES[method]) for method in _VALUES
}
