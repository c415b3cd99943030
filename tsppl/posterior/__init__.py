"""What people do after sampling, on draws and trees; exported by ``tsppl``."""
