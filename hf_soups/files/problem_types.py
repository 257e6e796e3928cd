"""Problem types: whether a row has one class of several, any number of labels, or a number; as config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from hf_soups.errors import CheckpointError

ProblemType = Literal["classification", "multi-label", "regression"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)
CLASSIFICATION, MULTI_LABEL, REGRESSION = PROBLEM_TYPES

InConfig = Literal["single_label_classification", "multi_label_classification", "regression"]
IN_CONFIG: Mapping[ProblemType, InConfig] = {  # as transformers' configs call them
    CLASSIFICATION: "single_label_classification",
    MULTI_LABEL: "multi_label_classification",
    REGRESSION: "regression",
}
OF_CONFIG: Mapping[str, ProblemType] = {name: problem_type for problem_type, name in IN_CONFIG.items()}


def problem_type_of(config: Mapping[str, Any]) -> ProblemType:
    """How the logits of a model are read, by its config.json: as transformers' text-classification pipeline does.

    A single logit without `problem_type: regression` is one label that is true or not.

    >>> problem_type_of({"id2label": {"0": "toxic"}}), problem_type_of({"problem_type": "regression", "num_labels": 1})
    ('multi-label', 'regression')
    """
    own = OF_CONFIG.get(str(config.get("problem_type")))
    if own == REGRESSION:
        return REGRESSION
    return MULTI_LABEL if own == MULTI_LABEL or logits_of(config) == 1 else CLASSIFICATION


def logits_of(config: Mapping[str, Any]) -> int:
    """How many logits a row gets, by config.json, which leaves two unnamed labels out."""
    return len(config.get("id2label") or ()) or int(config.get("num_labels") or 2)


def check_problem_type(config: Mapping[str, Any], wanted: ProblemType, who: object) -> None:
    """Whether a model can answer rows of a problem type.

    Raises:
        CheckpointError: naming `who`, and both types.
    """
    logits = logits_of(config)
    if wanted == REGRESSION and logits != 1:
        raise CheckpointError(
            f"{who}: gives {logits} logits a row, but a regression has one number a row. Give a model with one logit "
            "(num_labels: 1), or set task.problem_type to what the rows are."
        )
    if wanted not in _may_be(config):
        raise CheckpointError(
            f"{who}: a model of problem type {problem_type_of(config)!r} ({logits} logits), but the rows are of "
            f"{wanted!r}. Give a model that was fine-tuned on such rows, or set task.problem_type (or problem_type in "
            "the model's config.json) to what they are."
        )


def _may_be(config: Mapping[str, Any]) -> tuple[ProblemType, ...]:
    """The problem types of a model; several where its config.json does not say which."""
    own, one = OF_CONFIG.get(str(config.get("problem_type"))), logits_of(config) == 1
    if own is None or (one and own == CLASSIFICATION):
        return (MULTI_LABEL, REGRESSION) if one else (CLASSIFICATION, MULTI_LABEL)
    return (own,)
