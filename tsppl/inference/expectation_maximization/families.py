"""The E-step and the M-step of every class that EM knows."""

from collections.abc import Callable
from typing import NamedTuple

from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.autoregressive.salt import SALT
from tsppl.distributions.hidden_markov.hidden_markov import HiddenMarkov
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM
from tsppl.inference.expectation_maximization import (
    autoregressive as autoregressive,
    linear_gaussian as linear_gaussian,
    markov_switching as switching,
    salt as salt,
)
from tsppl.inference.expectation_maximization.arguments import in_one_dtype


class Steps(NamedTuple):
    """The two steps of EM for one class of distributions."""

    names: Callable
    prepare: Callable
    expect: Callable
    maximize: Callable
    log_prior: Callable


_CLASSES = {
    HiddenMarkov: Steps(
        switching.hidden_markov_names,
        switching.prepare_hidden_markov,
        switching.expected_states,
        switching.maximize_hidden_markov,
        switching.hidden_markov_log_prior,
    ),
    LinearGaussianSSM: Steps(
        linear_gaussian.linear_gaussian_names,
        linear_gaussian.prepare_linear_gaussian,
        linear_gaussian.expected_trajectory,
        linear_gaussian.maximize_linear_gaussian,
        linear_gaussian.linear_gaussian_log_prior,
    ),
    AutoregressiveHMM: Steps(
        autoregressive.autoregressive_names,
        autoregressive.prepare_autoregressive,
        switching.expected_states,
        autoregressive.maximize_autoregressive,
        autoregressive.autoregressive_log_prior,
    ),
    SALT: Steps(salt.salt_names, salt.prepare_salt, switching.expected_states, salt.maximize_salt, salt.salt_log_prior),
}


def prepare(distribution, value, fixed):
    """The distribution whose parameters EM updates in place: one floating dtype, every state its own parameters."""
    return in_one_dtype(steps_of(distribution).prepare(distribution, fixed), value)


def steps_of(distribution):
    """The steps for the class of a distribution.

    Raises:
        TypeError: if EM does not know it.
    """
    if type(distribution) not in _CLASSES:
        raise TypeError(
            f"em takes {', '.join(cls.__name__ for cls in _CLASSES)}, not {type(distribution).__name__}. For models of "
            "your own use NUTS, SVI, or a MAP estimate (numpyro.infer.autoguide.AutoDelta)"
        )
    return _CLASSES[type(distribution)]
