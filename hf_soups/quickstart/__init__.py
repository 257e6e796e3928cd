"""The quickstart: the whole job in minutes on handwritten digits."""

from hf_soups.quickstart.run import quickstart

__all__ = ["quickstart"]
