"""Conjugate priors on arrays: posteriors, marginal likelihoods and draws."""

from tsppl.conjugate.cluster import Cluster as Cluster
from tsppl.conjugate.document_cluster import DocumentCluster as DocumentCluster
from tsppl.conjugate.gaussian_cluster import GaussianCluster as GaussianCluster
from tsppl.conjugate.gaussian_inverse_wishart_cluster import (
    GaussianInverseWishartCluster as GaussianInverseWishartCluster,
)
from tsppl.conjugate.intervals import Intervals as Intervals
from tsppl.conjugate.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishartParameters as MatrixNormalInverseWishartParameters,
    RegressionStatistics as RegressionStatistics,
    regression_log_marginal as regression_log_marginal,
    regression_posterior as regression_posterior,
    regression_statistics as regression_statistics,
)
from tsppl.conjugate.regions import Regions as Regions, random_regions as random_regions
from tsppl.conjugate.sequence_cluster import SequenceCluster as SequenceCluster
from tsppl.conjugate.sequence_counts import SequenceCounts as SequenceCounts, sequence_counts as sequence_counts
from tsppl.conjugate.transition_rows import (
    draw_probabilities as draw_probabilities,
    draw_shared_tables as draw_shared_tables,
    draw_table_counts as draw_table_counts,
    normalized_gammas as normalized_gammas,
    transition_counts as transition_counts,
)
from tsppl.conjugate.windows import Polygon as Polygon
