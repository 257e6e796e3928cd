"""The cascade as a model: its config, its folder, loading, and rows that meet only the members they need."""
