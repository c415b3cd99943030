"""The regression of a sequence on its past, or on a constant, given the hidden states."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from tsppl.conjugate import MatrixNormalInverseWishartParameters, regression_posterior, regression_statistics
from tsppl.distributions.priors.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishart,
    as_parameters,
    from_parameters,
)
from tsppl.inference.gibbs.block import NotConjugateError


def regression_conditional(data, states, coefficients, covariance):
    """The :class:`MatrixNormalInverseWishart` of every state, batch ``(K,)``, that a Gibbs update draws from.

    Args:
        data: :class:`~tsppl.inference.gibbs.states.complete_data.CompleteData`.
        states: int ``(..., T)``.
        coefficients: name of the site of the coefficients, or of coefficients and covariance together.
        covariance: name of the site of the covariance, or None.
    """
    prior = _prior(data, coefficients, covariance)
    num_states, (num_outputs, num_inputs) = data.distribution.num_states, prior.loc.shape[-2:]
    if prior.loc.ndim != 3 or prior.loc.shape[0] != num_states:
        raise NotConjugateError(f"its batch is {prior.loc.shape[:-2]}, not the number of states, {num_states}")
    try:
        rows = data.distribution.regression_rows(data.sequence.value, states.shape[:-1])
    except NotImplementedError as error:
        raise NotConjugateError(str(error)) from None
    inputs, outputs = rows.inputs, rows.outputs
    if outputs.shape[1] != num_outputs or num_inputs != inputs.shape[1]:
        raise NotConjugateError(
            f"its event has {num_outputs} outputs and {num_inputs} inputs; the sequence has {outputs.shape[1]} and "
            f"{inputs.shape[1]}, the last of them constant"
        )
    statistics = regression_statistics(inputs, outputs, rows.labels(states), num_states)
    posterior = jax.vmap(regression_posterior)(prior, statistics)
    return from_parameters(posterior)


def _prior(data, coefficients, covariance):
    if covariance is None:
        prior, batch_shape = data.prior(coefficients, MatrixNormalInverseWishart)
        parameters = prior.parameters
    else:
        noise, batch_shape = data.prior(covariance, dist.InverseWishart)
        matrix, matrix_batch = data.prior(coefficients, dist.MatrixNormal)
        if matrix_batch != batch_shape:
            raise NotConjugateError(f"{coefficients} has batch {matrix_batch} and {covariance} has {batch_shape}")
        parameters = as_parameters(matrix.loc, matrix.scale_tril_column, noise.concentration, noise.scale_tril)
    cores = MatrixNormalInverseWishartParameters(2, 2, 0, 2)
    return MatrixNormalInverseWishartParameters(
        *(
            jnp.broadcast_to(array, batch_shape + array.shape[array.ndim - core :])
            for array, core in zip(parameters, cores, strict=True)
        )
    )
