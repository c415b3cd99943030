"""Series and tracks from data frames, lists and arrays with gaps; exported by ``tsppl``."""
