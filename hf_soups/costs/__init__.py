"""What an answer costs: counted multiply-adds and parameters, measured seconds and memory, each with its unit."""

from hf_soups.costs.unit import Cost, one_unit

__all__ = ["Cost", "one_unit"]
