"""Sequence distributions for NumPyro models."""

from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM as AutoregressiveHMM
from tsppl.distributions.autoregressive.lag_coefficients import (
    lag_coefficients as lag_coefficients,
    lag_weights as lag_weights,
)
from tsppl.distributions.autoregressive.mean_switching_autoregression import (
    MeanSwitchingAutoregression as MeanSwitchingAutoregression,
)
from tsppl.distributions.autoregressive.salt import SALT as SALT
from tsppl.distributions.autoregressive.steady_predictor import (
    LowRankReport as LowRankReport,
    low_rank_report as low_rank_report,
)
from tsppl.distributions.emissions.streams import Streams as Streams
from tsppl.distributions.emissions.wrapped_cauchy import WrappedCauchy as WrappedCauchy
from tsppl.distributions.emissions.zero_inflated import ZeroInflated as ZeroInflated
from tsppl.distributions.gaussians import gaussian_parameters as gaussian_parameters
from tsppl.distributions.hidden_markov.hidden_markov import HiddenMarkov as HiddenMarkov
from tsppl.distributions.hidden_markov.hidden_semi_markov import HiddenSemiMarkov as HiddenSemiMarkov
from tsppl.distributions.hidden_markov.markov_chain import MarkovChain as MarkovChain
from tsppl.distributions.hidden_markov.transitions import (
    restrict_states as restrict_states,
    sample_hierarchical_transitions as sample_hierarchical_transitions,
    stationary_probs as stationary_probs,
    sticky_dirichlet as sticky_dirichlet,
    transition_probs_from_rates as transition_probs_from_rates,
)
from tsppl.distributions.linear_gaussian import kl_divergence as _kl_divergence  # noqa: F401, registers with NumPyro
from tsppl.distributions.linear_gaussian.linear_gaussian_chain import LinearGaussianChain as LinearGaussianChain
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM as LinearGaussianSSM
from tsppl.distributions.points.inhomogeneous_poisson_process import (
    InhomogeneousPoissonProcess as InhomogeneousPoissonProcess,
)
from tsppl.distributions.points.neyman_scott import ExpectedCounts as ExpectedCounts, NeymanScott as NeymanScott
from tsppl.distributions.points.neyman_scott_given_events import ClusterIntensity as ClusterIntensity
from tsppl.distributions.points.neyman_scott_simulation import PointPattern as PointPattern
from tsppl.distributions.points.neyman_scott_sites import (
    ClusteredPoints as ClusteredPoints,
    ClusterLabels as ClusterLabels,
    PointCount as PointCount,
)
from tsppl.distributions.points.neyman_scott_unseen import UnseenPoints as UnseenPoints
from tsppl.distributions.points.point_process import PointProcess as PointProcess
from tsppl.distributions.points.poisson_process import (
    PiecewisePoissonProcess as PiecewisePoissonProcess,
    PoissonLike as PoissonLike,
    PoissonPoints as PoissonPoints,
    PoissonProcess as PoissonProcess,
)
from tsppl.distributions.priors.low_rank_prior import (
    low_rank_values as low_rank_values,
    sample_low_rank_factors as sample_low_rank_factors,
)
from tsppl.distributions.priors.matrix_normal_inverse_wishart import (
    MatrixNormalInverseWishart as MatrixNormalInverseWishart,
    NormalInverseWishart as NormalInverseWishart,
)
from tsppl.distributions.priors.recurrent_cell_prior import sample_cell_params as sample_cell_params
from tsppl.distributions.recurrent.nonlinear_dynamics import NonlinearDynamics as NonlinearDynamics
from tsppl.distributions.recurrent.recurrent_series import RecurrentSeries as RecurrentSeries
from tsppl.distributions.sequence import SequenceDistribution as SequenceDistribution
from tsppl.distributions.switching.switching_linear_dynamics import (
    RecurrentTransitions as RecurrentTransitions,
    SwitchingLinearDynamics as SwitchingLinearDynamics,
)
from tsppl.points import (
    Cluster as Cluster,
    DocumentCluster as DocumentCluster,
    GaussianCluster as GaussianCluster,
    GaussianInverseWishartCluster as GaussianInverseWishartCluster,
    Intervals as Intervals,
    Polygon as Polygon,
    Regions as Regions,
    SequenceCluster as SequenceCluster,
    Window as Window,
    random_regions as random_regions,
)
