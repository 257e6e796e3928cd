"""What the card of a soup says, from its soup.json and config.json."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError
from hf_soups.report.cards.facts import PIPELINES, Facts, Score, hub_ids, rows_in_words
from hf_soups.report.cards.markdown import Table
from hf_soups.report.words import COUNTS_ROWS, score_in_words
from hf_soups.soups.folder import SOUP_FILE
from hf_soups.tasks import SHIFT

PICTURE = "score_by_ingredients.png"  # as cooking draws it for greedy


def soup_facts(folder: Path, record: Mapping[str, Any], config: Mapping[str, Any], *, pair: bool = False) -> Facts:
    """Facts of a soup.

    Args:
        folder: where it lies.
        record: what soup.json holds.
        config: what config.json holds.
        pair: it classifies pairs of texts.
    Raises:
        InputError: if it is no classifier of images or texts.
        KeyError, TypeError: if the record is none.
    """
    tag, short = _pipeline_tag(folder, config), short_names(record)
    sources = [(str(i["source"]), i["revision"]) for i in record["ingredients"]]
    method, scores = str(record["method"]), _scores(record)
    repos = hub_ids(sources, folder)
    tables = [_results(scores), _selection(record, short), _ingredients(record, short, repos)]
    return Facts(
        record=SOUP_FILE,
        about=(
            "A model soup: one model whose weights are a linear combination of fine-tuned models of one architecture "
            f"(method `{method or 'by hand'}`). It runs like any of them and costs no more than one."
        ),
        library="transformers",
        pipeline_tag=tag,
        tags=tuple(filter(None, ("hf_soups", "model-soup", "merge", method))),
        base_models=repos,
        metric=record.get("metric"),
        scores=scores,
        tables=tuple(t for t in tables if t.rows),
        limits=_limits(record, scores),
        cascade=False,
        pair=pair,
        notes=_notes(folder, record),
    )


def short_names(record: Mapping[str, Any]) -> dict[str, str]:
    """How each name of the pool is shown: names that are whole paths lose the folders that they share.

    >>> short_names({"pool": ["/a/x/run", "/a/y/run"], "ingredients": []})
    {'/a/x/run': 'x/run', '/a/y/run': 'y/run'}
    """
    names = [*record.get("pool", ()), *(i["name"] for i in record["ingredients"])]
    paths = sorted({name for name in names if Path(name).is_absolute()})
    if not paths:
        return {name: name for name in names}
    root = os.path.commonpath(paths) if len(paths) > 1 else str(Path(paths[0]).parent)
    return {name: os.path.relpath(name, root) if name in paths else name for name in names}


def _pipeline_tag(folder: Path, config: Mapping[str, Any]) -> str:
    architectures = [str(a) for a in config.get("architectures") or ()]
    tags = [tag for end, tag in PIPELINES.items() if any(a.endswith(end) for a in architectures)]
    if not tags:
        raise InputError(
            f"{folder / 'config.json'}: the model is {', '.join(architectures) or 'of no named architecture'}; cards "
            f"are made for {' and '.join(PIPELINES)}. Fine-tune it with a head, or write its README.md by hand."
        )
    return tags[0]


def _scores(record: Mapping[str, Any]) -> tuple[Score, ...]:
    """Every score on whole splits; what could not be computed is left out."""
    chosen_on = _chosen_on(record)
    return tuple(
        Score(metric, float(value), role, optimistic=role == chosen_on)
        for role, told in record["scores"].items()
        if role in ("select", "report") or role.startswith(SHIFT)
        for metric, value in told.items()
        if value is not None and math.isfinite(value)
    )


def _results(scores: Sequence[Score]) -> Table:
    metrics = tuple(dict.fromkeys(s.metric for s in scores))
    table = {(s.role, s.metric): s.value for s in scores}
    rows = tuple(
        (rows_in_words(role, optimistic), *(score_in_words(table.get((role, m)), m) for m in metrics))
        for role, optimistic in dict.fromkeys((s.role, s.optimistic) for s in scores)
    )
    return Table("Results", ("Rows", *metrics), rows)


def _chosen_on(record: Mapping[str, Any]) -> str | None:
    """The rows that something was chosen on: uniform soups and the like are scored there, but not chosen."""
    looked = record["steps"] or record.get("learned") or record.get("batchnorm") or record.get("optimistic")
    return record.get("selected_on") if looked else None


def _selection(record: Mapping[str, Any], short: Mapping[str, str]) -> Table:
    chosen_on, metric, role = _chosen_on(record), record.get("metric"), record.get("selected_on")
    told: dict[str, Any] = {"method": record["method"] or "by hand"}
    told["chosen on"] = f"{chosen_on} rows, by {metric}" if chosen_on else "nothing: no score was looked at"
    if role is not None and metric is not None:
        rows, score = record["select_rows"], record["scores"].get(role, {}).get(metric)
        told[f"{role} rows"] = rows
        if best := record.get("best_single"):
            name = short.get(best["name"], best["name"])
            told[f"best single model on {role} rows"] = f"{name}: {score_in_words(best['score'], metric)}"
        if metric in COUNTS_ROWS and score is not None and rows:
            error = math.sqrt(score * (1 - score) / rows)
            told[f"standard error of the score on {role} rows"] = score_in_words(error, metric)
    told |= {"models in the pool": len(record["pool"])} if "pool" in record else {}
    told |= {"mixtures tried": len(record["steps"])} if record["steps"] else {}
    for number, why in enumerate(_whys(record)):
        told["why" if not number else f"why ({number + 1})"] = _without_paths(why, short)
    return Table("How it was chosen", ("What", "Value"), tuple((k, str(v)) for k, v in told.items()))


def _whys(record: Mapping[str, Any]) -> list[str]:
    told = [record.get("why"), (record.get("learned") or {}).get("why"), record.get("batchnorm_why")]
    return [str(why) for why in told if why]


def _without_paths(text: str, short: Mapping[str, str]) -> str:
    for name in sorted(short, key=len, reverse=True):
        text = text.replace(name, short[name])
    return text


def _ingredients(record: Mapping[str, Any], short: Mapping[str, str], repos: Sequence[str]) -> Table:
    rows = []
    for told in record["ingredients"]:
        where = "@".join(filter(None, (told["source"], told["revision"]))) if told["source"] in repos else "-"
        rows.append((short[told["name"]], f"{told['coefficient']:.6g}", where, told["sha256"]))
    return Table("Ingredients", ("Ingredient", "Coefficient", "Hub", "SHA-256 of the weights"), tuple(rows))


def _notes(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    told = {}
    if (folder / PICTURE).is_file():
        told["How it was chosen"] = f"![Score by number of ingredients]({PICTURE})"
    if "coefficients_by_tensor" in record:
        told["Ingredients"] = (
            f"Each tensor has coefficients of its own, in `{SOUP_FILE}`; here is their mean over all parameters."
        )
    return told


def _limits(record: Mapping[str, Any], scores: Sequence[Score]) -> tuple[str, ...]:
    roles = {s.role for s in scores}
    told = []
    if not scores:
        told.append("It was not scored when it was made: measure it on rows of your own before you use it.")
    if _chosen_on(record):
        told.append(
            "Scores on the rows it was chosen on are too good, the more so the fewer rows and the more mixtures were "
            "tried; a small lead over the best single model may be chance."
        )
    if record.get("optimistic"):
        told.append(
            "It was chosen on the report rows, so no score here comes from rows that it has not been fitted to."
        )
    if not any(role.startswith(SHIFT) for role in roles):
        told.append("On data of another distribution it was not measured.")
    told.append("Averaging weights does not calibrate: check its probabilities before you act on them.")
    return tuple(told)
