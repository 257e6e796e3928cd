"""The program and what all of its commands share: streams, options before the command, printing, exit statuses."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import warnings
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from hf_soups.ending import end_in_one_line
from hf_soups.errors import HfSoupsError, InputError, as_a_command, is_short_of_memory, warn_in_one_line
from hf_soups.limits import check_threads, limit_reached


def made_safe() -> None:
    """Open what is closed, and write what the encoding lacks as an escape, so that a name never ends a command.

    A file that took the number of a closed stream would get what is printed into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 (for good)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):  # a stream that was put in another's place and cannot seek
                stream.reconfigure(errors="backslashreplace")


def written_out(status: int) -> tuple[int, str]:
    """Write out what is still to be printed; the exit status, and why it could not be written."""
    why = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            status = status or 1
            why = "" if isinstance(error, BrokenPipeError) else f"standard output: {error}."
            with contextlib.suppress(OSError, ValueError):  # Python tries once more at its end, and would say so
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status, why


def _without_types(params: list[Any]) -> list[Any]:
    """Help shows no type beside options that take no value."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command of ours."""

    def get_params(self, ctx: Any) -> Any:
        """As its base."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """The program, and commands that have commands of their own."""

    def get_params(self, ctx: Any) -> Any:
        """As its base."""
        return _without_types(super().get_params(ctx))


app = typer.Typer(
    cls=Group,
    name="hf-soups",
    help="Fine-tune many classifiers, combine them as soups, ensembles and cascades, and compare the results.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, e.g. train.epochs=2 (repeatable)."),
]
OnError = Annotated[
    Literal["stop", "skip"] | None,
    typer.Option("--on-error", help="A broken image or row without text ends the job, or is left out. Default: stop."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already in --out.")]


def _pictures_too(context: typer.Context, form: str) -> str:
    if form != "png":
        from hf_soups.plots.canvas import also_written_as

        context.with_resource(also_written_as(form))
    return form


Format = Annotated[
    Literal["png", "svg"],
    typer.Option("--format", help="svg: pictures as SVG too, beside the PNG files.", callback=_pictures_too),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from hf_soups import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the installed version.", is_eager=True, callback=_print_version)
    ] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="FILE|MODULE", help="Run this Python file or module of yours first, e.g. one that "
            "registers a model class (repeatable)."
        ),
    ] = None,
) -> None:  # fmt: skip
    """Options of every command; `main` reads --debug itself, before anything can fail."""
    context.with_resource(as_a_command())
    check_threads()
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


def refuse_without_ray(**given: object) -> None:
    """Options of a cluster, by name; those that were not given are None, False or their default.

    Raises:
        InputError: if one was given all the same.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None and value is not False]
    if names:
        raise InputError(f"{', '.join(names)}: of a cluster; give --executor ray too, or leave it out.")


def printed(what: Any) -> None:
    """Print a text or a table; into a file or a pipe 140 columns wide."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(what)


def main() -> None:
    """Run the command line: exit status 0, 1 for a failure, 2 for wrong input; see `ending` for signals."""
    end_in_one_line("hf-soups")
    made_safe()
    _plain_warnings()
    status, message = _status(debug="--debug" in sys.argv)
    status, why = written_out(status)
    if why or message:
        typer.echo(f"hf-soups: {why or message}", err=True)
    sys.exit(status)


def _plain_warnings() -> None:
    """Each warning once, in one line; libraries that cannot keep something for the next time need not say so."""
    warn_in_one_line("hf-soups")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*joblib will operate in serial mode")


@as_a_command()
def _status(*, debug: bool) -> tuple[int, str]:
    """Run the program; its exit status, and what went wrong in one line."""
    try:
        app()
    except SystemExit as end:  # how typer ends, also when all went well
        return end.code if isinstance(end.code, int) else int(end.code is not None), ""
    except BrokenPipeError:  # whoever read the output has seen enough
        return 1, ""
    except Exception as error:  # whatever it is, the user gets one line
        if debug:
            raise
        odd = 2 if isinstance(error, UnicodeEncodeError) else 1
        return getattr(error, "exit_status", odd), in_one_line(error)
    return 0, ""


def in_one_line(error: Exception) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, HfSoupsError):
        return str(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        before, after = error.object[: error.start], error.object[error.start :]
        name = re.split(r"[\s'\":]", before)[-1] + re.split(r"[\s'\":]", after)[0]
        return f"{os.fsencode(name)!r}: a name of a file or folder that is not UTF-8. Rename it."
    if limit := limit_reached(error):
        return limit
    if isinstance(error, OSError):
        written = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        where = "what is printed cannot be written: " if written else ""
        return f"{where}{error}. Nothing was left half-written; free space or check permissions and repeat."
    if is_short_of_memory(error):
        return f"out of memory ({error}). Use smaller batches or fewer rows, or a larger machine."
    # the last line of defence: a defect of ours, said plainly
    return f"unexpected {type(error).__name__}: {error}. Repeat with --debug for the traceback."
