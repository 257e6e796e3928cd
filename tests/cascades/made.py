"""Pools of tiny random models with their predictions, and cascades built from them, for tests of the running model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Committee, Rule
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.data import Split
from hf_soups.models.inference import predict_split
from hf_soups.models.registry import family_for
from hf_soups.models.vision import for_image_size
from hf_soups.pool.store import Member
from hf_soups.predictions import Predictions
from hf_soups.recipe import Data
from tests.makers.tiny import tiny_bert, tiny_distilbert, tiny_resnet, tiny_roberta, tiny_vit
from tests.models.conftest import rows_of, split_of, task_of

IMAGES = {"vit": tiny_vit, "resnet": tiny_resnet, "other-vit": tiny_vit}
TEXTS = {"bert": tiny_bert, "roberta": tiny_roberta, "distilbert": tiny_distilbert}
NAMES = ("bad", "fine", "good", "great")
# A batch of another shape, or rows padded to another length, are summed in another order: of logits below 1, float32
# rounds at 2^-24 and bfloat16 at 2^-9; temperatures near 0.1 make ten times as much of it.
CLOSE = {"float32": 1e-5, "bfloat16": 1.5e-3}


@dataclass(frozen=True)
class Made:
    """Members, the rows they answered, and what they answered."""

    kind: str
    members: dict[str, Member]
    split: Split
    predictions: dict[str, Predictions]

    @property
    def inputs(self) -> list[Any]:
        """The raw rows, as a pipeline takes them."""
        if self.kind == "image":
            return list(self.split.rows["image"])
        ones = list(self.split.rows["one"])
        if self.kind == "text":
            return ones
        return [{"text": a, "text_pair": b} for a, b in zip(ones, self.split.rows["two"], strict=True)]

    def plan(self, shares: Sequence[float], rule: Rule | None = None, temperatures: tuple[float, ...] = ()) -> Plan:
        """A cascade of all members whose stages let these shares of the rows that reach them go.

        About these shares: a threshold lies in the middle of the widest gap near by, so that rounding flips no exit.
        In float32 it turns no answer either.
        """
        rule = rule or Rule()
        committee, thresholds = Committee(rule), []
        scales = temperatures or (1.0,) * len(self.members)
        rows = np.arange(len(self.split))
        for share, (name, temperature) in zip([*shares, 1.0], zip(self.members, scales, strict=True), strict=True):
            committee = committee.joined(self.predictions[name].at_temperature(temperature).log_probs[rows])
            thresholds.append(_in_a_gap(committee.confidence(), share))
            stays = committee.confidence() < np.float32(thresholds[-1])
            rows, committee = rows[stays], committee.take(stays)
        costs = tuple(float(4**i) for i in range(len(self.members)))
        plan = Plan(tuple(self.members), tuple(thresholds[:-1]), costs, rule, temperatures, unit="macs")
        assert any(m.dtype != "float32" for m in self.members.values()) or clear_of(plan, self.predictions).all()
        return plan

    def built(self, plan: Plan, out: Path, **how: Any) -> Path:
        """The cascade's folder."""
        return build_cascade(plan, self.members, out, kind=self.kind, label_names=NAMES, **how)


def _in_a_gap(confidence: np.ndarray, share: float) -> float:
    ordered = np.unique(confidence).astype(np.float64)
    if len(ordered) == 1:
        return NEVER  # one member always agrees with itself
    low, high = (round((1 - share + off) * len(ordered)) for off in (-0.25, 0.25))
    first = min(max(low, 1), len(ordered) - 1)
    gaps = np.diff(ordered)[first - 1 : max(high, first)]
    at = first - 1 + int(gaps.argmax())
    return float(ordered[at] + ordered[at + 1]) / 2


def clear_of(plan: Plan, pool: Mapping[str, Predictions], close: float = CLOSE["float32"]) -> np.ndarray:
    """Which rows leave and answer as they do though every probability be off by `close`."""
    top = np.sort(plan.apply(pool).probs, axis=1)
    clear: np.ndarray = (_margins(plan, pool) > close) & (top[:, -1] - top[:, -2] > 2 * close)
    return clear


def _margins(plan: Plan, pool: Mapping[str, Predictions]) -> np.ndarray:
    """Of each row the least distance between its confidence and the threshold, over the stages that it reaches."""
    count = len(pool[plan.members[0]])
    committee, rows, least = Committee(plan.rule), np.arange(count), np.full(count, np.inf)
    scales = plan.temperatures or (1.0,) * len(plan.members)
    for name, temperature, threshold in zip(plan.members, scales, (*plan.thresholds, None), strict=True):
        if threshold is None or not len(rows):
            break
        committee = committee.joined(pool[name].at_temperature(temperature).log_probs[rows])
        least[rows] = np.minimum(least[rows], np.abs(committee.confidence() - threshold))
        stays = committee.confidence() < np.float32(threshold)
        rows, committee = rows[stays], committee.take(stays)
    return least


def make(kind: str, folder: Path, *, rows: int = 24, dtype: str = "float32") -> Made:
    """Three models of a kind, each with its predictions on the same rows."""
    split, task = split_of(rows_of(kind, rows)), task_of(kind)
    members, predictions = {}, {}
    table = IMAGES if kind == "image" else TEXTS
    first = 5 if kind == "text-pair" else 0  # the mean of seeds 0, 1 and 2 is torn between two classes of one pair
    for i, (name, build) in enumerate(table.items()):
        ids = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
        source = build(folder / name, labels=4, seed=first + i, **ids)
        members[name] = Member(name, str(source), dtype=dtype, macs=4**i)
        predictions[name] = answers_of(members[name], split, task, kind)
    return Made(kind, members, split, predictions)


def answers_of(member: Member, split: Split, task: Any, kind: str) -> Predictions:
    """What a member answers, by the package's own inference loop."""
    family = family_for(member.checkpoint.config, kind)
    model = family.load(member.checkpoint.folder, dtype=getattr(torch, member.dtype))
    if member.image_size is not None:
        model = for_image_size(model, member.image_size, member.name)
    data = Data(image_size=member.image_size, max_length=64)
    encoded = family.encode(split, family.processor(member.checkpoint.folder), task, data)
    return predict_split(model, _Cast(family), encoded, split, batch_size=5, name=member.name)  # type: ignore[arg-type]


class _Cast:
    """A family that gives pixels in the model's precision, which CNNs ask for."""

    def __init__(self, family: Any) -> None:
        self.family = family

    def logits(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        kind = next(model.parameters()).dtype
        batch = {name: v.to(kind) if v.is_floating_point() else v for name, v in batch.items()}
        logits: torch.Tensor = self.family.logits(model, batch)
        return logits
