"""Cascades of tiny models for the demo's tests, each with plans to slide along."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_soups.cascades.plan import Plan
from tests.cascades.made import Made, make


@dataclass(frozen=True)
class Demo:
    """A cascade's folder, its rows, and its plans, the cheapest first."""

    pool: Made
    folder: Path
    plans: tuple[Plan, ...]
    built: Plan

    @property
    def inputs(self) -> list[Any]:
        """As the demo takes them: image files, texts, or pairs."""
        if self.pool.kind != "image":
            return [(r["text"], r["text_pair"]) if isinstance(r, dict) else r for r in self.pool.inputs]
        files = []
        for i, image in enumerate(self.pool.inputs):
            files.append(self.folder.parent / f"image-{i:02d}.png")
            if not files[-1].exists():
                image.save(files[-1])
        return files


def demo_of(kind: str, folder: Path) -> Demo:
    """Three tiny members, and plans over them of which the dearest but one is built."""
    pool = make(kind, folder / "members", rows=24)
    first = next(iter(pool.members))
    chains = {plan.thresholds: plan for plan in (pool.plan((share, 0.5)) for share in (0.8, 0.5, 0.15))}
    plans = []
    for i, plan in enumerate((Plan((first,), (), (1.0,), unit="macs"), *chains.values())):
        told = plan.apply(pool.predictions)
        assert told.costs is not None
        score, average = 0.5 + i / 10, float(told.costs.mean())  # as random models have no score worth a search
        plans.append(replace(plan, score=score, average_cost=average, rows=24))
    out = pool.built(plans[-2], folder / "my-cascade", frontier=plans, max_length=64)
    return Demo(pool, out, tuple(plans), plans[-2])
