"""From a prediction pool on disk to a frontier, a cascade's folder, a certificate, pictures and ensembles."""

from hf_soups.pool.report_rows import Halves, halves
from hf_soups.pool_jobs.build import build_from
from hf_soups.pool_jobs.ensembles import EnsemblesResult, pool_ensembles
from hf_soups.pool_jobs.plans import certify_plan, draw_plan
from hf_soups.pool_jobs.search import SearchResult, search_pool

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
