"""The E-step and the M-step of every class that EM knows."""

from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.autoregressive.salt import SALT
from tsppl.distributions.hidden_markov.hidden_markov import HiddenMarkov
from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
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


def prepare(distribution, value, fixed):
    """The distribution whose parameters EM updates in place: one floating dtype, every state its own parameters."""
    return in_one_dtype(steps_of(distribution).prepare(distribution, fixed), value)


def steps_of(distribution):
    """The steps for a distribution: those of its class, or of the class that it is derived from.

    Raises:
        TypeError: if EM does not know it, or its states are not those of a Markov chain themselves.
    """
    steps = _steps(distribution)
    if isinstance(distribution, MarkovSwitching) and not distribution.has_plain_states:
        raise TypeError(
            f"the states of a {type(distribution).__name__} are no Markov chain by themselves, and em counts moves from "
            f"state to state. {_INSTEAD}"
        )
    return steps


_INSTEAD = "For models of your own use NUTS, SVI, or a MAP estimate (numpyro.infer.autoguide.AutoDelta)"


@singledispatch
def _steps(distribution):
    known = ", ".join(cls.__name__ for cls in _steps.registry if cls is not object)
    raise TypeError(f"em takes {known}, not {type(distribution).__name__}. {_INSTEAD}")


@_steps.register
def _(distribution: HiddenMarkov):
    return Steps(
        switching.hidden_markov_names,
        switching.prepare_hidden_markov,
        switching.expected_states,
        switching.maximize_hidden_markov,
        switching.hidden_markov_log_prior,
    )


@_steps.register
def _(distribution: LinearGaussianSSM):
    return Steps(
        linear_gaussian.linear_gaussian_names,
        linear_gaussian.prepare_linear_gaussian,
        linear_gaussian.expected_trajectory,
        linear_gaussian.maximize_linear_gaussian,
        linear_gaussian.linear_gaussian_log_prior,
    )


@_steps.register
def _(distribution: AutoregressiveHMM):
    return Steps(
        autoregressive.autoregressive_names,
        autoregressive.prepare_autoregressive,
        switching.expected_states,
        autoregressive.maximize_autoregressive,
        autoregressive.autoregressive_log_prior,
    )


@_steps.register
def _(distribution: SALT):
    return Steps(salt.salt_names, salt.prepare_salt, switching.expected_states, salt.maximize_salt, salt.salt_log_prior)
