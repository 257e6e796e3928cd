"""Files: a diagnosis as pictures, each with its numbers as CSV, the words as Markdown, and everything as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_soups.diagnosis.findings import Findings, RunPair, coefficients_at
from hf_soups.errors import InputError
from hf_soups.files.writing import write_json, write_text
from hf_soups.plots import landscapes
from hf_soups.plots.landscapes import PlanePoint, ScoreAxis, ScoredLine
from hf_soups.wording import score_in_words

RECORD = "diagnosis.json"
JOURNAL = "scores.jsonl"  # every score that was measured, so that a killed diagnosis goes on
ANSWERS = "answers"  # of runs whose own folder keeps none
Rows = list[dict[str, Any]]


def refuse_other_folders(out: Path, own: Sequence[str] = (RECORD, JOURNAL, ANSWERS), what: str = "diagnosis") -> None:
    """Check before any work that `out` is free, or holds one of our `own` files, to go on with.

    Raises:
        InputError: if something else is there.
    """
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in own):
        raise InputError(f"{out} holds other files and no {what}. Choose another folder with --out.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; expected a folder to write into. Choose another with --out.")


def write_all(out: Path, facts: Findings, words: Sequence[str], title: str, settings: Mapping[str, Any]) -> list[Path]:
    """Write every picture with its numbers, the words and the record; their paths. Each appears whole or not at all."""
    written: list[Path] = []
    pictures = {
        "barriers": (barrier_rows(facts), _draw_barriers),
        "angles": (angle_rows(facts), _draw_angles),
        "plane": (plane_rows(facts), _draw_plane),
        "soup_vs_ensemble": (ensemble_rows(facts), _draw_soup_vs_ensemble),
    }
    for name, (rows, draw) in pictures.items():
        picture = out / f"{name}.png"
        if rows:
            written += reversed(draw(facts, picture, rows))
        else:  # from an earlier call with a start, or with a plane: it would not belong to these words
            picture.unlink(missing_ok=True)
            picture.with_suffix(".svg").unlink(missing_ok=True)
            picture.with_suffix(".csv").unlink(missing_ok=True)
    items = "".join(f"- {word}\n" for word in words)
    images = "".join(f"\n![{p.stem}]({p.name})\n" for p in written if p.suffix == ".png")
    write_text(out / "diagnosis.md", f"# {title}\n\n{items}{images}")
    write_json(out / RECORD, {"words": list(words), **settings, **facts.record()})
    return [*written, out / "diagnosis.md", out / RECORD]


def barrier_rows(facts: Findings) -> Rows:
    """One row for each point of each line."""
    return [
        {
            "a": pair.line.a,
            "b": pair.line.b,
            "share_of_b": t,
            "score": score,
            "straight": straight,
            "below_straight": below,
            "barrier": pair.line.barrier,
            "below_worse": pair.line.below_worse,
            "distance": pair.distance,
        }
        for pair in facts.pairs
        for t, score, straight, below in zip(
            pair.line.at, pair.line.scores, pair.line.straight, pair.line.below_straight, strict=True
        )
    ]


def angle_rows(facts: Findings) -> Rows:
    """One row for each pair; none without a start."""
    return [
        {
            "a": pair.line.a,
            "b": pair.line.b,
            "angle_degrees": pair.angle,
            "score_a": pair.line.scores[0],
            "score_b": pair.line.scores[-1],
            "score_average": pair.line.middle,
            "gain_over_mean": pair.line.gain_over_mean,
            "gain_over_better": pair.line.gain_over_better,
        }
        for pair in facts.pairs
        if pair.angle is not None
    ]


def plane_rows(facts: Findings) -> Rows:
    """One row for each point of the grid, the three runs and their average; none without a plane."""
    plane = facts.plane
    if plane is None:
        return []
    points: list[tuple[str, float, float, float]] = [
        ("grid", x, y, score)
        for y, row in zip(plane.ys, plane.scores, strict=True)
        for x, score in zip(plane.xs, row, strict=True)
    ]
    for name, (x, y), score in zip(plane.names, plane.corners, plane.corner_scores, strict=True):
        points.append((name, x, y, score))
    points.append(("average", *plane.centre, plane.mean_score))
    rows = []
    for point, x, y, score in points:
        shares = zip(plane.names, coefficients_at(plane.corners, x, y), strict=True)
        rows.append(
            {"point": point, "x": x, "y": y, **{f"coefficient_of_{name}": c for name, c in shares}, "score": score}
        )
    return rows


def ensemble_rows(facts: Findings) -> Rows:
    """One row for each pair and each soup, with the ensemble of the same runs."""
    pairs = [_mixture("pair", " + ".join(p.names), p.names, p.line.middle, p.ensemble) for p in facts.pairs]
    soups = [m for m in (facts.uniform, *facts.soups) if m.members]
    return [*pairs, *(_mixture("soup", m.name, m.members, m.soup, m.ensemble) for m in soups)]


def _mixture(kind: str, name: str, runs: Sequence[str], soup: float, ensemble: float) -> dict[str, Any]:
    return {"kind": kind, "name": name, "runs": " ".join(runs), "soup": soup, "ensemble": ensemble}


# The same as points


def _axis(facts: Findings) -> ScoreAxis:
    return ScoreAxis(facts.metric, facts.rows)


def _draw_barriers(facts: Findings, path: Path, rows: Rows) -> tuple[Path, ...]:
    return landscapes.draw_barriers([_scored_line(facts, pair) for pair in facts.pairs], _axis(facts), path, rows)


def _scored_line(facts: Findings, pair: RunPair) -> ScoredLine:
    """The line with the better run first."""
    line, (first, second) = pair.line, pair.names
    at, scores = line.at, line.scores
    if facts.gain(scores[-1], scores[0]) > 0:
        at, scores, first, second = tuple(1 - t for t in reversed(at)), scores[::-1], second, first
    barrier = line.barrier if pair in facts.blocked else 0.0
    height = "NaN between" if math.isinf(barrier) else f"barrier {score_in_words(barrier, facts.metric)}"
    return ScoredLine(at, scores, barrier, f"{first} - {second}: {height}")


def _draw_angles(facts: Findings, path: Path, rows: Rows) -> tuple[Path, ...]:
    pairs = [
        (pair.angle, pair.line.gain_over_mean, pair.line.gain_over_better)
        for pair in facts.pairs
        if pair.angle is not None and not math.isnan(pair.angle)
    ]
    return landscapes.draw_angles(pairs, facts.noise, _axis(facts), path, rows)


def _draw_plane(facts: Findings, path: Path, rows: Rows) -> tuple[Path, ...]:
    plane = facts.plane
    assert plane is not None
    corners = [
        PlanePoint(x, y, f"{name} {score_in_words(score, facts.metric)}")
        for name, (x, y), score in zip(plane.names, plane.corners, plane.corner_scores, strict=True)
    ]
    centre = PlanePoint(*plane.centre, f"average {score_in_words(plane.mean_score, facts.metric)}")
    return landscapes.draw_plane(
        plane.xs, plane.ys, plane.scores, corners, centre, _axis(facts), path, rows, higher_is_better=facts.sign > 0
    )


def _draw_soup_vs_ensemble(facts: Findings, path: Path, rows: Rows) -> tuple[Path, ...]:
    pairs = [(pair.ensemble, pair.line.middle) for pair in facts.pairs]
    several = [m for m in (facts.uniform, *facts.soups) if len(m.members) > 1]
    soups = [(f"{m.name} ({len(m.members)})", m.ensemble, m.soup) for m in several]
    return landscapes.draw_soup_vs_ensemble(pairs, soups, (facts.best.name, facts.best.score), _axis(facts), path, rows)
