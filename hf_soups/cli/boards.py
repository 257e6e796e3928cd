"""Commands that compare what has answered, and say why averaging pays: leaderboard, diagnose, by-number, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hf_soups.cli.app import Format, Set, app, overrides, printed
from hf_soups.cli.soups import AlignLabels, BatchNorm
from hf_soups.errors import InputError

RecipeOfRows = Annotated[
    Path | None, typer.Option("--recipe", help="Task and data: loose checkpoints answer its rows first.")
]
Answers = Annotated[
    Path | None, typer.Option("--out", help="Where loose checkpoints' answers are kept. Default: leaderboard.")
]


def _answered(
    sources: Sequence[str], recipe: Path | None, changes: list[str] | None, out: Path | None
) -> tuple[Path, tuple[str, ...]]:
    """The folder that a leaderboard can be made of, and the names of loose checkpoints, which answer first."""
    from hf_soups.leaderboard.without_sweep import OUT as FOLDER
    from hf_soups.leaderboard.without_sweep import answer_checkpoints, has_answered

    first = Path(sources[0])
    if recipe is None and len(sources) == 1 and (has_answered(first) or not (first / "config.json").is_file()):
        return first, ()
    done = answer_checkpoints(sources, out or FOLDER, recipe=recipe, overrides=overrides(changes))
    for name, reason in done.failed.items():
        printed(f"[yellow]not answered: {name}: {reason}[/yellow]")
    return done.folder, done.names


@app.command()
def leaderboard(
    sources: Annotated[
        list[str],
        typer.Argument(help="A sweep's folder or a pool of predictions; or checkpoints and soups, with --recipe."),
    ],
    recipe: RecipeOfRows = None,
    out: Answers = None,
    report: Annotated[
        str, typer.Option("--report", help="Of a pool: a share of its rows, or the pool of report rows. Default: 0.5.")
    ] = "",
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of each interval.")] = 1000,
    cascades: Annotated[
        bool, typer.Option("--cascades", help="Search cascades of the best runs and soups too; they stay as rows.")
    ] = False,
    form: Format = "png",
    changes: Set = None,
) -> None:
    """One table of every run, soup, ensemble and cascade; written as CSV, parquet and PNG, and kept with the soups."""
    from hf_soups.leaderboard import build_leaderboard
    from hf_soups.leaderboard.table import keep_with_soups

    folder, _ = _answered(sources, recipe, changes, out)
    board = build_leaderboard(folder, resamples=resamples, cascades=cascades, report=report)
    printed(board.to_rich())
    for path in (*board.save(folder), *keep_with_soups(board, folder)):
        printed(f"[dim]wrote {path}[/dim]")


@app.command()
def diagnose(
    sources: Annotated[list[str], typer.Argument(help="A sweep's folder, or checkpoints: folders or Hub repos.")],
    out: Annotated[Path | None, typer.Option("--out", help="Default: diagnosis/ in the sweep.")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Task and data, for checkpoints without a run.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="What the runs started from. Default: start/ in the sweep.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs at most: the best run with each other first.")] = 12,
    points: Annotated[int, typer.Option(min=1, help="Mixtures between the ends of each line.")] = 3,
    grid: Annotated[int, typer.Option(min=0, help="Points along each side of the plane; 0: no plane.")] = 7,
    rows: Annotated[int | None, typer.Option(min=2, help="Score on at most N select rows. Default: all.")] = None,
    batchnorm: BatchNorm = "averaged",
    align_labels: AlignLabels = False,
    form: Format = "png",
    changes: Set = None,
) -> None:
    """Why averaging helps or does not: barriers, angles, a plane, soups against ensembles; in pictures and words."""
    from hf_soups.diagnosis import diagnose as run_diagnosis
    from hf_soups.diagnosis import print_diagnosis

    result = run_diagnosis(
        sources,
        out,
        recipe=recipe,
        overrides=overrides(changes),
        start=start,
        pairs=pairs,
        points=points,
        grid=grid,
        rows=rows,
        batchnorm=batchnorm,
        align_labels=align_labels,
    )
    print_diagnosis(result)


@app.command(name="by-number")
def by_number(
    sweeps: Annotated[
        list[str],
        typer.Argument(
            help="A sweep's folder; several also get one picture with all. With --recipe checkpoints, which together "
            "are one pool."
        ),
    ],
    recipe: RecipeOfRows = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Default: by_number/ in the sweep. Of several sweeps: where their picture goes. Of checkpoints: where "
            "their answers are kept.",
        ),
    ] = None,
    subsets: Annotated[int, typer.Option(min=1, help="Random subsets of each size, at most.")] = 10,
    sizes: Annotated[
        list[int] | None,
        typer.Option("--size", min=1, help="Only this number of runs (repeatable). Default: up to all."),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="The greedy soup of each subset too: many more mixtures.")
    ] = False,
    batchnorm: BatchNorm = "averaged",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of subsets.")] = 0,
    form: Format = "png",
    changes: Set = None,
) -> None:
    """What each further run adds: soups, ensembles and the best run of random subsets, on report and its shifts."""
    from hf_soups.diagnosis.by_number import by_number as score_by_number
    from hf_soups.diagnosis.number_curves import names_apart, write_together

    if recipe is not None or (Path(sweeps[0]) / "config.json").is_file():
        sweeps, out = [str(_answered(sweeps, recipe, changes, out)[0])], None
    if len(sweeps) > 1 and out is None:
        raise InputError(f"{len(sweeps)} sweeps; say with --out where the picture of all goes.")
    made = {}
    for name, sweep in zip(names_apart(list(map(Path, sweeps))), sweeps, strict=True):
        made[name] = found = score_by_number(
            sweep, out if len(sweeps) == 1 else None, subsets=subsets, sizes=sizes, with_greedy=greedy,
            batchnorm=batchnorm, seed=seed,
        )  # fmt: skip
        printed(found.to_rich())
        for line in (*found.notes, f"wrote {found.folder}: {', '.join(path.name for path in found.files)}"):
            printed(f"[dim]{line}[/dim]")
    if out is not None and len(sweeps) > 1:
        for path in write_together(made, out):
            printed(f"[dim]wrote {path}[/dim]")


@app.command()
def answer(
    sources: Annotated[list[str], typer.Argument(help="A sweep's folder, or folders of checkpoints.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A recipe whose task.shifts to answer.")] = None,
    changes: Set = None,
) -> None:
    """Evaluate every run and soup on the shifted test sets (task.shifts)."""
    from hf_soups.leaderboard.shifts import answer as answer_shifts
    from hf_soups.leaderboard.shifts import print_result

    result = answer_shifts(sources, recipe=recipe, overrides=overrides(changes))
    print_result(result)
    raise typer.Exit(result.exit_status)


@app.command()
def compare(
    folder: Annotated[
        str,
        typer.Argument(
            help="A sweep's folder, a pool of predictions, or that of a leaderboard; or the first checkpoint."
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Two rows of the leaderboard: run_03, greedy, best, ensemble. None: all against the best. With "
            "--recipe further checkpoints."
        ),
    ] = None,
    recipe: RecipeOfRows = None,
    out: Answers = None,
    on: Annotated[str, typer.Option("--on", help="report, select or a shift's name.")] = "report",
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of the paired bootstrap.")] = 10_000,
    changes: Set = None,
) -> None:
    """Whether two rows of the leaderboard differ by more than chance: McNemar's test and a paired bootstrap."""
    from hf_soups.leaderboard.compare import compare as compare_rows
    from hf_soups.leaderboard.compare import print_comparisons

    at, rows = Path(folder), tuple(names or ())
    if recipe is not None or (Path(folder) / "config.json").is_file():
        at, answered = _answered([folder, *rows], recipe, changes, out)
        rows = answered if len(answered) == 2 else ()
    print_comparisons(compare_rows(at, rows, on=on, resamples=resamples))
