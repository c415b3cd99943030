"""Inference beyond NumPyro's: expectation-maximisation, starting points, and state labels that agree."""

from tsppl.inference.alignment import align_labels as align_labels
