"""What the card of a cascade says, from its config.json and the records of soups among its members."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.plan import Plan
from hf_soups.costs.unit import UNITS
from hf_soups.report.cards.facts import Facts, Score, hub_ids, rows_in_words
from hf_soups.report.cards.markdown import Table
from hf_soups.report.words import score_in_words
from hf_soups.soups.folder import SOUP_FILE

if TYPE_CHECKING:
    from hf_soups.cascades.running.config import CascadeConfig, Place

COMBINED = {
    "mean": "mean of the probabilities of all members so far",
    "geometric": "geometric mean of the probabilities of all members so far",
    "last": "the last member alone",
}
SURE = {
    "max": "the largest probability",
    "gap": "the gap between the two largest probabilities",
    "entropy": "1 - entropy / log(classes)",
    "agreement": "the share of members whose own answer is the combined one",
}


def cascade_facts(folder: Path, config: CascadeConfig) -> Facts:
    """Facts of a cascade.

    Args:
        folder: where it lies.
        config: its config.
    """
    plan = config.built
    tag = "image-classification" if config.kind == "image" else "text-classification"
    scores = () if math.isnan(plan.score) else (Score(plan.metric, plan.score, "select", optimistic=True),)
    tables = [_results(plan), _selection(config, plan), _members(config, plan), _costs(plan)]
    return Facts(
        record="config.json",
        about=(
            "A cascade: models that are asked one after another until their combined answer is sure enough, so that "
            "easy rows never meet the expensive ones. It needs the package `hf_soups`."
        ),
        library="hf_soups",
        pipeline_tag=tag,
        tags=("hf_soups", "cascade", "conditional-computation"),
        base_models=hub_ids(_sources(folder, config), folder),
        metric=plan.metric,
        scores=scores,
        tables=tuple(t for t in tables if t.rows),
        limits=_limits(plan),
        cascade=True,
        pair=config.kind == "text-pair",
    )


def _sources(folder: Path, config: CascadeConfig) -> list[tuple[str, str | None]]:
    """Repos that members are pinned to, and those that soups among the members were mixed from."""
    found: list[tuple[str, str | None]] = []
    for place in config.places:
        if place.repo is not None:
            found.append((place.repo, place.revision))
        elif (record := folder / str(place.subfolder) / SOUP_FILE).is_file():
            soup: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
            found += [(str(i.get("source")), i.get("revision")) for i in soup.get("ingredients") or ()]
    return found


def _results(plan: Plan) -> Table:
    if math.isnan(plan.score):
        return Table("Results", (), ())
    cells = {"Rows": rows_in_words("select", True), plan.metric: score_in_words(plan.score, plan.metric)}
    if plan.score_low is not None:
        cells["Lower bound"] = score_in_words(plan.score_low, plan.metric)
    return Table("Results", tuple(cells), (tuple(cells.values()),))


def _selection(config: CascadeConfig, plan: Plan) -> Table:
    told = {
        "chosen on": f"{plan.rows} select rows" if plan.rows else "not recorded",
        "by": plan.metric,
        "answer of members 1..k": COMBINED[plan.rule.combine],
        "confidence": SURE[plan.rule.confidence],
        "plans stored for `budget`": len(config.plans),
    }
    return Table("How it was chosen", ("What", "Value"), tuple((k, str(v)) for k, v in told.items()))


def _members(config: CascadeConfig, plan: Plan) -> Table:
    places = {place.name: place for place in config.places}
    rows = []
    for i, name in enumerate(plan.members):
        leaves = "always" if i == len(plan.members) - 1 else _threshold(plan.thresholds[i])
        share = f"{100 * plan.exit_shares[i]:.1f} %" if plan.exit_shares else "-"
        temperature = f"{plan.temperatures[i]:.6g}" if plan.temperatures else "1"
        rows.append((name, _where(places[name]), leaves, temperature, _number(plan.costs[i]), share))
    columns = ("Member", "Where", "Leaves at confidence", "Temperature", "Cost", "Share of rows that leave")
    return Table("Members", columns, tuple(rows))


def _threshold(threshold: float) -> str:
    return "never" if threshold > 1 else f"{threshold:.6g}"


def _where(place: Place) -> str:
    size = f", images of {place.image_size} pixels" if place.image_size else ""
    return f"{place} in {place.dtype}{size}"


def _costs(plan: Plan) -> Table:
    unit = UNITS.get(plan.unit, plan.unit) or "plain numbers"
    counted = "counted, so the same everywhere" if plan.unit in ("macs", "parameters") else "not recorded"
    told = {
        "unit": unit,
        "hardware": plan.hardware or counted,
        "on average": "-" if math.isnan(plan.average_cost) else _number(plan.average_cost),
        "of a row that meets every member": _number(plan.worst_cost),
        "of the most expensive member alone": _number(max(plan.costs)),
    }
    return Table("Costs of one row", ("What", "Value"), tuple(told.items()))


def _number(value: float) -> str:
    """Whole numbers in full, such as MACs; others with six digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.6g}"


def _limits(plan: Plan) -> tuple[str, ...]:
    told = ["The average cost holds for rows like those it was chosen on: harder rows go further and cost more."]
    if math.isnan(plan.score):
        told.append("It was not scored when it was made: measure it on rows of your own before you use it.")
    else:
        told.append(
            "Members and thresholds were chosen on the rows of the score above, which is too good, the more so the "
            "fewer rows there were. Rows that nothing was chosen on are not part of this folder."
        )
    told.append("On data of another distribution it was not measured; there confidences, and so exits, may mislead.")
    return tuple(told)
