"""The command line of one fine-tune: any value of the recipe is an option."""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hf_soups.errors import HfSoupsError, InputError, RunFailed, as_a_command, warn_in_one_line
from hf_soups.files.plain_yaml import parse_yaml
from hf_soups.finetune import default_out, finetune
from hf_soups.limits import check_threads, limit_reached
from hf_soups.recipe import Data, Head, Recipe, Train, load_recipe
from hf_soups.recipe.task import Task
from hf_soups.user_code import import_what_the_parent_did

USAGE = """usage: accelerate launch -m hf_soups.finetune RECIPE.yaml [options]     (or python -m hf_soups.finetune ...)

Fine-tune once and write a run folder: checkpoint, run.json, cached predictions.

  --out DIR       the run folder            (default: runs/NAME/NAME-HASH)
  --start DIR     the shared start          (default: made from the recipe)
  --cache DIR     encoded rows and starts, kept for other runs
  --overwrite     replace an earlier run in --out
  --quiet         no progress
  --debug         show tracebacks
  --KEY VALUE     any value of the recipe: a bare name is a value of `train`, --data.max_length 64 any other

values of `train`:
"""
PATHS = ("out", "start", "cache")
SECONDS_FOR_THE_MAIN_PROCESS = 5.0
FLAGS = ("overwrite", "quiet", "debug", "help")
PARTS: dict[str, type[BaseModel]] = {"head": Head, "data": Data, "train": Train, "task": Task}


@dataclass(slots=True)
class Command:
    """What the arguments mean."""

    recipe: Path | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)  # overrides of the recipe


def parse(arguments: Sequence[str]) -> Command:
    """Read the arguments.

    Raises:
        InputError: on an unknown option, a missing value, or anything but one recipe.
    """
    command, words = Command(), deque(arguments)
    while words:
        word = words.popleft()
        if word.startswith("--") or word == "-h":
            _take_option(command, "help" if word == "-h" else word[2:], words)
        elif command.recipe is None:
            command.recipe = Path(word)
        else:
            raise InputError(f"one recipe at a time: got {command.recipe} and {word}.")
    if command.recipe is None and "help" not in command.flags:
        raise InputError("which recipe? Give a YAML file; --help lists the options.")
    return command


def _take_option(command: Command, option: str, words: deque[str]) -> None:
    """Take an option, and its value from the words after it."""
    name, equals, value = option.partition("=")
    name = name.replace("-", "_")
    if name in FLAGS:
        command.flags.add(name)
        return
    if name not in PATHS and name not in _keys():
        raise InputError(f"unknown option --{name}{_nearest(name)}")
    if not equals:
        if not words or words[0].startswith("--"):
            raise InputError(f"--{name} needs a value.")
        value = words.popleft()
    if name in PATHS:
        command.paths[name] = Path(value)
    else:
        command.values[name] = parse_yaml(value, f"--{name} {value}")


def _keys() -> list[str]:
    nested = [f"{part}.{name}" for part, model in PARTS.items() for name in model.model_fields]
    return [*Train.model_fields, *(name for name in Recipe.model_fields if name not in PARTS), "task", *nested]


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, [*PATHS, *FLAGS, *_keys()], n=1)
    return f"; did you mean --{close[0]}?" if close else "; --help lists them."


def usage() -> str:
    """The text of --help."""
    fields = (f"  {f'--{name} {f.default}':<30} {f.description}" for name, f in Train.model_fields.items())
    return USAGE + "\n".join(fields)


@as_a_command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for a failed run, 2 for wrong input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = parse(arguments)
        if "help" in command.flags:
            print(usage())
            return 0
        check_threads()
        warn_in_one_line("hf_soups.finetune")
        import_what_the_parent_did()
        recipe = load_recipe(command.recipe or "", command.values)
        finetune(
            recipe,
            command.paths.get("out") or default_out(recipe),
            start=command.paths.get("start"),
            cache=command.paths.get("cache"),
            progress="quiet" not in command.flags,
            overwrite="overwrite" in command.flags,
        )
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _explained(error)
    finally:
        _part_from_others()
    return 0


def _explained(error: Exception) -> int:
    """Print what went wrong; the exit status."""
    if isinstance(error, RunFailed):
        return _printed(f"the run failed ({error.status}): {error.reason}", error.exit_status)
    if isinstance(error, HfSoupsError):
        return _printed(str(error), error.exit_status)
    if limit := limit_reached(error):
        return _printed(limit, 1)
    return _printed(f"unexpected {type(error).__name__}: {error}. Repeat with --debug for the traceback.", 1)


def _printed(message: str, status: int) -> int:
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        # The main process says the same and ends, and then the launcher ends this one. Were this one to end first,
        # the launcher would end the main process before it has said anything.
        time.sleep(SECONDS_FOR_THE_MAIN_PROCESS)
        message = f"process {rank}: {message}"
    print(f"hf_soups.finetune: {message}", file=sys.stderr, flush=True)
    return status


def _part_from_others() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
