"""Conjugate priors on arrays: posteriors, marginal likelihoods and draws."""

from tsppl.conjugate.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishartParameters as MatrixNormalInverseWishartParameters,
    RegressionStatistics as RegressionStatistics,
    regression_log_marginal as regression_log_marginal,
    regression_posterior as regression_posterior,
    regression_statistics as regression_statistics,
)
from tsppl.conjugate.transition_rows import (
    draw_probabilities as draw_probabilities,
    draw_shared_tables as draw_shared_tables,
    draw_table_counts as draw_table_counts,
    normalized_gammas as normalized_gammas,
    transition_counts as transition_counts,
)
