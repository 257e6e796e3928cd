"""The scores of a card as the Hub takes them: model-index in the metadata, and a file of `.eval_results/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.files.downloads import is_repo_id
from hf_soups.metrics import traits_of
from hf_soups.recipe.task import SHIFT
from hf_soups.report.cards.card_facts import CHOSEN, CardFacts, CardScore
from hf_soups.report.cards.data import DataUsed

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

EVAL_FILE = Path(".eval_results/hf_soups.yaml")
OURS = re.compile(rf"\S+ on (select|report|{SHIFT}\w+)( \({CHOSEN}\))?")  # the names of scores that a card was given


def hub_metrics(metric: str | None) -> list[str] | None:
    """The Hub's names of what a metric consists of.

    >>> hub_metrics("accuracy_f1"), hub_metrics("accuracy"), hub_metrics(None)
    (['accuracy', 'f1'], ['accuracy'], None)
    """
    return list(traits_of(metric).hub_parts or (_hub_name(metric),)) if metric else None


def _hub_name(metric: str) -> str:
    return traits_of(metric).hub_name or metric


def eval_results(facts: CardFacts, data_set: str | None) -> list[EvalResult] | None:
    """Every score of the facts, with the split that its rows are from where the data are known."""
    return [_eval_result(facts, score, data_set) for score in facts.scores] or None


def _eval_result(facts: CardFacts, score: CardScore, data_set: str | None) -> EvalResult:
    from huggingface_hub import EvalResult

    data = facts.data or DataUsed("")
    other = data.elsewhere.get(score.role)
    place = data if other is None else other
    known = data_set if other is None else other.path if is_repo_id(other.path) else None
    return EvalResult(
        task_type=facts.pipeline_tag,
        dataset_type=known or "not-recorded",
        dataset_name=place.name or known or place.path.removeprefix("./") or "not recorded",
        dataset_split=data.splits.get(score.role, score.role),
        metric_type=_hub_name(score.metric),
        metric_value=score.value,
        metric_name=score.name,
        dataset_config=place.config,
        dataset_revision=place.revision,
    )


def published(facts: CardFacts) -> tuple[CardScore, ...]:
    """The scores that may stand beside those of others: of the metric chosen by, on rows that nothing was chosen on."""
    return tuple(s for s in facts.scores if s.role == "report" and s.metric == facts.metric and not s.optimistic)


def eval_entries(facts: CardFacts, data_set: str | None) -> str:
    """YAML for `.eval_results/`; empty where there is no such score, no data set of the Hub, or no such format yet."""
    import yaml

    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:  # huggingface_hub before it knew the format
        return ""
    scores, data = published(facts), facts.data
    if data is None or data_set is None or not scores:
        return ""
    entries = [
        EvalResultEntry(
            data_set,
            data.config or "default",
            s.value,
            dataset_revision=data.revision,
            notes=f"{s.metric} on {f'{s.rows} rows of ' if s.rows else ''}{data.splits.get('report', 'report')}",
        )
        for s in scores
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))


def stored_values(path: Path) -> list[Any]:
    """The values in a file of `.eval_results/`; one that is no such file holds none.

    Raises:
        InputError: if it is no valid YAML.
    """
    from hf_soups.files.plain_yaml import read_yaml

    told = read_yaml(path)
    return [e.get("value") for e in told if isinstance(e, dict)] if isinstance(told, list) else []
