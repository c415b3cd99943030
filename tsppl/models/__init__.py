"""Ready-made models: structural series, dynamic factors and their news; exported by ``tsppl``."""
