"""One member of a cascade, loaded without the others: where each is on a machine of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.cascades.running.members import load_members
from hf_soups.errors import MemberError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION, OF_CONFIG, ProblemType
from hf_soups.models.answers import Answers
from hf_soups.models.classifier import Classifier
from hf_soups.models.family import Batch
from hf_soups.models.inference import on_device
from hf_soups.models.readers import RawRows
from hf_soups.predictions.predictions import answers_of, at_temperature


def member_logits(member: Classifier, batch: Batch) -> torch.Tensor:
    """Logits of a batch, in the member's own precision and on its device."""
    weight = next(member.model.parameters())
    batch = {name: v.to(weight.dtype) if v.is_floating_point() else v for name, v in batch.items()}
    return member.logits(on_device(batch, weight.device))


@dataclass(frozen=True, eq=False)
class LoneMember:
    """What one member of a cascade answers, at its temperature in a plan; see `hf_soups.models.classifier.Answerer`."""

    name: str
    member: Classifier
    temperature: float
    label_names: tuple[str, ...]
    problem_type: ProblemType
    kind: str
    unit: str = ""
    abstains: bool = False

    @torch.inference_mode()
    def answer(self, values: Sequence[Any]) -> Answers:
        """Its answers alone; every row exits at the only stage."""
        rows, logits = RawRows(values, len(values)), np.empty((len(values), len(self.label_names)), dtype=np.float32)
        for piece, batch in rows.pieces(0, self.member.reader.read, np.arange(len(values))):
            logits[piece] = member_logits(self.member, batch).cpu().numpy()
        try:
            own = at_temperature(answers_of(logits, self.problem_type), self.temperature, self.problem_type)
        except PredictionsError as error:
            raise MemberError(f"member {self.name!r} of the cascade: {error}") from error
        return Answers(own, np.zeros(len(values), dtype=np.int64), None)


def lone_member(
    config: CascadeConfig,
    source: str,
    plan: Plan,
    stage: int,
    *,
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    hub: Mapping[str, Any] | None = None,
) -> LoneMember:
    """Load the member of a plan's stage.

    Args:
        config: of the cascade.
        source: folder or Hub repo of the cascade.
        plan: over its members.
        stage: of the plan.
        dtypes: of members by name, instead of their own.
        device: to run on.
        hub: how to reach the Hub, as in `load_members`.
    Raises:
        MemberError: if it cannot be loaded.
    """
    name = plan.members[stage]
    (member,) = load_members(config, source, dtypes=dtypes, devices={name: device}, hub=hub, only=name)
    temperature = plan.temperatures[stage] if plan.temperatures else 1.0
    of_type = OF_CONFIG.get(str(config.problem_type), CLASSIFICATION)
    return LoneMember(name, member, temperature, config.label_names, of_type, str(config.kind), plan.unit)
