"""Probabilistic time series and point processes for NumPyro."""

__version__ = "0.1.0"
