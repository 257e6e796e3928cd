"""What the card of a cascade says, from its config.json and the records of soups among its members."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.cascades.evidence import EVIDENCE_FILE, PICTURES, Evidence, read_evidence
from hf_soups.cascades.plan import Plan, plan_of
from hf_soups.cascades.running.members import check_weights
from hf_soups.costs import UNITS
from hf_soups.errors import InputError
from hf_soups.files.downloads import inside_of, is_repo_id
from hf_soups.files.endpoint import HOSTS_VARIABLE
from hf_soups.files.problem_types import MULTI_LABEL
from hf_soups.metrics import traits_of
from hf_soups.pool.report_rows import holds_report_rows
from hf_soups.reporting.cards.card_facts import (
    CardFacts,
    CardScore,
    DataUsed,
    classes_in_words,
    hub_ids,
    rows_in_words,
)
from hf_soups.reporting.cards.licences import licences_at
from hf_soups.reporting.cards.markdown import MISSING, MarkdownTable
from hf_soups.soups.soup_record import SOUP_FILE, read_soup
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from hf_soups.cascades.running.config import CascadeConfig
    from hf_soups.cascades.running.stored import Place

LARGE = 1e5  # from here on a fraction says nothing
REPORTED = {  # in the order of the table
    "chosen": rows_in_words("report", False),
    "best single": "report: the best single model on select, {}",
    "best ensemble": "report: the best ensemble on select, {}",
}

UNANSWERED = {"error": "an error", "last": "the row keeps the answer of the members before it"}


def cascade_facts(folder: Path, config: CascadeConfig) -> CardFacts:
    """Facts of a cascade.

    Args:
        folder: of the cascade.
        config: its config.
    Raises:
        InputError: if the evidence that it keeps cannot be read, or is of another plan.
        MemberError: if a member's weights are not those that it was built of.
    """
    plan, found = config.built, read_evidence(folder)
    for place in config.places:
        if place.is_inside:
            check_weights(place, folder / str(place.subfolder))
    if found.plan and plan_of(found.plan) != plan:
        raise InputError(
            f"{folder / EVIDENCE_FILE}: its scores are of another plan than that of config.json. Build the cascade "
            "again."
        )
    sources = _sources(folder, config, found)
    licences = licences_at(sources)
    tag = "image-classification" if config.kind == "image" else "text-classification"
    classes = classes_in_words(config.kind, config.label_names, plan.rule.problem_type)
    tables = [
        _results(plan, found), _selection(config, plan, found), _members(config, plan), _costs(plan, found),
        _weights(plan, found),
    ]  # fmt: skip
    return CardFacts(
        record="config.json",
        about=(
            "A cascade: models that are asked one after another until their combined answer is sure enough, so that "
            f"easy inputs never reach the expensive ones. {classes}"
        ),
        library="hf_soups",
        pipeline_tag=tag,
        tags=("hf_soups", "cascade", "conditional-computation"),
        base_models=hub_ids([(source, revision) for source, revision, _ in sources], folder),
        metric=plan.metric,
        scores=_scores(plan, found),
        tables=tuple(t for t in (*tables, MarkdownTable.of_values("Framework versions", found.versions)) if t.rows),
        limits=(*_limits(plan, found), *_asked_elsewhere(config), *licences.doubts),
        license=licences.shared,
        cascade=True,
        code=hasattr(config, "auto_map"),
        extra="onnx" if any(place.backend == "onnx" for place in config.places) else "",
        every_label=plan.rule.problem_type == MULTI_LABEL,
        pair=config.kind == "text-pair",
        notes=_notes(folder, found),
        data=DataUsed.of_evidence(found),
        recipe=_recipe(config, plan, found),
        cites=("wang2022committees", *(("wortsman2022soups",) if _has_soup(folder, config) else ())),
    )


def _sources(folder: Path, config: CascadeConfig, kept: Evidence) -> list[tuple[str, str | None, str | None]]:
    """Repos that members are pinned to or copied from, and what soups among the members were mixed from.

    Each with its revision and its subfolder there.
    """
    found: list[tuple[str, str | None, str | None]] = []
    for place in config.places:
        copied = kept.members.get(place.name)
        if place.repo is not None:
            found.append((place.repo, place.revision, place.subfolder))
        elif place.is_inside and (record := inside_of(folder, str(place.subfolder)) / SOUP_FILE).is_file():
            soup = read_soup(record.parent)
            found += [(i.source, i.revision, i.subfolder) for i in soup.ingredients]
        elif copied is not None and is_repo_id(copied.source):
            found.append((copied.source, copied.revision or None, None))
    return found


def _has_soup(folder: Path, config: CascadeConfig) -> bool:
    own = [inside_of(folder, str(place.subfolder)) for place in config.places if place.is_inside]
    return any((member / SOUP_FILE).is_file() for member in own)


def _scores(plan: Plan, found: Evidence) -> tuple[CardScore, ...]:
    """On report rows, where there are any, and on those that it was chosen on."""
    chosen, data = found.reported("chosen"), found.data.get("report")
    rows = None if data is None else data.rows
    report = () if chosen is None else (CardScore(plan.metric, chosen.score, "report", False, rows),)
    if math.isnan(plan.score):
        return report
    return (*report, CardScore(plan.metric, _sign(plan) * plan.score, "select", True, plan.rows or None))


def _sign(plan: Plan) -> int:
    """Plans hold losses negated, so that more is always better."""
    return traits_of(plan.metric).sign


def _results(plan: Plan, found: Evidence) -> MarkdownTable:
    rows, records = [], {}
    unit = f"Average cost ({UNITS.get(plan.unit, plan.unit) or 'plain numbers'})"
    for name, words in REPORTED.items():
        if scored := found.reported(name):
            ends = [score_in_words(end, plan.metric) for end in (scored.low, scored.high)]
            row = {
                "Rows": words.format((" + " if name == "best ensemble" else " -> ").join(scored.members)),
                plan.metric: score_in_words(scored.score, plan.metric),
                "95% interval": f"{ends[0]} to {ends[1]}",
                unit: _number(scored.average_cost),
            }
            rows.append(row)
            records[row["Rows"]] = EVIDENCE_FILE
    if not math.isnan(plan.score):
        row = {
            "Rows": rows_in_words("select", True),
            plan.metric: score_in_words(_sign(plan) * plan.score, plan.metric),
            unit: MISSING if math.isnan(plan.average_cost) else _number(plan.average_cost),
        }
        if plan.score_low is not None:
            row["Lower bound"] = score_in_words(_sign(plan) * plan.score_low, plan.metric)
        rows.append(row)
    return replace(MarkdownTable.of("Results", rows), other_records=records)


def _selection(config: CascadeConfig, plan: Plan, found: Evidence) -> MarkdownTable:
    chosen = found.reported("chosen")
    p_value, (combined, confidence) = None if chosen is None else chosen.p_value, plan.rule.in_words()
    values = {
        "chosen on": f"{plan.rows} select rows" if plan.rows else "not recorded",
        "by": plan.metric,
        "answer of members 1..k": combined,
        "confidence": confidence,
        "models searched": found.search.get("models"),
        "plans on the frontier": found.search.get("plans"),
        "number of this plan": found.search.get("plan"),
        "p against the best single model": None if p_value is None else f"{p_value:.2g} (McNemar, on report rows)",
        "plans stored for `budget`": len(config.plans),
        "share of select rows that it answers itself": None
        if plan.coverage is None
        else f"{100 * plan.coverage:.1f} %",
        f"{plan.metric} on these": None
        if plan.score_answered is None
        else score_in_words(_sign(plan) * plan.score_answered, plan.metric),
    }
    table = MarkdownTable.of_values("How it was chosen", values)
    kept = ("models searched", "plans on the frontier", "number of this plan", "p against the best single model")
    return replace(table, other_records=dict.fromkeys(kept, EVIDENCE_FILE))


def _members(config: CascadeConfig, plan: Plan) -> MarkdownTable:
    places = {place.name: place for place in config.places}
    rows = []
    for i, name in enumerate(plan.members):
        last = i == len(plan.members) - 1
        leaves = _threshold(plan.thresholds[i]) if not last else _last(plan.abstain)
        share = f"{100 * plan.exit_shares[i]:.1f} %" if plan.exit_shares else MISSING
        temperature = f"{plan.temperatures[i]:.6g}" if plan.temperatures else "1"
        rows.append((name, _where(places[name]), leaves, temperature, _number(plan.costs[i]), share))
    columns = ("Member", "Where", "Leaves at confidence", "Temperature", "Cost", "Share of rows that leave")
    return MarkdownTable("Members", columns, tuple(rows))


def _last(abstain: float | None) -> str:
    return "always" if abstain is None else f"always; below {abstain:.6g} a human is asked"


def _threshold(threshold: float) -> str:
    return "never" if threshold > 1 else f"{threshold:.6g}"


def _asked_elsewhere(config: CascadeConfig) -> list[str]:
    """What becomes of rows that reach an endpoint."""
    return [
        f"{place.name}: rows that reach it are sent to {place.endpoint.host}, and may be answered otherwise one day. "
        f"From the Hub this cascade is loaded only where {HOSTS_VARIABLE} names that host."
        for place in config.places
        if place.endpoint is not None
    ]


def _where(place: Place) -> str:
    if place.endpoint is not None:
        return f"asked at {place}; without an answer {UNANSWERED[place.fallback]}"
    size = f", images of {place.image_size} pixels" if place.image_size else ""
    by = ", by ONNX Runtime" if place.backend == "onnx" else ""
    return f"{place} in {place.dtype}{size}{by}{f', on {place.device}' if place.device else ''}"


def _costs(plan: Plan, found: Evidence) -> MarkdownTable:
    counted = "counted, so the same everywhere" if plan.unit in ("macs", "parameters") else "not recorded"
    chosen, single = found.reported("chosen"), found.reported("best single")
    values = {
        "unit": UNITS.get(plan.unit, plan.unit) or "plain numbers",
        "hardware": plan.hardware or counted,
        "on average": MISSING if math.isnan(plan.average_cost) else _number(plan.average_cost),
        "on average, on report rows": chosen and _number(chosen.average_cost),
        "of the best single model": single and _number(single.average_cost),
        "of a row that meets every member": _number(plan.worst_cost),
        "of the most expensive member alone": _number(max(plan.costs)),
    }
    table = MarkdownTable.of_values("Costs of one row", values)
    kept = ("on average, on report rows", "of the best single model")
    return replace(table, other_records=dict.fromkeys(kept, EVIDENCE_FILE))


def _weights(plan: Plan, found: Evidence) -> MarkdownTable:
    """Counted sizes, measured seconds with their hardware, and hashes of the members."""
    rows = []
    for name in plan.members:
        member = found.members.get(name)
        if member is None:
            continue
        counts = {"Parameters": member.parameters, "Multiply-adds": member.macs, "Bytes of memory": member.bytes}
        row = {"Member": name, **{column: _number(n) for column, n in counts.items() if n is not None}}
        if member.seconds is not None and member.seconds_batch_1 is not None:
            row |= {
                "Seconds at batch 1": _number(member.seconds_batch_1),
                "Seconds at its best batch": f"{_number(member.seconds)} (batch {member.best_batch})",
                "Seconds on": member.hardware or MISSING,
            }
        rows.append({**row, "SHA-256 of the weights": member.sha256 or MISSING})
    return MarkdownTable.of("Weights", rows, record=EVIDENCE_FILE)


def _number(value: float) -> str:
    """Whole and large numbers in full, such as MACs; others with six digits."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= LARGE else f"{value:,.6g}"


