"""One soup: chosen, mixed, predicted with and written, whole or not at all."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.reading import is_there
from hf_soups.files.writing import writable, write_text, written_whole
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.recipe.origin import RECIPE_FILE, recipe_text
from hf_soups.soups import Soup
from hf_soups.soups.ahead import Ahead
from hf_soups.soups.ingredients import Ingredients
from hf_soups.soups.journal import Journal
from hf_soups.soups.options import Options
from hf_soups.soups.registry import Method, MethodInputs
from hf_soups.soups.soup import AtBest, Score, Step, display_names, step_values, values_of
from hf_soups.soups.soup_record import SOUP_FILE, STEPS_PICTURE, SoupRecord, read_soup
from hf_soups.wording import loss_in_words, score_in_words

if TYPE_CHECKING:
    from hf_soups.soups.scoring import SoupScorer

Tell = Callable[[str], None]
NO_SCORE = "gives all rows the same answer, or NaN"  # of an ingredient


@dataclass(frozen=True, slots=True)
class CookRequest:
    """What all soups of one call have in common, checked."""

    options: Options
    dtype: str | None
    max_shard_size: int | None
    chosen_on: Literal["select", "report"]
    overwrite: bool
    threads: int
    tell: Tell

    @property
    def storage(self) -> dict[str, Any]:
        """How weights are written."""
        return {"dtype": self.dtype, "max_shard_size": self.max_shard_size, "threads": self.threads}


@dataclass(frozen=True, slots=True)
class SoupToCook:
    """One soup, to be written into `folder`."""

    method: Method
    pool: Ingredients  # what to choose from
    request: CookRequest
    folder: Path
    make_key: Callable[..., str]  # see `key`

    @property
    def key(self) -> str:
        """A digest of everything that decides what comes out; kept in soup.json. It reads weights that nobody read."""
        return self.make_key()

    def cook(self, scorer: SoupScorer | None, marks: Mapping[str, tuple[int, float]]) -> SoupRecord:
        """Choose, mix, predict and write it; what its soup.json holds.

        Args:
            scorer: of the rows to choose on; None: nothing is scored.
            marks: other mixtures that were measured, for greedy's plot: name -> (ingredients, score).
        """
        with writable(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        if scorer is None:
            soup = self.method.make(self._inputs(None))
            with written_whole(self.folder, overwrite=self.request.overwrite, marker=SOUP_FILE) as staged:
                written = soup.write_model(staged, **self.request.storage)  # it makes the ingredients' digests too
                self._recorded(soup, {}).write_record(staged, written)
            return read_soup(self.folder)
        try:
            self._cook_scored(scorer, marks)
        except InputError:
            if not self.request.overwrite and is_there(self.folder / SOUP_FILE):  # another call made it meanwhile
                self._forget()
            raise
        self._forget()
        return read_soup(self.folder)

    def _cook_scored(self, scorer: SoupScorer, marks: Mapping[str, tuple[int, float]]) -> None:
        soup, batchnorm = self._chosen(scorer)
        with written_whole(self.folder, overwrite=self.request.overwrite, marker=SOUP_FILE) as staged:
            self.request.tell(f"{self.method.name}: writing {self._counted(soup)} ingredients")
            soup.write_model(staged, **self.request.storage)
            scores, measured = _answer(staged, soup, scorer.variants[batchnorm.get("kept", "averaged")])
            outcome = {"measured": measured, **_outcome(soup, self.pool, scorer, batchnorm)}
            soup = self._recorded(replace(soup, scores={**soup.scores, **scores}), outcome)
            soup.write_record(staged)
            _write_steps(staged, soup, scorer, marks, len(self.pool.checkpoints))
            if self.pool.recipe is not None:
                write_text(staged / RECIPE_FILE, recipe_text(self.pool.recipe))

    def _forget(self) -> None:
        """Remove what was kept for the case of a kill."""
        for file in (self._beside("scores.jsonl"), *self.folder.parent.glob(f".{self.folder.name}.state-*")):
            file.unlink(missing_ok=True)

    def _beside(self, kind: str) -> Path:
        """Beside the soup, not in it: what was measured or learned outlives a kill, and goes when the soup is there."""
        return self.folder.with_name(f".{self.folder.name}.{kind}")

    def _chosen(self, scorer: SoupScorer) -> tuple[Soup, dict[str, Any]]:
        """The method's soup; with BatchNorm, the better of the two ways to make its statistics."""
        found: dict[str, tuple[Soup, float]] = {}
        for variant, variant_scorer in scorer.variants.items():
            inputs = self._inputs(variant_scorer)
            soup = self.method.make(inputs)
            value = soup.scores.get("score")
            if value is None:  # of a method that chose nothing by score
                value = values_of(inputs.scored()(soup))[0]
                inputs.say(f"{self._counted(soup)}: {inputs.in_words(value)}")
            found[variant] = soup, value
        kept = _better({variant: scorer.metric.rank(value) for variant, (_, value) in found.items()})
        soup = found[kept][0]
        # the score is in soup.json by role and metric
        soup = replace(soup, scores={key: value for key, value in soup.scores.items() if key != "score"})
        if len(found) == 1:
            return soup, {}
        return soup, {"kept": kept, **{variant: value for variant, (_, value) in found.items()}}

    def _inputs(self, scorer: SoupScorer | None) -> MethodInputs:
        common = (self.pool.checkpoints, self.request.options, self.pool.start)
        threads, tell = self.request.threads, self.request.tell
        if scorer is None:
            return MethodInputs(*common, None, None, self._beside("state"), threads, tell, str)
        several = len(scorer.variants) > 1
        note = f"{self.method.name} ({scorer.variant} BatchNorm statistics)" if several else self.method.name
        from hf_soups.soups.early_stop import EarlyStop  # torch

        state = self._beside(f"state-{self.key[:12]}-{scorer.variant}")
        early = EarlyStop(scorer, state.with_name(f"{state.name}-rows"))
        ahead = None if scorer.workers is None else Ahead(scorer.workers, scorer, early)
        journal = Journal(ahead or scorer, self._beside("scores.jsonl"), f"{self.key} {scorer.variant}")
        lost: set[Checkpoint] = set()  # those of the pool that have no score alone: they join nothing

        def in_words(value: float) -> str:
            return score_in_words(value, scorer.metric.name)

        def score(soup: Soup) -> Score:
            if len(soup.ingredients) > 1 and lost.intersection(soup.ingredients):
                return scorer.no_score
            value = journal(soup)
            if len(soup.ingredients) == 1 and math.isnan(values_of(value)[0]):
                lost.update(scorer.pool.intersection(soup.ingredients))
                tell(f"{note}: {soup.ingredients[0].name} alone {NO_SCORE}, so it joins nothing")
            elif len(soup.ingredients) == 1 and not scorer.answered(soup):  # there may be many, a forward pass each
                tell(f"{note}: {soup.ingredients[0].name} alone {in_words(values_of(value)[0])}")
            return value

        every_row, measure = self.request.options.every_row, ahead.or_bound if ahead else early

        def score_or_bound(soup: Soup, floor: Score | None) -> Score | AtBest:
            if lost.intersection(soup.ingredients):
                return scorer.no_score
            return journal.or_bound(soup, None if every_row else floor, measure, scorer.signs[0])

        def expect(soups: Sequence[Soup], floor: Score | None) -> None:
            assert ahead is not None
            floor = None if every_row else floor
            new = [s for s in soups if not lost.intersection(s.ingredients) and not journal.knows(s, floor, sign)]
            ahead.expect(new, floor)

        sign = scorer.signs[0]
        return MethodInputs(
            *common, score, scorer, state, threads, lambda line: tell(f"{note} {line}"), in_words, scorer.signs,
            score_or_bound, expect if ahead else None, scorer.workers.count if scorer.workers else 1,
        )  # fmt: skip

    def _recorded(self, soup: Soup, outcome: Mapping[str, Any]) -> Soup:
        """The soup with all that its soup.json is to say."""
        about = {
            "pool": list(display_names(self.pool.checkpoints)),
            "left_out": [{"name": left.name, "reason": left.reason} for left in self.pool.left_out],
            "dtype": self.request.dtype,
            "made_from": self.key,
            **self.pool.taken,
        }
        return _named(replace(soup, about={**soup.about, **about, **outcome}), self.pool)

    def _counted(self, soup: Soup) -> str:
        """How many of the pool are in the soup; the start, if it is mixed in, is none of them."""
        return f"{sum(c in self.pool.checkpoints for c in soup.ingredients)} of {len(self.pool.checkpoints)}"


