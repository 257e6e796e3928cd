"""Models: the table of families, loading, adapters, the one inference loop, and what an answer costs."""
