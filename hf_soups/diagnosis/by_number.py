"""By number: what each further model of a pool adds to a soup, to an ensemble, and to the choice of the best one.

Subsets of one order are nested, so a mixer that keeps the sum of its members reads one model more for the next size.

The Model soups paper's curve (Wortsman et al. 2022, arXiv:2203.05482): random subsets of the runs, in and out of
distribution. Soups of a subset are mixed in one live model; ensembles and the best run need no forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.checkpoint import Checkpoint
from hf_soups.diagnosis.files import JOURNAL, refuse_other_folders
from hf_soups.diagnosis.measure import written_down
from hf_soups.diagnosis.number_curves import BEST, ENSEMBLE, GREEDY, UNIFORM, ByNumber, SubsetScore, write_results
from hf_soups.ensembles.combine import Members, scores_of
from hf_soups.errors import IncompatibleCheckpoints, InputError
from hf_soups.files.problem_types import REGRESSION
from hf_soups.files.writing import writable
from hf_soups.leaderboard.rows import ScoredModel, ScoredModels, read_scored_models
from hf_soups.leaderboard.without_sweep import holds_answers, is_pool
from hf_soups.metrics import Metric
from hf_soups.pool import read_pool
from hf_soups.predictions import Predictions, same_rows
from hf_soups.progress import Meter
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.recipe.task import SHIFT
from hf_soups.soups import Soup, uniform
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.ingredients import NOT_KEPT_OUT, Ingredients, gather
from hf_soups.soups.journal import digest
from hf_soups.soups.methods.greedy import greedy
from hf_soups.sweep.folder import SweepFolder

if TYPE_CHECKING:
    from hf_soups.soups.scoring import SoupScorer


ALL_SIZES = 8  # up to here every size is worth its place on the axis
FURTHER_SIZES = 8  # beyond, evenly by ratio

Subset = tuple[int, ...]  # positions in the pool, in the order in which they joined


def sizes_up_to(models: int) -> tuple[int, ...]:
    """Every number of models up to sixteen; of larger pools up to eight, then eight more, evenly by ratio.

    >>> sizes_up_to(5), sizes_up_to(72)
    ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 18, 24, 32, 42, 55, 72))
    """
    if models <= ALL_SIZES + FURTHER_SIZES:
        return tuple(range(1, models + 1))
    further = np.geomspace(ALL_SIZES, models, FURTHER_SIZES + 1).round().astype(int).tolist()
    return tuple(sorted({*range(1, ALL_SIZES + 1), *further}))


def checked_sizes(sizes: Sequence[int] | None, models: int) -> tuple[int, ...]:
    """The sizes in order, each once; the default ones if none are given.

    Raises:
        InputError: if one is below 1 or more than there are models.
    """
    if sizes is None:
        return sizes_up_to(models)
    wrong = [size for size in sizes if not 1 <= size <= models]
    if wrong or not sizes:
        raise InputError(f"sizes are {list(sizes)}, but there are {models} models: give numbers from 1 to {models}.")
    return tuple(sorted(set(sizes)))


def nested_subsets(models: int, sizes: Sequence[int], orders: int, seed: int) -> list[Subset]:
    """The fronts of `orders` random orders of the pool, order by order; of equal sets the first alone.

    The orders are turns of a random one, far apart at first, then of the next: after as many as there are models each
    has been in as many subsets of a size as every other, and no subset has come twice.

    Args:
        models: in the pool.
        sizes: in ascending order.
        orders: how many; so many subsets there are of each size, except where fewer are different.
        seed: of the orders.
    Raises:
        InputError: if `orders` is below 1.

    >>> [len(subset) for subset in nested_subsets(3, (1, 3), orders=3, seed=0)]
    [1, 3, 1, 1]
    """
    if orders < 1:
        raise InputError(f"{orders} subsets of each size; give at least 1.")
    random, stride = np.random.default_rng(seed), _stride(models)
    found: dict[frozenset[int], Subset] = {}
    order: list[int] = []
    for i in range(orders):
        if i % models == 0:
            order = random.permutation(models).tolist()
        turn = i * stride % models
        turned = order[turn:] + order[:turn]
        for size in sizes:
            found.setdefault(frozenset(turned[:size]), tuple(turned[:size]))
    return list(found.values())


def _stride(models: int) -> int:
    """A step that reaches every place of a circle once, and never close to those that it has just been to."""
    golden = 0.618 * models
    return min((n for n in range(1, models + 1) if math.gcd(n, models) == 1), key=lambda n: abs(n - golden))


FOLDER = "by_number"  # in the sweep


@dataclass(frozen=True, eq=False)
class _Bench:
    """The runs with what each answers, and how a mixture of them is scored on each role."""

    runs: tuple[ScoredModel, ...]
    checkpoints: tuple[Checkpoint, ...]
    metric: Metric
    roles: tuple[str, ...]
    mixture: Mapping[str, Callable[[Soup], float]]  # by role, select too

    def score(self, soup: Soup, role: str) -> float:
        """Score of a mixture; that of a single run is known from its answers."""
        if len(soup.ingredients) == 1:
            answers = self.runs[self.checkpoints.index(soup.ingredients[0])].answers[role]
            return self.metric.compute(answers)
        return self.mixture[role](soup)


def by_number(
    sweep: str | Path,
    out: str | Path | None = None,
    *,
    subsets: int = 10,
    sizes: Sequence[int] | None = None,
    with_greedy: bool = False,
    batchnorm: str = "averaged",
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> ByNumber:
    """Score soups, ensembles and the best run of random subsets of a sweep, on report and on its shifts.

    The folder of `hf_soups.leaderboard.answer_checkpoints` is one of loose checkpoints; a soup among them is none. Of a
    pool of predictions, and of checkpoints that cannot be mixed, there are ensembles and the best model alone.

    What a subset chooses (its best run, its greedy soup) it chooses on select. Scores are written down one by one:
    the same call goes on where it was killed, and measures only what is new when there are more subsets.

    Args:
        sweep: the sweep's folder; its finished runs are the pool.
        out: folder of the results; default: by_number/ in the sweep.
        subsets: of each size, at most; random orders of the runs, each read from its front.
        sizes: numbers of runs; default: all up to eight, then about eight more up to all runs.
        with_greedy: the greedy soup of each subset too: for n runs up to n mixtures on select.
        batchnorm: how mixtures of BatchNorm networks get their statistics: "averaged" or "recomputed".
        seed: of the orders.
        device: where mixtures are scored; default: the GPU when there is one.
        progress: show progress.
    Raises:
        InputError: if there are fewer than two usable runs, or an option or `out` cannot be used.
    """
    found = read_scored_models(sweep)
    pool, by_name = _pool_of(Path(sweep), found)
    runs, notes = _usable(found, tuple(by_name) if pool else [run.row.name for run in found.runs], str(sweep))
    notes += [note for note in found.notes if NOT_KEPT_OUT in note]
    drawn = nested_subsets(len(runs), checked_sizes(sizes, len(runs)), subsets, seed)
    folder = Path(out) if out is not None else Path(sweep) / FOLDER
    refuse_other_folders(folder, (JOURNAL,), "scores by number")
    try:
        mine = [by_name[run.row.name] for run in runs] if pool else []
        bench = (
            _bench(runs, mine, found.metric, pool, folder, batchnorm, device) if pool else _answers_alone(found, runs)
        )
    except IncompatibleCheckpoints as error:
        if not is_pool(Path(sweep)):
            raise
        bench, notes = _answers_alone(found, runs), [*notes, f"Soups are left out: {error}"]
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with Meter("subsets", len(drawn), visible=progress) as meter:
        mixed = list(_soups(bench, drawn, with_greedy=with_greedy, meter=meter)) if bench.mixture else []
    scores = (*_without_mixing(bench, drawn), *mixed)
    rows = {role: len(bench.runs[0].answers[role]) for role in bench.roles}
    made = ByNumber(found.metric, rows, scores, (*notes, *_lost(scores)), folder)
    return replace(made, files=write_results(made))


def _usable(found: ScoredModels, names: Sequence[str], where: str) -> tuple[tuple[ScoredModel, ...], list[str]]:
    """The runs that answered, in the plan's order, and a note for each that did not."""
    answered = {c.row.name: c for c in found.runs}
    usable = tuple(answered[name] for name in names if name in answered)
    if len(usable) < 2:
        raise InputError(f"{where}: {len(usable)} of its runs can be used; subsets need at least two.")
    lost = [row for row in found.unscored if row.kind == "run"]
    return usable, [f"{row.name} is left out: {row.status}{row.reason and f' ({row.reason})'}." for row in lost]


