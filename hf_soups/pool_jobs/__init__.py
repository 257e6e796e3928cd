"""From a prediction pool on disk to a frontier, a cascade's folder, a certificate, pictures and ensembles."""

from hf_soups.pool.report_rows import SelectAndReport, select_and_report
from hf_soups.pool_jobs.abstaining import AbstainResult, abstain_plan, certify_plan_risk
from hf_soups.pool_jobs.build import build_from
from hf_soups.pool_jobs.deferring import DeferralResult, defer_plan
from hf_soups.pool_jobs.ensembles import EnsemblesResult, pool_ensembles
from hf_soups.pool_jobs.plans import certify_plan, draw_plan
from hf_soups.pool_jobs.search import SearchResult, search_pool

__all__ = [
    "AbstainResult",
    "DeferralResult",
    "EnsemblesResult",
    "SearchResult",
    "SelectAndReport",
    "abstain_plan",
    "build_from",
    "certify_plan",
    "certify_plan_risk",
    "defer_plan",
    "draw_plan",
    "pool_ensembles",
    "search_pool",
    "select_and_report",
]
