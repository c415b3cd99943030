"""The picture of a decoded series has what its caption says."""

import matplotlib.pyplot as plt
import numpy as np

from tsppl.plots import plot_decoded_series


def test_decoded_series_shows_observations_levels_probabilities_and_forecast():
    rng = np.random.default_rng(0)
    figure = plot_decoded_series(
        np.arange(6), rng.poisson(5, 6), rng.dirichlet(np.ones(2), 6), state_names=["low", "high"],
        state_levels=[2.0, 8.0], future_times=np.arange(6, 9), forecast=rng.poisson(5, (4, 10, 3)), ylabel="counts",
    )  # fmt: skip
    above, below = figure.axes
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    assert labels == [
        "observed", "mean of most probable state", "forecast, 90 %", "forecast, 50 %", "forecast, median",
    ]  # fmt: skip
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["low", "high"]
    assert below.get_ylim() == (0.0, 1.0)
    assert above.get_ylabel() == "counts"
    plt.close(figure)
