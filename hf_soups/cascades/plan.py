"""Plan: one cascade as the search found it, members and thresholds with what they reach and cost; and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.cascades.rule import NEVER, Rule, checked_thresholds
from hf_soups.cascades.simulate import CascadePredictions, Exited, simulate
from hf_soups.display import Displayed
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.reading import as_record
from hf_soups.metrics import traits_of
from hf_soups.predictions import Predictions
from hf_soups.wording import cost_in_words, score_in_words

if TYPE_CHECKING:
    import pandas as pd

SHARES_OFF = 1e-6  # by so much the sum of exit shares may differ from 1


@dataclass(frozen=True, slots=True, repr=False)
class Plan(Displayed):
    """A cascade by the names of its members, and what it scored and cost on the rows it was chosen on.

    One member is that model alone; thresholds of 2 (`NEVER`) make an ensemble of its members.
    """

    members: tuple[str, ...]
    thresholds: tuple[float, ...]  # one for each member but the last
    costs: tuple[float, ...]  # of each member on one example, in `unit`
    rule: Rule = field(default_factory=Rule)
    temperatures: tuple[float, ...] = ()  # one per member; empty: all 1
    score: float = float("nan")  # of `metric`, on select
    score_low: float | None = None  # lower confidence bound of it
    average_cost: float = float("nan")
    exit_shares: tuple[float, ...] = ()  # of the rows, by stage; they sum to 1
    metric: str = "accuracy"
    unit: str = ""
    hardware: str = ""
    rows: int = 0  # that it was scored on
    abstain: float | None = None  # rows that are less sure after the last member are for a human; None: none is
    coverage: float | None = None  # share of the rows that are not, on select
    score_answered: float | None = None  # of `metric` on these alone

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", checked_thresholds(self.thresholds, len(self.members)))
        object.__setattr__(self, "costs", tuple(float(cost) for cost in self.costs))
        if self.rule.scores and len(self.rule.scores) != len(self.members) - 1:
            raise InputError(
                f"learned scores of {len(self.rule.scores)} stages for {len(self.members)} members; expected one for "
                "each but the last."
            )
        if len(set(self.members)) != len(self.members):
            raise InputError(f"a cascade of {', '.join(self.members)}: a member stands there twice.")
        for name, values in (("costs", self.costs), ("temperatures", self.temperatures or self.members)):
            if len(values) != len(self.members):
                raise InputError(f"{len(values)} {name} for {len(self.members)} members; expected one for each.")
        if self.abstain is not None and not 0 <= self.abstain <= NEVER:
            raise InputError(
                f"abstain is {self.abstain}; expected a confidence from 0 (answer every row) to 1, or {NEVER:g} (none)."
            )
        if any(not 0 < t < math.inf for t in self.temperatures):
            raise InputError(f"temperatures are {self.temperatures}; expected numbers above 0.")
        if any(not 0 <= cost < math.inf for cost in self.costs):
            raise InputError(f"costs are {self.costs}; expected numbers of 0 or more.")
        if self.exit_shares and (
            len(self.exit_shares) != len(self.members)
            or min(self.exit_shares) < 0
            or abs(sum(self.exit_shares) - 1) > SHARES_OFF
        ):
            raise InputError(f"exit shares are {self.exit_shares}; expected one for each member, with a sum of 1.")

    @property
    def is_ensemble(self) -> bool:
        """Whether all of several members answer every row."""
        return len(self.members) > 1 and all(t > 1 for t in self.thresholds)

    @property
    def in_order(self) -> str:
        """The members in words: "a + b" of an ensemble, "a -> b" of a cascade."""
        return (" + " if self.is_ensemble else " -> ").join(self.members)

    @property
    def worst_cost(self) -> float:
        """What a row costs that meets every member."""
        return float(sum(self.costs))

    @property
    def way(self) -> tuple[object, ...]:
        """What decides how rows go: two plans of one way are the same cascade, whatever else they know of it."""
        return self.members, self.thresholds, self.rule, self.temperatures, self.abstain

    @property
    def cost_by_exit(self) -> tuple[float, ...]:
        """What a row costs that leaves at each stage."""
        return tuple(float(c) for c in np.cumsum(self.costs))

    def in_short(self) -> str:
        """Members with the confidence at which each answers, score and average cost."""
        ways = [f" at {t:.4g} or more, else " if t < NEVER else " + " for t in self.thresholds]
        named = "".join(part for pair in zip(self.members, [*ways, ""], strict=True) for part in pair)
        known = not math.isnan(self.score)
        score = score_in_words(traits_of(self.metric).sign * self.score, self.metric)
        named += "" if self.abstain is None else f", a human where that is below {self.abstain:.4g}"
        return named + (f"; {self.metric} {score}, average cost {cost_in_words(self.average_cost)}" if known else "")

    def to_pandas(self) -> pd.DataFrame:
        """The members, a row each: threshold, cost, temperature, share of the rows that exits there."""
        import pandas as pd

        nothing = (math.nan,) * len(self.members)
        return pd.DataFrame(
            {
                "member": self.members,
                "exits_from": (*self.thresholds, math.nan),
                "cost": self.costs,
                "temperature": self.temperatures or (1.0,) * len(self.members),
                "exit_share": self.exit_shares or nothing,
            }
        )

    def can_follow(self, other: Plan) -> bool:
        """Whether a cascade that was built for this plan can follow another: over its members, at the same costs."""
        own = dict(zip(self.members, self.costs, strict=True))
        same_costs = all(own.get(name) == cost for name, cost in zip(other.members, other.costs, strict=True))
        return same_costs and (other.unit, other.hardware) == (self.unit, self.hardware)

    def apply(self, predictions: Mapping[str, Predictions]) -> CascadePredictions:
        """The cascade's answers on other rows, with each row's exit stage and cost, and whether a human is asked.

        Args:
            predictions: those of the members, by name, of the same rows in any order; others are not looked at.
        Raises:
            PredictionsError: if a member is missing, or they are not of the same rows and labels.

        >>> small, big = (Predictions.from_probs(p) for p in ([[0.9, 0.1], [0.6, 0.4]], [[1, 0], [0, 1]]))
        >>> done = Plan(("small", "big"), (0.8,), (1.0, 5.0)).apply({"small": small, "big": big})
        >>> done.exits.tolist(), done.costs.tolist(), done.answers.tolist()
        ([0, 1], [1.0, 6.0], [0, 1])
        """
        missing = [name for name in self.members if name not in predictions]
        if missing:
            raise PredictionsError(
                f"no predictions of {', '.join(missing)}; there are: {', '.join(predictions)}. The cascade's members "
                f"are {', '.join(self.members)}."
            )
        first = predictions[self.members[0]]
        aligned = [predictions[name].aligned_to(first) for name in self.members]
        scaled = [p.at_temperature(t) for p, t in zip(aligned, self.temperatures or (1.0,) * len(aligned), strict=True)]
        done: Exited | None = None
        if len(scaled) > 1 or self.abstain is not None:
            self.rule.check(first)
            done = simulate(scaled, self.thresholds, self.rule, self.abstain)
        if len(scaled) == 1 or done is None:  # itself, whatever its rows are
            log_probs, exits = scaled[0].log_probs, np.zeros(len(first), dtype=np.int64)
        else:
            log_probs, exits = done.log_probs, done.exits
        return CascadePredictions(
            log_probs,
            first.row_ids,
            next((p.labels for p in aligned if p.labels is not None), None),
            next((p.label_names for p in aligned if p.label_names), None),
            next((p.data for p in aligned if p.data), ""),
            f"cascade of {', '.join(self.members)}",
            first.problem_type,
            exits=exits,
            costs=np.asarray(self.cost_by_exit)[exits],
            confidences=None if done is None else done.confidences,
            abstained=None if done is None else done.abstained,
        )


def plan_row(plan: Plan) -> dict[str, Any]:
    """A plan as a row of a table; scores as the metric gives them."""
    sign = traits_of(plan.metric).sign
    return {
        "members": plan.in_order,
        "thresholds": " ".join(f"{t:.6g}" for t in plan.thresholds),
        plan.metric: sign * plan.score,
        f"{plan.metric}_low": None if plan.score_low is None else sign * plan.score_low,
        "average_cost": plan.average_cost,
        "worst_cost": plan.worst_cost,
        "exit_shares": " ".join(f"{share:.4f}" for share in plan.exit_shares),
    }


def plan_values(plan: Plan) -> dict[str, Any]:
    """The fields of a plan as JSON holds them; what is not known is left out.

    >>> plan_values(Plan(("a",), (), (1.0,)))["members"]
    ['a']
    """
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}
    values["rule"] = {name: value for name, value in asdict(plan.rule).items() if value}
    return {name: v for name, v in values.items() if v is not None and not (isinstance(v, float) and math.isnan(v))}


def plan_of(values: Mapping[str, Any], where: str = "config.json of the cascade") -> Plan:
    """The plan that `plan_values` wrote; keys of later versions are left out.

    Raises:
        InputError: if something is missing or not allowed.
    """
    return as_record(values, Plan, where, what="a plan", again="Build it again.")


def within_budget(plans: tuple[Plan, ...], budget: float) -> Plan:
    """The plan of the highest score that costs at most `budget` on average.

    Args:
        plans: over the members of one cascade, in one unit.
        budget: in shares of what the most expensive member costs alone; 0.5 is half of it.
    Raises:
        InputError: if no plan is so cheap, or the costs of the plans are not known.
    """
    dearest = max(cost for plan in plans for cost in plan.costs)
    known = [plan for plan in plans if np.isfinite(plan.average_cost) and np.isfinite(plan.score)]
    if not known or not dearest > 0:
        raise InputError(
            "this cascade holds no plans with a score and an average cost, so it has no budget to keep to. Build it "
            "from a frontier of `cascade search`."
        )
    fitting = [plan for plan in known if plan.average_cost <= budget * dearest]
    if not fitting:
        least = min(plan.average_cost for plan in known) / dearest
        raise InputError(
            f"a budget of {budget:g} of the most expensive member's cost; the cheapest plan that this cascade holds "
            f"takes {least:.3g}. Give {np.ceil(least * 1000) / 1000:g} or more, or None for the plan as built."
        )
    return max(fitting, key=lambda plan: (plan.score, -plan.average_cost, -plan.worst_cost))
