"""Soup methods, one module each: which checkpoints make a soup, and with which coefficients."""

import importlib

from hf_soups.soups.registry import BUILT_IN

for _module in BUILT_IN:
    importlib.import_module(f"{__name__}.{_module}")
