"""Registry: the soup methods that `cook` knows by name. Each is one decorated function, in a module of its own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.soups.options import Options
from hf_soups.soups.soup import HIGHER, AtBest, Score, Signs, Soup, Step, rank_of

if TYPE_CHECKING:
    from hf_soups.soups.scoring import SoupScorer

# Modules of hf_soups/soups/methods, in the order in which soups are cooked: greedy's plot shows the uniform one.
BUILT_IN = ("uniform", "greedy", "learned", "model_stock", "lines", "trajectory")


@dataclass(frozen=True, eq=False, slots=True)
class MethodInputs:
    """What a method gets to work with."""

    pool: tuple[Checkpoint, ...]
    options: Options
    start: Checkpoint | None
    score: Callable[[Soup], Score] | None  # None: there are no rows to score on
    scorer: SoupScorer | None
    state: Path  # where a method may keep what it has, over a kill
    threads: int
    say: Callable[[str], None]
    in_words: Callable[[float], str]
    signs: Signs = HIGHER  # of each value of a score
    score_or_bound: Callable[[Soup, Score | None], Score | AtBest] | None = None  # see `greedy`; None: `score` alone
    expect: Callable[[Sequence[Soup], Score | None], None] | None = None  # see `greedy`; None: nothing is scored ahead
    speculate: int = 1

    def scored(self) -> Callable[[Soup], Score]:
        """The score function of a method that needs one."""
        assert self.score is not None
        return self.score

    def rank(self, soup: Soup) -> tuple[float, ...]:
        """What soups are compared by: the larger is better."""
        return rank_of(self.scored()(soup), self.signs)

    def from_start(self) -> Checkpoint:
        """The start of a method that needs one."""
        assert self.start is not None
        return self.start

    def say_step(self, step: Step) -> None:
        """Show a step as progress."""
        self.say(f"{step.candidate} {self.in_words(step.score)}")


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make a soup."""

    name: str
    function: Callable[..., Soup]  # of `MethodInputs`, and of the options by keyword
    options: Mapping[str, Any]  # those that the function takes, with its own default where it has one
    needs_score: bool = False
    needs_start: bool = False
    breaks_ties: bool = False  # what comes out also depends on `Options.tie_break`
    least: int = 2  # ingredients

    def make(self, inputs: MethodInputs) -> Soup:
        """The soup."""
        return self.function(inputs, **self._own(inputs.options))

    def key(
        self, options: Options, start: Checkpoint | None, of: Callable[[Checkpoint], str] = Checkpoint.digest
    ) -> list[Any]:
        """What of the options and the start decides what comes out; weights by their digest."""
        own = {**self._own(options), **({"tie_break": options.tie_break} if self.breaks_ties else {})}
        return [self.name, own, of(start) if start is not None and self.needs_start else None]

    def _own(self, options: Options) -> dict[str, Any]:
        return {name: getattr(options, name, default) for name, default in self.options.items()}


_METHODS: dict[str, Method] = {}
Make = TypeVar("Make", bound=Callable[..., Soup])


def soup_method(
    name: str, *, needs_score: bool = False, needs_start: bool = False, breaks_ties: bool = False, least: int = 2
) -> Callable[[Make], Make]:
    """Make a function a method that `cook` knows by this name.

    The function takes `MethodInputs` and, by keyword, options: those of `Options` by their names, which the user sets,
    and any others with defaults. What it returns depends on these and on the ingredients alone.

    Args:
        name: on the command line, and of the soup's folder.
        needs_score: whether it chooses by `inputs.score`, so that task and data are needed.
        needs_start: whether it uses `inputs.start`, what the ingredients were fine-tuned from.
        breaks_ties: whether `--tie-break` can change what comes out.
        least: ingredients that it needs.
    Raises:
        ValueError: if there is another method of this name, or an option that nobody can set.
    """

    def register(function: Make) -> Make:
        _load_built_in()
        there = _METHODS.get(name)
        if there is not None and there.function.__qualname__ != function.__qualname__:
            raise ValueError(f"there is a soup method {name!r} already; choose another name.")
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        known = {field.name for field in fields(Options)}
        unset = [p.name for p in parameters if p.name not in known and p.default is p.empty]
        if unset:
            raise ValueError(f"{name}: {', '.join(unset)} is none of {', '.join(sorted(known))} and has no default.")
        options = {p.name: None if p.default is p.empty else p.default for p in parameters}
        _METHODS[name] = Method(name, function, options, needs_score, needs_start, breaks_ties, least)
        return function

    return register


def methods() -> Mapping[str, Method]:
    """All methods by name, in the order in which they are cooked."""
    _load_built_in()
    return dict(_METHODS)


def chosen(names: Sequence[str]) -> list[Method]:
    """The methods of these names, in the order in which they are cooked.

    Raises:
        InputError: for an unknown name, or none at all.
    """
    known = methods()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"unknown method {unknown[0]!r}; " * bool(unknown) + f"methods: {', '.join(known)}.")
    return [method for name, method in known.items() if name in names]


def _load_built_in() -> None:
    importlib.import_module("hf_soups.soups.methods")  # which imports those of `BUILT_IN`
