"""Pictures of clusters show what their captions say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import tsppl
from tsppl import plots

TIMES, PLACES = np.array([0.1, 0.2, 0.3, 2.0, 2.1]), np.arange(10.0).reshape(5, 2)
LABELS = np.array([0, 0, -1, 1, 1])
DRAWS = np.array([[0, 0, -1, 1, 1], [0, 0, 0, 1, 1]])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_clusters_in_time_have_a_row_each_and_the_background_the_lowest():
    axes = plots.plot_clusters(TIMES, LABELS, window=(0.0, 3.0))
    found = {row.get_lineoffset(): [float(segment[0, 0]) for segment in row.get_segments()] for row in axes.collections}
    assert found == {0: [0.3], 1: [0.1, 0.2], 2: [2.0, 2.1]}
    assert axes.get_xlim() == (0.0, 3.0)
    assert axes.get_title(loc="left") == "2 clusters, 1 of 5 points background"


def test_clusters_in_the_plane_have_their_own_marks():
    axes = plt.subplots()[1]
    assert plots.plot_clusters(PLACES, LABELS, ax=axes) is axes
    background, *clusters = axes.collections
    assert background.get_offsets().tolist() == PLACES[LABELS < 0].tolist()
    assert [marks.get_offsets().tolist() for marks in clusters] == [PLACES[:2].tolist(), PLACES[3:].tolist()]
    assert len({tuple(marks.get_facecolor()[0]) for marks in clusters}) == 2
    assert axes.get_legend().get_texts()[0].get_text() == "background"
    with pytest.raises(ValueError, match=r"points has shape \(5, 3\); pass"):
        plots.plot_clusters(np.zeros((5, 3)), LABELS)


def test_event_histograms_integrate_to_the_number_of_events():
    places = np.array([[[0.5, 1.5], [0.6, np.nan]], [[0.4, 1.4], [0.5, 1.6]]])
    matched = np.stack([places[..., 0], np.full((2, 2), 1.5)], -1)
    above, below = plots.plot_event_places(places, window=(0.0, 2.0), matched=matched, num_bins=20)
    histogram = below.patches[0].get_data()
    assert np.sum(histogram.values * np.diff(histogram.edges)) == pytest.approx(7 / 4)
    spans = [segment[:, 0].tolist() for segment in above.collections[0].get_segments()]
    assert spans == [pytest.approx(np.quantile(places[..., 0], [0.05, 0.95]).tolist()), [1.5, 1.5]]
    plane = np.stack([places, places + 1], -1)
    (image,) = plots.plot_event_places(plane, window=[[0.0, 0.0], [2.0, 3.0]], matched=plane[..., :1, :], num_bins=10)
    density = image.collections[0].get_array()
    assert density.sum() * 0.2 * 0.3 == pytest.approx(7 / 4)


def test_co_assignment_is_sorted_by_cluster_with_the_background_last():
    together = tsppl.co_assignment(DRAWS)
    image = plots.plot_co_assignment(together, LABELS).images[0].get_array()
    order = [0, 1, 3, 4, 2]
    assert np.array_equal(image, together.toarray()[np.ix_(order, order)])
    with pytest.raises(ValueError, match="too many points to be seen"):
        plots.plot_co_assignment(np.zeros((2001, 2001)))


def test_numbers_of_clusters_over_draws_and_their_probabilities():
    left, right = plots.plot_num_clusters(np.array([[3, 4, 4], [4, 5, 4]]), true=4)
    assert [line.get_label() for line in left.lines] == ["chain 0", "chain 1", "true"]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([1 / 6, 4 / 6, 1 / 6])


def test_intensity_has_a_band_in_time_and_is_a_map_in_the_plane():
    draws = np.arange(12.0).reshape(2, 2, 3)
    axes = plots.plot_intensity(np.arange(3), draws, points=TIMES)
    assert axes.lines[0].get_ydata().tolist() == draws.mean((0, 1)).tolist()
    grid = np.arange(2), np.arange(3)
    axes = plots.plot_intensity(grid, draws.reshape(2, 2, 3), points=PLACES[:2])
    assert axes.collections[0].get_array().tolist() == draws.mean(0).T.tolist()
