"""The quickstart: the whole job in minutes on handwritten digits."""

from hf_soups.quickstart.job import quickstart

__all__ = ["quickstart"]
