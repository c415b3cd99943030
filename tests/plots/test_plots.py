"""The picture of a decoded series has what its caption says."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tsppl import Comparison, PseudoResiduals, plots
from tsppl.plots import plot_decoded_series, plot_model_scores, plot_pseudo_residuals, plot_residuals


@pytest.mark.parametrize("name", [name for name in vars(plots) if name.startswith("plot_")])
def test_plots_draw_on_axes_that_are_given(name):
    """``ax=`` where there is one panel, ``axes=`` where there are several, and never both."""
    parameters = inspect.signature(getattr(plots, name)).parameters
    assert ("ax" in parameters) != ("axes" in parameters)


def test_given_axes_are_drawn_on_and_come_back():
    given = plt.subplots(2, 1)[1]
    axes = plot_decoded_series(np.arange(2), [1, 5], [[0.9, 0.1], [0.2, 0.8]], axes=list(given))
    assert list(axes) == list(given)
    assert given[1].get_ylabel() == "state probability"
    with pytest.raises(ValueError, match=r"axes holds Matplotlib axes in an array of shape \(1,\); pass a list of 2"):
        plot_decoded_series(np.arange(2), [1, 5], [[0.9, 0.1], [0.2, 0.8]], axes=given[0])
    plt.close("all")


def test_decoded_series_shows_observations_levels_probabilities_and_forecast():
    rng = np.random.default_rng(0)
    above, below = plot_decoded_series(
        np.arange(6), rng.poisson(5, 6), rng.dirichlet(np.ones(2), 6), state_names=["low", "high"],
        state_levels=[2.0, 8.0], future_times=np.arange(6, 9), forecast=rng.poisson(5, (4, 10, 3)), ylabel="counts",
    )  # fmt: skip
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    assert labels == [
        "observed", "mean of most probable state", "forecast, 90 %", "forecast, 50 %", "forecast, median",
    ]  # fmt: skip
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["low", "high"]
    assert below.get_ylim() == (0.0, 1.0)
    assert above.get_ylabel() == "counts"
    plt.close(above.figure)


def test_residuals_are_drawn_with_their_band():
    """The band is Kolmogorov's, the curve of waits that are twice too long leaves it, and bad input is named."""
    residuals = np.random.default_rng(1).exponential(size=300)
    for factor, leaves in ((1.0, False), (2.0, True)):
        axes = plot_residuals(factor * residuals)
        curve = axes.lines[1].get_xydata()
        assert (abs(curve[:, 1] - curve[:, 0]).max() > 0.078) == leaves  # 1.358 / sqrt(300), and a little less
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels[:2] == ["95% band, true process", "expected"]
        assert labels[2].startswith("300 residuals\n(Kolmogorov-Smirnov p")
        plt.close(axes.figure)
    with pytest.raises(ValueError, match="must be a vector of numbers from 0"):
        plot_residuals(-residuals)


def test_scores_of_models_are_in_order_and_below_the_best():
    scores, errors, below = np.array([-40.0, -43.0, -55.0]), np.array([0.0, 2.0, 4.0]), np.array([0.0, 3.0, 15.0])
    found = Comparison(("3", "10", "1"), scores, errors, below, errors, errors, errors, 50, "left-out", "sequence")
    axes = plot_model_scores(found)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3", "10"]
    assert axes.lines[0].get_ydata().tolist() == [-15.0, 0.0, -3.0]
    assert axes.get_ylabel().endswith("over 50 sequences")


def test_pseudo_residuals_are_drawn_from_the_object_or_from_the_normal_ones():
    normal = np.random.default_rng(0).normal(size=60)
    for residuals in (PseudoResiduals(np.full(60, 0.5), normal), normal):
        axes = plot_pseudo_residuals(residuals)
        assert axes[0].get_legend().get_texts()[1].get_text().startswith("60 residuals")
        plt.close(axes[0].figure)
