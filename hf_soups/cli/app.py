"""The program and what all of its commands share: options before the command, printing, exit statuses."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from hf_soups.errors import HfSoupsError, InputError, is_short_of_memory

app = typer.Typer(
    name="hf-soups",
    help="Fine-tune a pile of classifiers, make soups, ensembles and cascades of it, and see what came out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, e.g. train.epochs=2 (repeatable)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already in --out.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="FILE|MODULE", help="Run this Python file or module of yours first, e.g. one that "
            "registers a model class (repeatable)."
        ),
    ] = None,
) -> None:  # fmt: skip
    """Options of every command; `main` reads --debug itself, before anything can fail."""
    if imports:
        from hf_soups.user_code import import_user_code

        for name in imports:
            import_user_code(name)


def overrides(changes: list[str] | None) -> dict[str, Any]:
    """The values that --set options give.

    Raises:
        InputError: if one is not KEY=VALUE.
    """
    from hf_soups.files.plain_yaml import parse_yaml

    values = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise InputError(f"--set {change!r}: expected KEY=VALUE, such as train.epochs=2.")
        values[key] = parse_yaml(text, f"--set {change}")
    return values


def printed(what: Any) -> None:
    """Print a text or a table; into a file or a pipe 140 columns wide."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(what)


def main() -> None:
    """Run the command line: exit status 0, 1 for a failure, 2 for wrong input, 130 when interrupted."""
    debug = "--debug" in sys.argv
    try:
        app()
    except HfSoupsError as error:
        if debug:
            raise
        sys.exit(_said(str(error), error.exit_status))
    except KeyboardInterrupt:
        sys.exit(_said("interrupted; the same command goes on from here.", 130))
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if debug:
            raise
        sys.exit(_said(f"{error}. Nothing was left half-written; free space or check permissions and repeat.", 1))
    except Exception as error:  # the last line of defence: a defect of ours, said plainly
        if debug:
            raise
        if is_short_of_memory(error):
            sys.exit(_said(f"out of memory ({error}). Use smaller batches or fewer rows, or a larger machine.", 1))
        sys.exit(_said(f"unexpected {type(error).__name__}: {error}. Repeat with --debug for the traceback.", 1))


def _said(message: str, status: int) -> int:
    typer.echo(f"hf-soups: {message}", err=True)
    return status
