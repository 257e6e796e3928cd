"""Pushing soups and cascades to the Hub: one commit each, none when nothing changed."""

from hf_soups.hub.contents import LocalFile
from hf_soups.hub.pushing import Pushed, push

__all__ = ["LocalFile", "Pushed", "push"]