def _answer(staged: Path, soup: Soup, scorer: SoupScorer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predictions of the weights as they were written; their scores, and by role the rows and the score's interval."""
    from hf_soups.metrics import also_scored, score

    # the weights as written, not the sum they came from: exact also where they were cast
    if len(soup.ingredients) == 1:  # it keeps its own BatchNorm statistics
        scorer = scorer.variants["averaged"]
    scores, measured = {}, {}
    for role, predictions in scorer.answer_all(Checkpoint(staged), f"{soup.method} soup").items():
        predictions.save(staged / PREDICTIONS / f"{role}.safetensors")
        found = score(predictions, scorer.metric)
        scores[role] = {
            scorer.metric.name: found.value,
            **{beside.name: beside.compute(predictions) for beside in also_scored(predictions.problem_type)},
        }
        measured[role] = {"rows": len(predictions), "low": found.low, "high": found.high}
    return scores, measured


def _write_steps(
    staged: Path, soup: Soup, scorer: SoupScorer, marks: Mapping[str, tuple[int, float]], pool: int
) -> None:
    from hf_soups.plots.canvas import TriedMixture, score_by_ingredients

    if not soup.steps:
        return
    rows = [step_values(step) for step in soup.steps]
    with (staged / "steps.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    if soup.method != "greedy":
        return
    kept = {(True, False): "kept", (True, True): "taken out"}
    score_by_ingredients(
        [
            TriedMixture(
                s.candidate, s.ingredients, s.score if s.at_best is None else s.at_best, s.best_so_far,
                kept.get((s.accepted, s.removes), "rejected"), s.at_best is not None,
            )
            for s in soup.steps
        ],
        staged / STEPS_PICTURE,
        metric=scorer.metric.name,
        rows=scorer.rows,
        role=scorer.role,
        marks=marks,
        title=f"{soup.method}: {len(soup.ingredients)} of {pool} ingredients joined",
    )  # fmt: skip


def _named(soup: Soup, pool: Ingredients) -> Soup:
    """The soup with its ingredients called as in the pool: a name that is unique among a few may not be among all."""
    called = dict(zip(pool.checkpoints, display_names(pool.checkpoints), strict=True))
    own = zip(soup.ingredients, display_names(soup.ingredients), strict=True)
    return replace(soup, names=tuple(called.get(checkpoint, name) for checkpoint, name in own))


def _outcome(soup: Soup, pool: Ingredients, scorer: SoupScorer, batchnorm: Mapping[str, Any]) -> dict[str, Any]:
    metric, singles = scorer.metric.name, _singles(soup, pool, scorer)
    values: dict[str, Any] = {
        "selected_on": scorer.role,
        "optimistic": scorer.role == "report",
        "select_optimistic": bool(scorer.maybe_trained_on),
        "metric": metric,
        "select_rows": scorer.rows,
    }
    useless = [{"name": n, "reason": f"{NO_SCORE} on {scorer.role}"} for n, v in singles.items() if math.isnan(v)]
    if useless and soup.method == "greedy":
        values["left_out"] = [*({"name": left.name, "reason": left.reason} for left in pool.left_out), *useless]
    singles = {name: value for name, value in singles.items() if not math.isnan(value)}
    if singles:
        best = max(singles, key=lambda name: scorer.metric.rank(singles[name]))
        values["best_single"] = {"name": best, "score": singles[best]}
    if soup.method == "greedy":
        values["why"] = why_one(soup.steps, singles, metric, scorer.rows, sign=scorer.metric.sign)
    if batchnorm:
        values["batchnorm"] = dict(batchnorm)
        values["batchnorm_why"] = (
            f"BatchNorm statistics: {batchnorm['kept']} kept "
            f"(averaged {score_in_words(batchnorm['averaged'], metric)}, "
            f"recomputed on train rows {score_in_words(batchnorm['recomputed'], metric)})."
        )
    return values


def _singles(soup: Soup, pool: Ingredients, scorer: SoupScorer) -> Mapping[str, float]:
    """Scores of the pool's models alone, as the metric gives them: what the method measured, or else cached answers."""
    if "singles" in soup.scores:
        return dict(soup.scores["singles"])
    if not all(checkpoint in scorer.cached for checkpoint in pool.checkpoints):
        return {}
    names = display_names(pool.checkpoints)
    return {n: scorer.metric.compute(scorer.cached[c]) for n, c in zip(names, pool.checkpoints, strict=True)}


def _better(ranks: Mapping[str, float]) -> str:
    """The variant that ranks highest; of equals the first: averaged statistics need no train rows."""
    return max(ranks, key=lambda variant: ranks[variant])


def why_one(steps: Sequence[Step], singles: Mapping[str, float], metric: str, rows: int, *, sign: int = 1) -> str:
    """Why greedy kept a single ingredient, with numbers; empty when it kept more.

    Args:
        steps: as greedy took them, with the metric's own values.
        singles: score of each ingredient alone, by name.
        metric: the score's name.
        rows: select rows.
        sign: -1 where a lower score is better.
    """
    tried = [s for s in steps[1:] if not math.isnan(s.score)]
    if not steps or any(s.accepted for s in steps[1:]):
        return ""
    best = steps[0]
    kept = f"greedy kept only {best.candidate} ({score_in_words(best.score, metric)})"
    if len(steps) == 1:
        return f"{kept}: there was nothing else to try."
    if not tried:
        return f"{kept}: every mixture with it answered NaN."
    closest = max(tried, key=lambda s: sign * s.score)
    lost = sign * (best.score - closest.score)
    if lost == 0:
        return f"{kept}: adding {closest.candidate} gave the same score, and with tie '>' an equal score does not join."
    words = f"{kept}. The closest was {closest.candidate}: adding it lost {loss_in_words(lost, metric, rows)}."
    alone = singles.get(closest.candidate, math.nan)
    if sign * alone > sign * closest.score:
        words += (
            f" Alone it scores {score_in_words(alone, metric)}, so the average of the two is worse than either: "
            "their weights lie too far apart (a large learning rate, long training, or other starts)."
        )
    return words
