"""A frontier on the terminal: the plans worth a look beside the best model and ensemble, and the plan for the goal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_soups.cascades.frontier import PRINTED, Choice, Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.costs import UNITS
from hf_soups.metrics import traits_of
from hf_soups.wording import cost_in_words, difference_in_words, score_in_words

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from hf_soups.pool_jobs.search import SearchResult


TITLES = ("#", "members", "exits at", "score", ">= (95%)", "average", "x best", "worst", "exit here")
LEFT = ("members", "exits at", "exit here")
NARROW = 110  # columns of a terminal below which names of members would be folded
BELOW = ("x best", "worst", "exit here")  # what then stands in a table below


@dataclass(frozen=True)
class FrontierTable:
    """Renders at most `count` plans of a frontier with their true indices, and what they say in words."""

    frontier: Frontier
    count: int = PRINTED

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        bounded = any(self.frontier.plans[i].score_low is not None for i in self.frontier.printed(self.count))
        shown = [title for title in TITLES if bounded or not title.startswith(">=")]
        below: list[str] = []
        if options.max_width < NARROW:
            shown, below = [t for t in shown if t not in BELOW], ["#", *BELOW]
        for titles in filter(None, (shown, below)):
            yield self._table(titles)
        for line in legend(self.frontier, len(self.frontier.printed(self.count)), bounded=bounded):
            yield Text(line, style="dim")
        for line in verdicts(self.frontier):
            yield Text(line)

    def _table(self, shown: Sequence[str]) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in shown:
            left = title in LEFT
            table.add_column(title, justify="left" if left else "right", no_wrap=not left)
        rows = self.rows()
        for i, (cells, following) in enumerate(zip(rows, [*rows[1:], None], strict=True)):
            ends = following is not None and cells["#"].isdigit() and not following["#"].isdigit()
            bold = i == self._matching_row()
            table.add_row(*(cells[t] for t in shown), style="bold" if bold else None, end_section=ends)
        return table

    def rows(self) -> list[dict[str, str]]:
        """The cells of each printed plan, then of the best single model and the best ensemble."""
        frontier = self.frontier
        rows = [_cells(str(i), frontier.plans[i], frontier) for i in frontier.printed(self.count)]
        rows.append(_cells("single", frontier.best_single, frontier))
        if frontier.best_ensemble is not None:
            rows.append(_cells("ensemble", frontier.best_ensemble, frontier))
        return rows

    def _matching_row(self) -> int | None:
        matching = self.frontier.cheapest()
        printed = self.frontier.printed(self.count)
        return next((row for row, i in enumerate(printed) if self.frontier.plans[i] is matching), None)


def print_frontier(frontier: Frontier, console: Console | None = None, *, count: int = PRINTED) -> None:
    """Print at most `count` plans of the frontier and what they say."""
    from rich.console import Console as Terminal

    (console or Terminal()).print(FrontierTable(frontier, count))


def verdicts(frontier: Frontier) -> list[str]:
    """What the frontier says: the best single model and ensemble, and whether a cascade beats them."""
    single, ensemble, metric = frontier.best_single, frontier.best_ensemble, frontier.best_single.metric
    name, rows = single.members[0], single.rows
    lines = [f"Best single model: {name}, {_score(single)} at {cost_in_words(single.average_cost)} a row."]
    if ensemble is not None:
        members = " + ".join(ensemble.members)
        lines.append(f"Best ensemble: {members}, {_score(ensemble)} at {_relative(ensemble, frontier)} the cost.")
    several = [(i, p) for i, p in enumerate(frontier.plans) if len(p.members) > 1]
    cascades = [(i, p) for i, p in several if not p.is_ensemble]
    matching = min((c for c in cascades if c[1].score >= single.score), key=lambda c: c[1].average_cost, default=None)
    if matching is None or matching[1].average_cost >= single.average_cost:
        lines.append(f"No cascade reaches {name}'s {metric} at less than its cost.")
    else:
        lines.append(f"Plan {matching[0]} reaches {name}'s {metric} at {_relative(matching[1], frontier)} its cost.")
    best = max(several, key=lambda c: (c[1].score, -c[1].average_cost), default=None)
    if best is None or best[1].score <= single.score:
        lines.append(f"No cascade or ensemble scores more than {name}.")
    else:
        gain = difference_in_words(_shown(best[1].score, metric), _shown(single.score, metric), metric, rows)
        lines.append(
            f"Plan {best[0]} scores the most: {gain} against {name}, at {_relative(best[1], frontier)} its cost."
        )
    return [*lines, *_doubt(frontier, matching)]


def _doubt(frontier: Frontier, matching: tuple[int, Plan] | None) -> list[str]:
    """Where the rows do not show that a plan matches the single model that it seems to match."""
    single = frontier.best_single
    if matching is None or matching[1].score_low is None or single.score_low is None:
        return []
    low, own = matching[1].score_low, single.score_low
    if low >= own:
        return []
    return [
        f"95% lower bounds (thresholds chosen on other rows): plan {matching[0]} {_number(low, single.metric)}, "
        f"{single.members[0]} {_number(own, single.metric)}. {single.rows} rows are too few to show that they match."
    ]


def legend(frontier: Frontier, printed: int, *, bounded: bool) -> list[str]:
    """What the columns mean, and how many plans are not shown."""
    single = frontier.best_single
    unit = UNITS.get(single.unit, single.unit) or "the unit they were given in"
    where = f", measured on {single.hardware}" if single.hardware else ""
    scale = " x 100" if score_in_words(0.5, single.metric) == "50.0" else ""
    lines = [
        f"{printed} of {len(frontier)} plans; {single.metric}{scale} on the {single.rows} rows that thresholds were "
        f"chosen on. Costs in {unit}{where}; x best: average cost against {single.members[0]}'s; exits at: "
        "least confidence; exit here: share of rows by stage."
    ]
    if frontier.optimistic:
        lines.append("Optimistic: members and thresholds were chosen on report rows, so their scores are too good.")
    if bounded:
        lines.append(
            ">=: lower confidence bound of each plan by itself, with thresholds scored on other rows than they were "
            "chosen on (cross-fitted)."
        )
    return lines


def choice_in_words(choice: Choice, frontier: Frontier) -> str:
    """The plan that a goal led to, or why there is none and what comes nearest."""
    plan = choice.plan or choice.nearest
    if plan is None:
        return choice.why or "The frontier holds no plan."
    text = (
        f"plan {_index(plan, frontier)}: {plan.in_order}, {_score(plan)} at "
        f"{cost_in_words(plan.average_cost)} ({_relative(plan, frontier)} of {frontier.best_single.members[0]}), "
        f"at worst {cost_in_words(plan.worst_cost)}."
    )
    if choice.plan is not None:
        return text[0].upper() + text[1:]
    return f"{choice.why[0].upper()}{choice.why[1:]} The nearest is {text}"


def threshold_in_words(threshold: float) -> str:
    """The confidence at which rows exit; above 1 none does."""
    return "never" if threshold > 1 else f"{threshold:.3f}"


def _cells(index: str, plan: Plan, frontier: Frontier) -> dict[str, str]:
    ensemble = plan.is_ensemble
    cells = (
        index,
        plan.in_order,
        "" if ensemble else " ".join(map(threshold_in_words, plan.thresholds)),
        _number(plan.score, plan.metric),
        "-" if plan.score_low is None else _number(plan.score_low, plan.metric),
        cost_in_words(plan.average_cost),
        _relative(plan, frontier),
        cost_in_words(plan.worst_cost),
        _exits(plan, plan.exit_shares),
    )
    return dict(zip(TITLES, cells, strict=True))


def _exits(plan: Plan, shares: Sequence[float]) -> str:
    """Shares of rows by stage; nothing where all rows exit at the only one."""
    return "" if plan.is_ensemble or len(shares) < 2 else " ".join(f"{100 * share:.0f}%" for share in shares)


def _relative(plan: Plan, frontier: Frontier) -> str:
    single = frontier.best_single.average_cost
    return f"{plan.average_cost / single:.2f}x" if single else "-"


def _score(plan: Plan) -> str:
    return f"{plan.metric} {_number(plan.score, plan.metric)}"


def _number(score: float, metric: str) -> str:
    return score_in_words(_shown(score, metric), metric)


def _shown(score: float, metric: str) -> float:
    """As the metric gives it: plans negate losses."""
    return traits_of(metric).sign * score


def _index(plan: Plan, frontier: Frontier) -> str:
    return next((str(i) for i, p in enumerate(frontier.plans) if p is plan), "of another frontier")


def _next_step(plan: Plan, at: str, without: str) -> str:
    """What to do with the chosen plan, at this place; `without` are members that have no model here."""
    if without:
        return f"{without}: no model here, so no cascade can be built of it; its thresholds are in {at}."
    if len(plan.members) == 1:
        return f"{plan.members[0]} alone is the choice: there is no cascade to build."
    return f"Next: hf-soups cascade build {at} --out my-cascade"


@dataclass(frozen=True)
class SearchTable:
    """Renders the result of a search."""

    result: SearchResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        result = self.result
        yield FrontierTable(result.frontier)
        yield Text(choice_in_words(result.choice, result.frontier), style="bold")
        if result.reported:
            yield self._report()
        yield Text(f"searched in {result.seconds:.1f} s; wrote {result.path}", style="dim")
        plan = result.choice.plan
        if plan is not None:
            index = next(i for i, p in enumerate(result.frontier.plans) if p is plan)
            without, at = ", ".join(result.without_model), f"{result.path}#{index}"
            yield Text(_next_step(plan, at, without), style="dim")

    def _report(self) -> Table:
        from rich import box
        from rich.table import Table

        rows = self.result.reported
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="on report rows, which nothing was chosen on")
        for title in ("", "members", "report", "[95%]", "average", "exit here", "p against best single"):
            table.add_column(title, justify="left" if title in ("", "members") else "right")
        for row in rows:
            metric, score = row.plan.metric, row.score
            table.add_row(
                row.name,
                row.plan.in_order,
                score_in_words(score.value, metric),
                f"{score_in_words(score.low, metric)}, {score_in_words(score.high, metric)}",
                cost_in_words(row.average_cost),
                _exits(row.plan, row.exit_shares),
                "" if row.p_value is None else f"{row.p_value:.2g}",
            )
        return table
