"""Soup methods, one module each: which checkpoints make a soup, and with which coefficients."""
