"""Points in time and space: windows, families of clusters, labels; arrays and JAX, no NumPyro."""

from tsppl.points.clusters.cluster import Cluster as Cluster
from tsppl.points.clusters.counts import SequenceCounts as SequenceCounts, sequence_counts as sequence_counts
from tsppl.points.clusters.document_cluster import DocumentCluster as DocumentCluster
from tsppl.points.clusters.gaussian_cluster import GaussianCluster as GaussianCluster
from tsppl.points.clusters.gaussian_inverse_wishart_cluster import (
    GaussianInverseWishartCluster as GaussianInverseWishartCluster,
)
from tsppl.points.clusters.sequence_cluster import SequenceCluster as SequenceCluster
from tsppl.points.labels.clustered_points import (
    Clusters as Clusters,
    clusters_of_labels as clusters_of_labels,
    log_density_given_labels as log_density_given_labels,
    log_intensity_given_labels as log_intensity_given_labels,
)
from tsppl.points.labels.compound_poisson import (
    canonical_labels as canonical_labels,
    cluster_sizes as cluster_sizes,
    draw_labels as draw_labels,
    draw_total_concentration as draw_total_concentration,
    log_count_prob as log_count_prob,
    log_label_total as log_label_total,
    log_label_weight as log_label_weight,
)
from tsppl.points.labels.rates import NeymanScottRates as NeymanScottRates
from tsppl.points.labels.split_merge import SplitMerge as SplitMerge, split_or_merge as split_or_merge
from tsppl.points.labels.sweep import Sweep as Sweep, sweep_labels as sweep_labels
from tsppl.points.labels.sweep_chunked import (
    ChunkLayout as ChunkLayout,
    chunk_layout as chunk_layout,
    sweep_labels_chunked as sweep_labels_chunked,
)
from tsppl.points.labels.sweep_numba import sweep_labels_numba as sweep_labels_numba
from tsppl.points.windows.intervals import Intervals as Intervals
from tsppl.points.windows.polygon import Polygon as Polygon
from tsppl.points.windows.regions import Regions as Regions, random_regions as random_regions
from tsppl.points.windows.window import Window as Window