def _answers_alone(found: ScoredModels, runs: tuple[ScoredModel, ...]) -> _Bench:
    """Without weights there is nothing to mix."""
    roles = ("report", *(f"{SHIFT}{name}" for name in found.shifts))
    return _Bench(runs, (), found.metric, tuple(r for r in roles if all(r in run.answers for run in runs)), {})


def _pool_of(sweep: Path, found: ScoredModels) -> tuple[Ingredients | None, dict[str, Checkpoint]]:
    """What to mix, and its checkpoints by their names on the leaderboard; None for predictions alone."""
    if is_pool(sweep) and not (holds_answers(sweep) and (sweep / RECIPE_FILE).is_file()):
        return None, {}
    if not holds_answers(sweep):
        pool = gather([sweep])
        return pool, {c.folder.name: c for c in pool.checkpoints}
    members, folder = read_pool(sweep / "select").members, SweepFolder(sweep)
    loose = {run.row.name: members[run.row.name].checkpoint for run in found.runs if members[run.row.name].has_model}
    return Ingredients(tuple(loose.values()), (), folder.recipe(), folder), loose


def _bench(
    runs: tuple[ScoredModel, ...],
    mine: Sequence[Checkpoint],
    metric: Metric,
    pool: Ingredients,
    folder: Path,
    batchnorm: str,
    device: str | None,
) -> _Bench:
    """One live model for all mixtures, and a journal of their scores for each set of rows."""
    from hf_soups.soups.scoring import open_scorer

    assert pool.recipe is not None
    assert pool.sweep is not None
    report = preflight(mine)
    report.raise_for_errors()
    scorer = open_scorer(report.checkpoints, pool.recipe, cache=pool.sweep.cache, device=device)
    if batchnorm not in scorer.variants:
        raise InputError(f"batchnorm is {batchnorm!r}; for these models it can be {', '.join(scorer.variants)}.")
    roles = _roles(runs, scorer)
    context = pool.recipe.model_dump(include={"task", "data"})
    mixture = {role: _scorer(scorer.variants[batchnorm], role, folder, context) for role in ("select", *roles)}
    return _Bench(runs, report.checkpoints, metric, roles, mixture)


