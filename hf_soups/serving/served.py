"""What a service answers with: a cascade with its plans, or one classifier as a plan of one member."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.batch_predict.run import load_answerer, load_classifier, split_by_member
from hf_soups.cascades.plan import Plan, within_budget
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.cascades.running.model import CascadeModel
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.problem_types import CLASSIFICATION, OF_CONFIG, ProblemType
from hf_soups.models.answers import Answers
from hf_soups.models.classifier import Classifier, PredictSettings
from hf_soups.pool.entries import is_cascade, kind_of_head, one_model
from hf_soups.pool.rows import RowsWanted
from hf_soups.serving.batching import Worker


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model. `answer` is called from one thread alone, with the values of rows and the plan to follow.

    Where `workers` answer instead, they are those of each member by its name, or under "" those of the whole model.
    """

    name: str
    kind: str  # what a row is: image, text or text-pair
    label_names: tuple[str, ...]
    problem_type: ProblemType
    plans: tuple[Plan, ...]
    answer: Callable[[Sequence[Any], Plan], Answers]
    usual: int = 0  # the number of the plan of requests without a budget
    takes_budgets: bool = False
    workers: Mapping[str, Worker] = field(default_factory=dict)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members that some plan meets."""
        return tuple(dict.fromkeys(name for plan in self.plans for name in plan.members))

    def number_of(self, budget: float | None) -> int:
        """The number of the plan that keeps to a budget.

        Raises:
            InputError: if there is none.
        """
        if budget is None:
            return self.usual
        if not self.takes_budgets:
            raise InputError(f"a budget is for cascades; {self.name} is a single classifier.")
        chosen = within_budget(self.plans, budget)
        return next(number for number, plan in enumerate(self.plans) if plan is chosen)


def load_served(
    model: str | Path,
    *,
    budget: float | None = None,
    pair: bool = False,
    dtype: str | Mapping[str, str] | None = None,
    device: str | Mapping[str, str] | None = None,
) -> Served:
    """Load what answers.

    Args:
        model: a cascade's, a soup's or another classifier's folder or Hub repo.
        budget: of requests that name none, see `CascadeModel.budget`.
        pair: a single text classifier takes pairs of texts; a cascade's config says so itself.
        dtype: of the weights, of a cascade also by its members' names. Default: float32; each member's own.
        device: default: the GPU where there is one. Of a cascade also by its members' names.
    Raises:
        InputError: if it is neither, or names members of a single classifier.
        CheckpointError, MemberError: if it cannot be loaded.
    """
    checkpoint = one_model(model)
    (for_all, dtypes), (where, devices) = split_by_member(checkpoint, dtype, device)
    settings = PredictSettings(dtype=for_all or "float32", device=where)
    if is_cascade(checkpoint):
        kind = str(checkpoint.config.get("kind"))
        loaded = load_answerer(checkpoint, settings, RowsWanted(), kind=kind, dtypes=dtypes, devices=devices)
        assert isinstance(loaded, CascadeModel)
        return of_cascade(checkpoint.name, loaded, budget)
    if budget is not None:
        raise InputError(f"{checkpoint}: a budget is for cascades; this is a single classifier.")
    return _of_one(checkpoint, load_classifier(checkpoint, settings, kind_of_head(checkpoint, pair)).cut_at(None))


def of_cascade(name: str, model: CascadeModel, budget: float | None = None) -> Served:
    """A cascade with all plans that it stores; requests without a budget get that of `budget`, or the one as built."""
    assert isinstance(model.config, CascadeConfig)
    return of_config(name, model.config, budget, lambda values, plan: model.answer(values, plan=plan))


def of_config(
    name: str, config: CascadeConfig, budget: float | None, answer: Callable[[Sequence[Any], Plan], Answers]
) -> Served:
    """A cascade that is answered by `answer`; the rest as `of_cascade`."""
    built: Plan = config.built
    plans = tuple(built if plan.way == built.way else plan for plan in config.plans)
    usual = built if budget is None else within_budget(plans, budget)
    return Served(
        name, str(config.kind), config.label_names, OF_CONFIG.get(str(config.problem_type), CLASSIFICATION), plans,
        answer, usual=next(number for number, plan in enumerate(plans) if plan is usual), takes_budgets=True,
    )  # fmt: skip


def _of_one(checkpoint: Checkpoint, one: Classifier) -> Served:
    """One classifier; a row costs its parameters."""
    cost = float(checkpoint.parameters)
    plan = Plan((checkpoint.name,), (), (cost,), average_cost=cost, unit="parameters")
    return Served(
        checkpoint.name, one.kind, one.label_names, one.problem_type, (plan,), lambda values, _: one.answer(values)
    )
