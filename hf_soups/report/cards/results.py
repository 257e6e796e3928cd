"""The scores of a card as the Hub takes them: model-index in the metadata, and a file of `.eval_results/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.report.cards.facts import CHOSEN, Facts, Score
from hf_soups.tasks import SHIFT, Task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

EVAL_FILE = Path(".eval_results/hf_soups.yaml")
HUB_METRICS = {"accuracy_f1": ("accuracy", "f1"), "f1_macro": ("f1",), "matthews": ("matthews_correlation",)}
OURS = re.compile(rf"\S+ on (select|report|{SHIFT}\w+)( \({CHOSEN}\))?")  # the names of scores that a card was given


def hub_metrics(metric: str | None) -> list[str] | None:
    """The Hub's names of what a metric consists of.

    >>> hub_metrics("accuracy_f1"), hub_metrics("accuracy"), hub_metrics(None)
    (['accuracy', 'f1'], ['accuracy'], None)
    """
    return list(HUB_METRICS.get(metric, (metric,))) if metric else None


def eval_results(facts: Facts, task: Task | None, data_set: str | None) -> list[EvalResult] | None:
    """Every score of the facts, with the split that its rows are from where the task is known."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=facts.pipeline_tag,
            dataset_type=data_set or "not-recorded",
            dataset_name=(task.name if task is not None else "") or data_set or "not recorded",
            dataset_split=_split(score.role, task),
            metric_type="matthews_correlation" if score.metric == "matthews" else score.metric,
            metric_value=score.value,
            metric_name=score.name,
            dataset_config=task.config if task is not None else None,
            dataset_revision=task.revision if task is not None else None,
        )
        for score in facts.scores
    ] or None


def published(facts: Facts) -> tuple[Score, ...]:
    """The scores that may stand beside those of others: of the metric chosen by, on rows that nothing was chosen on."""
    return tuple(s for s in facts.scores if s.role == "report" and s.metric == facts.metric and not s.optimistic)


def eval_entries(scores: Sequence[Score], task: Task | None, data_set: str | None) -> str:
    """YAML for `.eval_results/`; empty where there is no such score, no data set of the Hub, or no such format yet."""
    import yaml

    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:  # huggingface_hub before it knew the format
        return ""
    if task is None or data_set is None or not scores:
        return ""
    name, revision = task.config or "default", task.revision
    entries = [
        EvalResultEntry(data_set, name, s.value, dataset_revision=revision, notes=f"{s.metric} on {task.report}")
        for s in scores
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))


def stored_values(text: str) -> list[Any]:
    """The values in a file of `.eval_results/`; one that is no such file holds none."""
    import yaml

    told = yaml.safe_load(text)
    return [e.get("value") for e in told if isinstance(e, dict)] if isinstance(told, list) else []


def _split(role: str, task: Task | None) -> str:
    """The name of the split that a role's rows are from; select rows are cut from train."""
    if task is None:
        return role
    if role.startswith(SHIFT) and (name := role.removeprefix(SHIFT)) in task.shifts:
        return task.of_shift(name).report
    return {"select": task.train, "report": task.report}.get(role, role)