def _roles(runs: Sequence[ScoredModel], scorer: SoupScorer) -> tuple[str, ...]:
    """Report and the shifts that every run answered.

    Raises:
        InputError: if runs answered other rows than the recipe's.
    """
    splits = {role: split for role, (split, _) in scorer.by_role.items()}
    roles = [r for r in splits if r != "select" and all(r in run.answers for run in runs)]
    for role in ("select", *roles):
        stale = [run.row.name for run in runs if not same_rows(run.answers[role].data, splits[role].fingerprint)]
        if stale:
            again = "hf-soups answer" if role.startswith(SHIFT) else "the sweep"
            raise InputError(
                f"{', '.join(stale)} answered other {role} rows than those of the recipe now. Run {again} again."
            )
    return tuple(roles)


def _scorer(scorer: SoupScorer, role: str, folder: Path, recipe: object) -> Callable[[Soup], float]:
    """The score of a mixture on a role's rows, written down."""
    split, encoded = scorer.by_role[role]
    live = replace(scorer, encoded=encoded(), split=split, cached={})
    return written_down(live, folder / JOURNAL, digest([recipe, role, split.fingerprint, scorer.variant]))


def _soups(bench: _Bench, drawn: Sequence[Subset], *, with_greedy: bool, meter: Meter) -> Iterator[SubsetScore]:
    """The uniform soup of each subset, and the greedy one where it is asked for."""

    def on_select(soup: Soup) -> float:
        return bench.score(soup, "select")

    for done, subset in enumerate(drawn, start=1):
        pool = [bench.checkpoints[i] for i in subset]
        yield from _scored(bench, UNIFORM, subset, uniform(pool))
        if with_greedy:
            in_order = [bench.checkpoints[i] for i in sorted(subset)]  # ties fall as when all are cooked
            yield from _scored(bench, GREEDY, subset, greedy(in_order, on_select, signs=(bench.metric.sign,)))
        meter(done)


def _scored(bench: _Bench, what: str, subset: Subset, soup: Soup) -> Iterator[SubsetScore]:
    names = tuple(bench.runs[i].row.name for i in subset)
    for role in bench.roles:
        yield SubsetScore(what, role, names, bench.score(soup, role), len(soup.ingredients))


def _without_mixing(bench: _Bench, drawn: Sequence[Subset]) -> Iterator[SubsetScore]:
    """The best run of each subset and its ensemble, from answers that are there already."""
    chosen_by = [bench.metric.rank(bench.metric.compute(run.select)) for run in bench.runs]
    best = [max(subset, key=lambda i: (chosen_by[i], -i)) for subset in drawn]
    shares = np.zeros((len(drawn), len(bench.runs)))
    for row, subset in zip(shares, drawn, strict=True):
        row[list(subset)] = 1 / len(subset)
    for role in bench.roles:
        answers: list[Predictions] = [run.answers[role] for run in bench.runs]
        alone = [bench.metric.compute(p) for p in answers]
        way = "mean" if answers[0].problem_type == REGRESSION else "geometric"  # of logits: a number is its own
        together = scores_of(Members.of(answers), shares, bench.metric, way)
        for i, subset in enumerate(drawn):
            names = tuple(bench.runs[j].row.name for j in subset)
            yield SubsetScore(BEST, role, names, alone[best[i]], 1)
            yield SubsetScore(ENSEMBLE, role, names, float(together[i]), len(subset))


def _lost(scores: Sequence[SubsetScore]) -> list[str]:
    nan = {s.runs for s in scores if math.isnan(s.score)}
    return [f"{len(nan)} subsets answer NaN when they are mixed, and are left out of the curves."] if nan else []
