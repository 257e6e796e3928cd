"""Menu: the methods that `cook` knows by name, what each needs, and which options it listens to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.soups.methods.greedy import HIGHER, Score, Signs, Tie, greedy, rank_of, values_of
from hf_soups.soups.methods.lines import SCALES, task_vectors, wise_ft
from hf_soups.soups.methods.model_stock import model_stock
from hf_soups.soups.methods.trajectory import average_of_run
from hf_soups.soups.methods.uniform import uniform
from hf_soups.soups.soup import Soup, Step

if TYPE_CHECKING:
    from hf_soups.soups.methods.learned import LearnedStep
    from hf_soups.soups.scoring import LiveScorer


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose about methods; each method listens to some of it."""

    tie: Tie = ">="
    tie_break: bool = False  # equal scores: the lower negative log-likelihood decides
    restarts: int = 0
    prune: bool = False
    seed: int = 0
    start: str | None = None  # what the ingredients were fine-tuned from; default: the sweep's start
    decay: float = 0.9
    scale: float | None = None  # task vectors: this one instead of the best by score
    learning_rate: float | None = None  # of learned coefficients; default: the method's own
    epochs: int = 5
    models_at_once: int | None = None  # learned-free: ingredients read in a step

    def __post_init__(self) -> None:
        if self.tie not in (">=", ">"):
            raise InputError(f"tie is {self.tie!r}; expected '>=' (an equal score joins, as in the paper) or '>'.")
        if self.restarts < 0 or self.epochs < 1 or self.seed < 0:
            raise InputError(
                f"restarts is {self.restarts}, epochs is {self.epochs}, seed is {self.seed}; expected restarts and "
                "seed of 0 or more, and epochs of 1 or more."
            )
        if not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; expected 0 (the last checkpoint alone) or more, and below 1.")


@dataclass(frozen=True, eq=False, slots=True)
class MethodInputs:
    """What a method gets to work with."""

    pool: tuple[Checkpoint, ...]
    options: Options
    start: Checkpoint | None
    score: Callable[[Soup], Score] | None  # None: there are no rows to score on
    scorer: LiveScorer | None
    state: Path  # where a method may keep what it has, over a kill
    threads: int
    say: Callable[[str], None]
    in_words: Callable[[float], str]
    signs: Signs = HIGHER  # of each value of a score

    def scored(self) -> Callable[[Soup], Score]:
        """The score function of a method that needs one."""
        assert self.score is not None
        return self.score

    def from_start(self) -> Checkpoint:
        """The start of a method that needs one."""
        assert self.start is not None
        return self.start


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make a soup."""

    name: str
    make: Callable[[MethodInputs], Soup]
    needs_score: bool = False
    needs_start: bool = False
    least: int = 2  # ingredients
    options: tuple[str, ...] = ()  # names of `Options` that decide what comes out

    def key(self, options: Options, start: Checkpoint | None) -> list[Any]:
        """What of the options and the start decides what comes out."""
        own = {name: getattr(options, name) for name in self.options}
        return [self.name, own, start.sha256() if start is not None and self.needs_start else None]


def methods() -> Mapping[str, Method]:
    """All methods by name, in the order they are cooked: uniform first, so that greedy's plot can show it."""
    return {method.name: method for method in _METHODS}


def chosen(names: tuple[str, ...] | list[str]) -> list[Method]:
    """The methods of these names, in the menu's order.

    Raises:
        InputError: for an unknown name, or none at all.
    """
    known = methods()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"unknown method {unknown[0]!r}; " * bool(unknown) + f"methods: {', '.join(known)}.")
    return [method for name, method in known.items() if name in names]


def _greedy(bench: MethodInputs) -> Soup:
    tried, total, options = iter(range(1, 1 << 30)), len(bench.pool), bench.options

    def on_step(step: Step) -> None:
        word = ("taken out" if step.accepted else "stays") if step.removes else "joins" if step.accepted else "left out"
        how = "without" if step.removes else "with"
        bench.say(f"{next(tried)}/{total}: {how} {step.candidate} {bench.in_words(step.score)}, {word}")

    return greedy(
        bench.pool, bench.scored(), signs=bench.signs, tie=options.tie, restarts=options.restarts, prune=options.prune,
        seed=options.seed, on_step=on_step,
    )  # fmt: skip


def _wise_ft(bench: MethodInputs) -> Soup:
    score = bench.scored()
    singles = [rank_of(score(uniform([checkpoint])), bench.signs) for checkpoint in bench.pool]
    best = max(range(len(singles)), key=lambda i: (singles[i], -i))
    bench.say(f"the line from {bench.from_start()} to {bench.pool[best].name}, the best alone")
    return wise_ft(bench.pool[best], bench.from_start(), score, signs=bench.signs, on_step=_told(bench))


def _task_vectors(bench: MethodInputs) -> Soup:
    scale = bench.options.scale
    if bench.score is None and scale is None:
        raise InputError("task-vectors without a task to score on needs a scale (--scale 0.3), or a recipe (--recipe).")
    scales = SCALES if scale is None else (scale,)
    return task_vectors(
        bench.pool, bench.from_start(), bench.score, signs=bench.signs, scales=scales, on_step=_told(bench)
    )


def _learned(bench: MethodInputs, per: Literal["ingredient", "tensor"], sign: Literal["softmax", "free"]) -> Soup:
    from hf_soups.soups.methods.learned import learned

    assert bench.scorer is not None

    def on_step(step: LearnedStep) -> None:
        held_out = "" if step.held_out is None else f", {step.held_out:.4f} on rows held out"
        bench.say(f"step {step.step}/{step.steps}: loss {step.loss:.4f}{held_out}")

    options = bench.options
    return learned(
        bench.pool, bench.scorer, per=per, sign=sign, epochs=options.epochs, learning_rate=options.learning_rate,
        models_at_once=options.models_at_once if sign == "free" else None, seed=options.seed, state=bench.state,
        on_step=on_step, threads=bench.threads,
    )  # fmt: skip


def _told(bench: MethodInputs) -> Callable[[Step], None]:
    return lambda step: bench.say(f"{step.candidate} {bench.in_words(step.score)}")


def first(score: Score) -> float:
    """The value that a score is told by; what follows it breaks ties."""
    return values_of(score)[0]


_TRAINED = ("learning_rate", "epochs", "seed")
_METHODS = (
    Method("uniform", lambda bench: uniform(bench.pool)),
    Method("greedy", _greedy, needs_score=True, options=("tie", "tie_break", "restarts", "prune", "seed")),
    Method("learned", lambda bench: _learned(bench, "ingredient", "softmax"), needs_score=True, options=_TRAINED),
    Method("learned-by-tensor", lambda bench: _learned(bench, "tensor", "softmax"), needs_score=True, options=_TRAINED),
    Method(
        "learned-free", lambda bench: _learned(bench, "ingredient", "free"), needs_score=True,
        options=(*_TRAINED, "models_at_once"),
    ),
    Method("model-stock", lambda b: model_stock(b.pool, b.from_start(), threads=b.threads), needs_start=True),
    Method("wise-ft", _wise_ft, needs_score=True, needs_start=True, least=1, options=("tie_break",)),
    Method("task-vectors", _task_vectors, needs_start=True, least=1, options=("scale", "tie_break")),
    Method("run-ema", lambda b: average_of_run(b.pool, decay=b.options.decay), options=("decay",)),
)  # fmt: skip
assert {name for method in _METHODS for name in method.options} <= {f.name for f in fields(Options)}
