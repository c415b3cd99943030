"""Runs of MCMC that share one compiled program."""

from contextlib import contextmanager

from tsppl.inference.runs.same_program import identity
from tsppl.upstream import loops_kept


@contextmanager
def compile_once():
    """Let the runs of an MCMC object inside of this block compile once, whatever their data, keys and starts.

    NumPyro 0.22 wraps its loop in a new compiled function for each ``MCMC.run``, so that a second run with data of
    the same shapes compiles as long as the first. Inside of the block the function is kept. With ``MCMC(...,
    jit_model_args=True)`` the model's arguments are traced, and data, folds (``lengths``, ``mask``) and numbers of states
    (:func:`tsppl.distributions.restrict_states`) share the program; and so do, for draws of such an MCMC object,
    ``to_arviz``, ``log_likelihood`` and ``posterior_latents``, inside and outside of the block.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import MCMC, NUTS
    >>> from tsppl.inference import compile_once
    >>> def model(y):
    ...     loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
    ...     numpyro.sample("y", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=y)
    >>> mcmc = MCMC(NUTS(model), num_warmup=50, num_samples=50, jit_model_args=True, progress_bar=False)
    >>> with compile_once():
    ...     for fold, y in enumerate(jnp.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])):
    ...         mcmc.run(jax.random.key(fold), y)
    """
    with loops_kept(identity):
        yield
