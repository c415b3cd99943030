"""Inference beyond NumPyro's: expectation-maximisation, Gibbs blocks, starting points and long runs."""

from tsppl.inference.expectation_maximization.data_driven_starts import data_driven_start as data_driven_start
from tsppl.inference.expectation_maximization.em import EMResult as EMResult, em as em
from tsppl.inference.expectation_maximization.low_rank_selection import (
    LowRankSelection as LowRankSelection,
    select_low_rank as select_low_rank,
)
from tsppl.inference.expectation_maximization.low_rank_starts import (
    grow_rank as grow_rank,
    low_rank_factors as low_rank_factors,
)
from tsppl.inference.gibbs.block import GibbsBlock as GibbsBlock, NotConjugateError as NotConjugateError
from tsppl.inference.gibbs.points.annealing import BestStart as BestStart, anneal as anneal, best_start as best_start
from tsppl.inference.gibbs.points.label_gibbs import LabelGibbs as LabelGibbs
from tsppl.inference.gibbs.points.sequence_gibbs import SequenceGibbs as SequenceGibbs
from tsppl.inference.gibbs.states.automatic_gibbs import auto_gibbs as auto_gibbs
from tsppl.inference.gibbs.states.conjugate_updates import (
    GaussianUpdate as GaussianUpdate,
    HierarchicalRowsUpdate as HierarchicalRowsUpdate,
    ProbabilityUpdate as ProbabilityUpdate,
    RateUpdate as RateUpdate,
    RegressionUpdate as RegressionUpdate,
)
from tsppl.inference.gibbs.states.state_gibbs import StateGibbs as StateGibbs
from tsppl.inference.runs.chunked_runs import read_chunks as read_chunks, run_in_chunks as run_in_chunks
from tsppl.inference.runs.program_reuse import compile_once as compile_once
from tsppl.inference.starts.start_search import FoundStarts as FoundStarts, find_starts as find_starts
from tsppl.inference.starts.starting import starting_params as starting_params
