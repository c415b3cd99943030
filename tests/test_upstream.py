"""NumPyro still has the private names that tsppl uses."""

import inspect

import numpyro
import numpyro.distributions as dist
import numpyro.util
import pytest
from numpyro import primitives
from numpyro.infer import MCMC, gibbs

NAMES = [
    (MCMC, "_args _kwargs", "tables and checks that ask an MCMC object for the arguments of its model"),
    (MCMC, "_jit_model_args", "trees and latents that share a program between data sets"),
    (MCMC, "_sample_field _compile _states _states_flat _last_state", "run_in_chunks"),
    (numpyro.util, "maybe_jit", "compile_once"),
    (primitives, "_PYRO_STACK", "the refusal of NumPyro statements inside deer_scan"),
    (gibbs, "GIBBS_SITES_KWARG", "Gibbs blocks"),
    (dist.MaskedDistribution, "_mask", "masks of whole series"),
    (dist.Distribution, "_batch_shape _event_shape", "plates and forecasts"),
]


def has(owner, name):
    """Whether a module or class has a name, or its methods set an attribute of that name."""
    return hasattr(owner, name) or f"self.{name}" in inspect.getsource(owner)


@pytest.mark.parametrize(("owner", "names", "use"), NAMES, ids=[names for _, names, _ in NAMES])
def test_numpyro_has_the_private_names_that_upstream_uses(owner, names, use):
    lacking = [name for name in names.split() if not has(owner, name)]
    assert not lacking, (
        f"NumPyro {numpyro.__version__} has no {', '.join(lacking)} in {owner.__name__}, which {use} needs: mend "
        "tsppl/upstream.py"
    )
