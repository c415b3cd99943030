"""What all functions after sampling have in common: the order of their arguments, and a light import."""

import inspect
import subprocess
import sys

import pytest

import tsppl

NEED_THE_MODEL = (
    "complete",
    "forecast",
    "log_likelihood",
    "posterior_events",
    "posterior_intensity",
    "posterior_latents",
    "pseudo_residuals",
)
MAY_LOOK_AT_THE_MODEL = ("align_labels", "check_chains", "to_arviz")


@pytest.mark.parametrize("name", NEED_THE_MODEL)
def test_key_model_and_posterior_come_first_in_this_order(name):
    parameters = list(inspect.signature(getattr(tsppl, name)).parameters.values())
    assert [parameter.name for parameter in parameters[:3]] == ["key", "model", "posterior"]
    assert all(parameter.kind is parameter.POSITIONAL_ONLY for parameter in parameters[:3])


@pytest.mark.parametrize("name", MAY_LOOK_AT_THE_MODEL)
def test_a_model_that_need_not_be_there_comes_after_the_posterior(name):
    parameters = list(inspect.signature(getattr(tsppl, name)).parameters.values())
    assert [(parameter.name, parameter.default) for parameter in parameters[1:4]] == [
        ("model", None),
        ("args", ()),
        ("kwargs", None),
    ]


def test_importing_tsppl_leaves_the_libraries_of_trees_and_frames_alone():
    program = "import sys, tsppl; print({'arviz', 'xarray', 'pandas', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