def _recipe(config: CascadeConfig, plan: Plan, found: Evidence) -> str:
    """What was searched, as YAML; empty where the folder keeps no evidence."""
    if not found.data:
        return ""
    import yaml

    places = {place.name: str(place) for place in config.places if not place.is_inside}
    rows = {
        role: {k: v for k, v in asdict(data).items() if v not in (None, "", ())} for role, data in found.data.items()
    }
    searched = {
        **found.recipe,
        "rows": rows,
        "members": {name: places.get(name, member.source) for name, member in found.members.items()},
        "search": {
            "cost": plan.unit,
            "metric": plan.metric,
            "combine": plan.rule.combine,
            "confidence": plan.rule.confidence,
            "temperatures": bool(plan.temperatures),
            "report": found.report_share or ("rows of another pool" if "report" in found.data else "none"),
            "seed": found.search.get("seed"),
        },
    }
    return str(yaml.safe_dump(searched, sort_keys=False, allow_unicode=True))


def _notes(folder: Path, found: Evidence) -> dict[str, str]:
    rows = "report rows" if "report" in found.data else "the select rows that chose it"
    (costs, exits), notes = PICTURES, {}
    if (folder / costs).is_file():
        notes["Costs of one row"] = (
            f"![Score against average cost on {rows}: single models, ensembles and cascades]({costs})\n\n"
            f"The picture shows {rows}."
        )
    if (folder / exits).is_file():
        notes["Members"] = (
            f"![Share of {rows} and accuracy on them, by the member that they exit at]({exits})\n\n"
            f"The table shows select rows, the picture {rows}."
        )
    return notes


def _limits(plan: Plan, found: Evidence) -> tuple[str, ...]:
    limits = [
        "The average cost holds for rows like those it was chosen on: harder rows pass more members and cost more."
    ]
    scored = not math.isnan(plan.score)
    select = found.data.get("select")
    if select is not None and holds_report_rows(select.split):
        limits.append(
            f"Members and thresholds were chosen on rows of the split {select.split!r}, which are for one look at the "
            "end: their scores are optimistic."
        )
    if scored:
        limits.append(
            "Members and thresholds were chosen on the select rows, so the score on these is optimistic, more so with "
            "fewer rows; a small lead over the best single model may be chance."
        )
    else:
        limits.append("It was not scored when it was made: measure it on rows of your own before you use it.")
    if scored and found.reported("chosen") is None:
        limits.append("It was not measured on rows that nothing was chosen on.")
    limits += [f"{name}: {note}." for name, member in found.members.items() for note in member.notes]
    limits.append("It was not measured on data of another distribution, where confidences, and so exits, may mislead.")
    return tuple(limits)
