"""Made-up pools of predictions: members that are right more often than not, and differ."""

from __future__ import annotations

import numpy as np

from hf_soups.predictions import Predictions


def pool(seed: int, members: int, rows: int, classes: int, skill: float = 1.5) -> dict[str, Predictions]:
    """Members m0, m1... by name, labelled; a larger `skill` makes them right more often."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    truth = skill * np.eye(classes)[labels]
    return {
        f"m{i}": Predictions.from_logits(truth + random.normal(0, 1.5, (rows, classes)), labels=labels, model=f"m{i}")
        for i in range(members)
    }
