"""From a prediction pool on disk to a frontier, a cascade's folder, a certificate, pictures and ensembles."""

from hf_soups.from_pool.build import build_from
from hf_soups.from_pool.certify import certify_plan
from hf_soups.from_pool.draw import draw_plan
from hf_soups.from_pool.ensembles import EnsemblesResult, pool_ensembles
from hf_soups.from_pool.halves import Halves, halves
from hf_soups.from_pool.search import SearchResult, search_pool

__all__ = [
    "EnsemblesResult",
    "Halves",
    "SearchResult",
    "build_from",
    "certify_plan",
    "draw_plan",
    "halves",
    "pool_ensembles",
    "search_pool",
]
