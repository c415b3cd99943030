"""Message passing on arrays, one sequence at a time; batch with ``jax.vmap``."""

from tsppl.messages.hidden_markov.evidence import (
    hidden_markov_smooth as hidden_markov_smooth,
    log_normalizer as log_normalizer,
)
from tsppl.messages.hidden_markov.forward_backward import (
    Forward as Forward,
    Statistics as Statistics,
    hidden_markov_backward as hidden_markov_backward,
    hidden_markov_forward as hidden_markov_forward,
    hidden_markov_left_out as hidden_markov_left_out,
)
from tsppl.messages.hidden_markov.paths import (
    most_likely_path as most_likely_path,
    path_log_prob as path_log_prob,
    sample_path as sample_path,
    simulate_path as simulate_path,
)
from tsppl.messages.hidden_markov.sharded import (
    sharded_log_normalizer as sharded_log_normalizer,
    sharded_smooth as sharded_smooth,
)
from tsppl.messages.linear_gaussian.chain import (
    Marginals as Marginals,
    chain_divergence as chain_divergence,
    chain_entropy as chain_entropy,
    chain_gaussians as chain_gaussians,
    chain_left_out as chain_left_out,
    chain_log_prob_steps as chain_log_prob_steps,
    chain_marginals as chain_marginals,
    simulate_chain as simulate_chain,
)
from tsppl.messages.linear_gaussian.filter import Filtered as Filtered, kalman_filter as kalman_filter
from tsppl.messages.linear_gaussian.likelihood import kalman_log_likelihood as kalman_log_likelihood
from tsppl.messages.linear_gaussian.sharded import (
    sharded_kalman_filter as sharded_kalman_filter,
    sharded_kalman_log_likelihood as sharded_kalman_log_likelihood,
    sharded_kalman_smoother as sharded_kalman_smoother,
)
from tsppl.messages.linear_gaussian.smoother import (
    kalman_left_out as kalman_left_out,
    kalman_smoother as kalman_smoother,
    sample_trajectory as sample_trajectory,
    tilt_chain as tilt_chain,
)
from tsppl.messages.linear_gaussian.steps import AffineGaussian as AffineGaussian, Gaussian as Gaussian
