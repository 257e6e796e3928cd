"""Contenders: every run, soup, ensemble and cascade of a sweep with all that each answered, from files alone.

`contender` says what they are, `reading` finds runs and soups, `ensembles` and `cascades` are made from these.
"""

from hf_soups.contenders.cascades import search_among, with_cascades
from hf_soups.contenders.contender import KINDS, UNUSABLE, Contender, Contenders, Row, rank_of
from hf_soups.contenders.reading import pointers, read_contenders

__all__ = [
    "KINDS",
    "UNUSABLE",
    "Contender",
    "Contenders",
    "Row",
    "pointers",
    "rank_of",
    "read_contenders",
    "search_among",
    "with_cascades",
]
