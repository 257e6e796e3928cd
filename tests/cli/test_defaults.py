"""Public functions have the defaults of the commands that call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import hf_soups
from hf_soups.cli import boards, cascades, share, soups

COMMANDS: dict[str, Callable[..., Any]] = {
    "run_sweep": soups.sweep, "cook": soups.cook, "build_leaderboard": boards.leaderboard, "compare": boards.compare,
    "search_pool": cascades.search, "build_from": cascades.build, "predict_pool": cascades.predict,
    "report": share.report, "diagnose": boards.diagnose, "watch": cascades.watch, "push": share.push,
}  # fmt: skip
# Words of the command line for what Python leaves out, or takes as an object.
OTHER = {("run_sweep", "executor"), ("predict_pool", "models"), ("predict_pool", "dtype")}


def shown(default: object) -> object:
    """A default as both sides have it: nothing is nothing, and a path its text."""
    return None if default is not inspect.Parameter.empty and not default else str(default)


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_those_of_the_command(name: str) -> None:
    function = inspect.signature(getattr(hf_soups, name)).parameters
    command = inspect.signature(COMMANDS[name]).parameters
    both = [key for key in function if key in command and (name, key) not in OTHER]
    assert both
    assert {key: shown(function[key].default) for key in both} == {key: shown(command[key].default) for key in both}
