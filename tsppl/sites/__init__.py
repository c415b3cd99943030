"""Reading a user's NumPyro model: its sequence sites, their axes, and whether it is sound; exported by ``tsppl``."""
