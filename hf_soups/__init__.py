"""Model soups, ensembles and cascades of Hugging Face classifiers.

The names below are loaded when they are first used, so that `import hf_soups` costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_soups.ending import end_in_one_line, program_name
from hf_soups.files.publishing import publish_with
from hf_soups.logging import begin
from hf_soups.registration import register_with_transformers

if _program := program_name():  # before anything heavy is imported
    end_in_one_line(_program)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hf_soups.cascades import Frontier, Plan, Rule
    from hf_soups.cascades.certify import certify
    from hf_soups.cascades.deferral import learn_deferral
    from hf_soups.cascades.running.build_folder import build_cascade
    from hf_soups.cascades.running.config import CascadeConfig
    from hf_soups.cascades.running.model import CascadeForImageClassification, CascadeForSequenceClassification
    from hf_soups.cascades.search.exhaustive import search_cascades
    from hf_soups.cascades.selective import certify_risk, coverage_risk
    from hf_soups.checkpoint import Checkpoint
    from hf_soups.cooking import CookResult, Options, cook
    from hf_soups.costs import Cost
    from hf_soups.demo import build_page
    from hf_soups.diagnosis import diagnose
    from hf_soups.ensembles import ensemble, select_ensemble
    from hf_soups.hub import push
    from hf_soups.inspection import inspect_checkpoints
    from hf_soups.leaderboard import Leaderboard, build_leaderboard
    from hf_soups.leaderboard.compare import compare
    from hf_soups.metrics import score
    from hf_soups.models.adapters import multiplied_out
    from hf_soups.models.label_words import WordClassifier
    from hf_soups.pool import read_pool
    from hf_soups.pool.elsewhere import add_answers
    from hf_soups.pool.predict import predict_pool
    from hf_soups.pool_jobs import abstain_plan, build_from, defer_plan, search_pool
    from hf_soups.pool_jobs.exporting import export_onnx
    from hf_soups.predictions import Predictions
    from hf_soups.predictions.calibration import calibrated, fit_temperature
    from hf_soups.recipe import Recipe, load_recipe
    from hf_soups.recipe.task import Task, named_task
    from hf_soups.reporting.drift import watch
    from hf_soups.reporting.page import report
    from hf_soups.serving import build_app
    from hf_soups.soups import Soup, greedy, model_stock, task_vectors, uniform, wise_ft
    from hf_soups.soups.compatibility import preflight
    from hf_soups.soups.methods.learned import learned
    from hf_soups.soups.methods.trajectory import average_of_run, run_checkpoints
    from hf_soups.soups.trainer_callback import SoupCallback
    from hf_soups.sweep import run_sweep

# No public name is the name of a submodule: importing a submodule would put the module in the name's place.
_HOME = {
    "CookResult": "cooking",
    "Leaderboard": "leaderboard",
    "Options": "cooking",
    "compare": "leaderboard.compare",
    "cook": "cooking",
    "push": "hub",
    "report": "reporting.page",
    "watch": "reporting.drift",
    "run_sweep": "sweep",
    "score": "metrics",
    "WordClassifier": "models.label_words",
    "add_answers": "pool.elsewhere",
    "build_app": "serving",
    "abstain_plan": "pool_jobs",
    "build_from": "pool_jobs",
    "defer_plan": "pool_jobs",
    "export_onnx": "pool_jobs.exporting",
    "build_page": "demo",
    "multiplied_out": "models.adapters",
    "search_pool": "pool_jobs",
    "CascadeConfig": "cascades.running.config",
    "CascadeForImageClassification": "cascades.running.model",
    "CascadeForSequenceClassification": "cascades.running.model",
    "Cost": "costs",
    "Frontier": "cascades",
    "Plan": "cascades",
    "Rule": "cascades",
    "build_cascade": "cascades.running.build_folder",
    "calibrated": "predictions.calibration",
    "certify": "cascades.certify",
    "learn_deferral": "cascades.deferral",
    "certify_risk": "cascades.selective",
    "coverage_risk": "cascades.selective",
    "fit_temperature": "predictions.calibration",
    "predict_pool": "pool.predict",
    "read_pool": "pool",
    "search_cascades": "cascades.search.exhaustive",
    "select_ensemble": "ensembles",
    "Checkpoint": "checkpoint",
    "Predictions": "predictions",
    "Recipe": "recipe",
    "Soup": "soups",
    "SoupCallback": "soups.trainer_callback",
    "Task": "recipe.task",
    "build_leaderboard": "leaderboard",
    "diagnose": "diagnosis",
    "ensemble": "ensembles",
    "average_of_run": "soups.methods.trajectory",
    "greedy": "soups",
    "inspect_checkpoints": "inspection",
    "learned": "soups.methods.learned",
    "load_recipe": "recipe",
    "model_stock": "soups",
    "named_task": "recipe.task",
    "preflight": "soups.compatibility",
    "run_checkpoints": "soups.methods.trajectory",
    "task_vectors": "soups",
    "uniform": "soups",
    "wise_ft": "soups",
}

__all__ = [
    "CascadeConfig",
    "CascadeForImageClassification",
    "CascadeForSequenceClassification",
    "Checkpoint",
    "CookResult",
    "Cost",
    "Frontier",
    "Leaderboard",
    "Options",
    "Plan",
    "Predictions",
    "Recipe",
    "Rule",
    "Soup",
    "SoupCallback",
    "Task",
    "WordClassifier",
    "abstain_plan",
    "add_answers",
    "average_of_run",
    "build_app",
    "build_cascade",
    "build_from",
    "build_leaderboard",
    "build_page",
    "calibrated",
    "certify",
    "certify_risk",
    "compare",
    "cook",
    "coverage_risk",
    "defer_plan",
    "diagnose",
    "ensemble",
    "export_onnx",
    "fit_temperature",
    "greedy",
    "inspect_checkpoints",
    "learn_deferral",
    "learned",
    "load_recipe",
    "model_stock",
    "multiplied_out",
    "named_task",
    "predict_pool",
    "preflight",
    "push",
    "read_pool",
    "report",
    "run_checkpoints",
    "run_sweep",
    "score",
    "search_cascades",
    "search_pool",
    "select_ensemble",
    "task_vectors",
    "uniform",
    "watch",
    "wise_ft",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_soups' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hf_soups.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _publish(save: Any, repo_id: str, **options: Any) -> str:
    from hf_soups.hub import push_saved

    return push_saved(save, repo_id, **options).url


begin()
register_with_transformers()
publish_with(_publish)
