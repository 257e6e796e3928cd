"""A service without a model: a text's label is whether its length is odd, and tests decide when it is answered."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_soups.cascades.plan import Plan
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.models.answers import Answers
from hf_soups.serving.served import Served
from tests.makers.patience import PATIENCE

PLANS = (
    Plan(("small", "big"), (0.8,), (1.0, 4.0), score=0.9, average_cost=2.0, exit_shares=(0.75, 0.25), rows=400,
         unit="macs"),
    Plan(("small",), (), (1.0,), score=0.8, average_cost=1.0, unit="macs"),
)  # fmt: skip


class Lengths:
    """Rows longer than 40 letters go on to `big`; "poison" raises whatever it is with."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.batches: list[list[str]] = []

    def answer(self, values: Sequence[Any], plan: Plan) -> Answers:
        assert self.free.wait(PATIENCE)
        texts = [text for text, _ in values]
        self.batches.append(texts)
        if any("poison" in text for text in texts):
            raise RuntimeError("index out of range in self")
        odd = np.array([len(text) % 2 for text in texts])
        probs = np.where(np.eye(2)[odd] > 0, 0.9, 0.1)
        exits = np.array([int(len(text) > 40 and len(plan.members) > 1) for text in texts])
        return Answers(np.log(probs).astype(np.float32), exits, None)

    @property
    def served(self) -> Served:
        return Served("lengths", "text", ("even", "odd"), CLASSIFICATION, PLANS, self.answer, takes_budgets=True)


def expected(text: str) -> str:
    return ("even", "odd")[len(text) % 2]
