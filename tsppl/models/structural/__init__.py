"""Structural time series: a level, seasons, cycles and regressors that add up to a series, as one linear-Gaussian model.

Components are added, ``level() + seasonal(12)``, and sampled in one line of a NumPyro model. Source: A. C. Harvey,
"Forecasting, structural time series models and the Kalman filter" (1989).
"""

from tsppl.models.structural.blocks import (
    autoregression as autoregression,
    cycle as cycle,
    level as level,
    regression as regression,
    seasonal as seasonal,
    trend as trend,
)
from tsppl.models.structural.structure import Block as Block, Matrices as Matrices, Structure as Structure
