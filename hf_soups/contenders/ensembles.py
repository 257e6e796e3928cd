"""Ensembles of a sweep's runs as contenders: means of all of them, and the members that greedy selection chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from hf_soups.contenders.contender import Contender, Contenders, Row, shared_roles, together
from hf_soups.ensembles import geometric_mean, mean, select_ensemble
from hf_soups.predictions import Predictions

MEANS = {"mean-logit ensemble": geometric_mean, "mean-prob ensemble": mean}
SELECTED = "selected ensemble"


def with_ensembles(found: Contenders) -> Contenders:
    """The contenders and, of two runs or more, both means of all and the ensemble that was selected on select.

    Where the metric is no sum over rows, as metrics by `evaluate`, selection would compute it thousands of times: it is
    left out, and a note says so.
    """
    if len(found.runs) < 2:
        return found
    rows = {c.row.name: c.row for c in found.runs}
    ensembles = [_mean_of_all(found, rows, name, combine) for name, combine in MEANS.items()]
    if found.metric.row_statistics is not None:
        return replace(found, ensembles=(*ensembles, _selected(found, rows)))
    note = f"No {SELECTED}: {found.metric.name} is not a sum over rows, so that greedy selection would take too long."
    return replace(found, ensembles=tuple(ensembles), notes=(*found.notes, note))


def _mean_of_all(
    found: Contenders, rows: Mapping[str, Row], name: str, combine: Callable[[list[Predictions]], Predictions]
) -> Contender:
    row, trained = together(found.runs, rows, Row("ensemble", name, "finished", pool=len(found.runs)))
    answers = {role: combine([c.answers[role] for c in found.runs]) for role in shared_roles(found.runs)}
    return Contender(row, answers, trained)


def _selected(found: Contenders, rows: Mapping[str, Row]) -> Contender:
    chosen = select_ensemble({c.row.name: c.select for c in found.runs}, found.metric)
    members = [c for name in chosen.weights for c in found.runs if c.row.name == name]
    words = ", ".join(f"{name} {weight:.2g}" for name, weight in chosen.weights.items())
    row, trained = together(
        members, rows, Row("ensemble", SELECTED, "finished", pool=len(found.runs), made_of=f"weights: {words}")
    )
    answers = {role: chosen.apply({c.row.name: c.answers[role] for c in members}) for role in shared_roles(members)}
    return Contender(row, answers, trained)
