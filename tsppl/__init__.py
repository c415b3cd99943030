"""Probabilistic time series and point processes for NumPyro."""

from importlib import import_module

from tsppl import (
    datasets as datasets,
    distributions as distributions,
    inference as inference,
    messages as messages,
    nn as nn,
    points as points,
    recurrence as recurrence,
)
from tsppl.cpu import configure_cpu as configure_cpu
from tsppl.data.frames import Sequences as Sequences, sequences as sequences, to_frame as to_frame
from tsppl.data.ragged import nan_to_mask as nan_to_mask, pad as pad
from tsppl.data.tracks import steps_and_turns as steps_and_turns
from tsppl.models import structural as structural
from tsppl.models.dynamic_factors import dynamic_factors as dynamic_factors, two_step_factors as two_step_factors
from tsppl.models.news import News as News, expected_values as expected_values, news as news
from tsppl.posterior.alignment import align_labels as align_labels
from tsppl.posterior.chain_check import ChainCheck as ChainCheck, check_chains as check_chains
from tsppl.posterior.comparison import Comparison as Comparison, compare as compare
from tsppl.posterior.completion import complete as complete
from tsppl.posterior.events import posterior_events as posterior_events, posterior_intensity as posterior_intensity
from tsppl.posterior.export import to_arviz as to_arviz
from tsppl.posterior.forecast import forecast as forecast
from tsppl.posterior.future_scores import FutureScores as FutureScores, leave_future_out as leave_future_out
from tsppl.posterior.held_out import (
    held_out_log_prob as held_out_log_prob,
    hold_out_points as hold_out_points,
    region_log_prob as region_log_prob,
)
from tsppl.posterior.latents import posterior_latents as posterior_latents
from tsppl.posterior.partitions import (
    co_assignment as co_assignment,
    least_squares_labels as least_squares_labels,
    match_events as match_events,
)
from tsppl.posterior.pseudo_residuals import PseudoResiduals as PseudoResiduals, pseudo_residuals as pseudo_residuals
from tsppl.posterior.scoring import log_likelihood as log_likelihood
from tsppl.posterior.stacking import stacking_weights as stacking_weights
from tsppl.posterior.stays import dwell_times as dwell_times, expected_durations as expected_durations
from tsppl.sites.model_check import ModelCheck as ModelCheck, check_model as check_model

__version__ = "0.1.0"


def __getattr__(name):
    """``tsppl.plots``, imported when it is first asked for: Matplotlib is slow to import."""
    if name == "plots":
        return import_module("tsppl.plots")
    raise AttributeError(f"module 'tsppl' has no attribute {name!r}")
