"""What a service counts, as text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hf_soups.cascades.plan import Plan
from hf_soups.serving.exit_watch import ExitWatch

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(eq=False)
class Histogram:
    """How many values are at most each of some bounds, their number and their sum."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(eq=False)
class Counters:
    """The counts of one service, changed on its event loop alone."""

    plans: Sequence[Plan]
    watches: Sequence[ExitWatch]  # of each plan
    requests: Counter[int] = field(default_factory=Counter)  # by status
    exits: Counter[tuple[str, int]] = field(default_factory=Counter)  # by the member that answered, and its stage
    failed: int = 0  # rows
    cost: float = 0.0
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batches: dict[str, Histogram] = field(default_factory=dict)  # rows, by member

    def __post_init__(self) -> None:
        self.batches = {name: Histogram(ROWS) for plan in self.plans for name in plan.members}

    def batch(self, number: int, exits: Sequence[int], failed: int) -> None:
        """Count a batch that was answered.

        Args:
            number: of the plan.
            exits: of the rows that were answered.
            failed: rows that were not.
        """
        for stage, name in enumerate(self.plans[number].members):
            self.member_batch(name, sum(exit >= stage for exit in exits))
        self.rows(number, exits, failed)

    def member_batch(self, name: str, rows: int) -> None:
        """Count the rows that a member answered at once."""
        if rows:
            self.batches[name].add(rows)

    def rows(self, number: int, exits: Sequence[int], failed: int) -> None:
        """Count rows that have their answers; see `batch`."""
        plan = self.plans[number]
        self.failed += failed
        for stage in exits:
            self.exits[plan.members[stage], stage] += 1
            self.cost += plan.cost_by_exit[stage]

    def text(self, waiting: Mapping[str, float]) -> str:
        """All of them.

        Args:
            waiting: gauges of what waits now, by name.
        """
        return "".join(f"{line}\n" for line in self._lines(waiting))

    def _lines(self, waiting: Mapping[str, float]) -> Iterator[str]:
        rows = sum(self.exits.values())
        yield from _family("requests_total", "counter", "Requests by status.")
        yield from (_value("requests_total", n, status=status) for status, n in sorted(self.requests.items()))
        yield from _one("rows_total", "counter", "Rows that were answered.", rows)
        yield from _one("rows_failed_total", "counter", "Rows that could not be answered.", self.failed)
        yield from _family("exits_total", "counter", "Rows by the member that answered and its stage.")
        for (member, stage), n in sorted(self.exits.items(), key=lambda item: (item[0][1], item[0][0])):
            yield _value("exits_total", n, member=member, stage=stage)
        yield from _family("cost_total", "counter", "Costs of the rows that were answered.")
        yield _value("cost_total", self.cost, unit=self.plans[0].unit)
        yield from _family("cost_average", "gauge", "Cost of a row, since the start.")
        yield _value("cost_average", self.cost / rows if rows else 0, unit=self.plans[0].unit)
        yield from _family("request_seconds", "histogram", "Seconds from a request's head to its answer.")
        yield from _buckets("request_seconds", self.seconds)
        yield from _family("batch_rows", "histogram", "Rows that a member answered at once.")
        for name, histogram in self.batches.items():
            yield from _buckets("batch_rows", histogram, member=name)
        for name, value in waiting.items():
            yield from _one(name, "gauge", "Now.", value)
        drifted = any(watch.warned for watch in self.watches)
        yield from _one("exit_shares_differ", "gauge", "1: exits are not those of the search.", int(drifted))
        yield from _family("exit_shares_p_value", "gauge", "Of the last window of rows, by plan.")
        for watch in self.watches:
            if watch.p_value is not None:
                yield _value("exit_shares_p_value", watch.p_value, plan=watch.plan.in_order)


def _family(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# HELP hf_soups_{name} {help_text}"
    yield f"# TYPE hf_soups_{name} {kind}"


def _one(name: str, kind: str, help_text: str, value: float) -> Iterator[str]:
    yield from _family(name, kind, help_text)
    yield _value(name, value)


def _buckets(name: str, histogram: Histogram, **labels: object) -> Iterator[str]:
    below = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        yield _value(f"{name}_bucket", below, **labels, le=bound)
    yield _value(f"{name}_sum", histogram.total, **labels)
    yield _value(f"{name}_count", below, **labels)


def _value(name: str, value: float, **labels: object) -> str:
    shown = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
    return f"hf_soups_{name}{{{shown}}} {value!r}" if shown else f"hf_soups_{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
