"""Commands of fine-tunes and soups: sweep, cook, inspect, convert; and quickstart, doctor and version."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_soups.cli.app import Format, OnError, Overwrite, Set, app, overrides, printed, refuse_without_ray
from hf_soups.errors import InputError
from hf_soups.soups.options import DEFAULTS, METHODS, OUT

if TYPE_CHECKING:
    from hf_soups.cooking import CookResult

AlignLabels = Annotated[
    bool, typer.Option("--align-labels", help="Permute heads whose label names are in another order.")
]
Processor = Annotated[
    str | None,
    typer.Option(help="Where tokenizers or image processors differ: take FIRST (the first's), or those of a folder."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go on with the first's where tokenizers, image processors or configs differ.")
]
ExtraRows = Annotated[
    Literal["keep", "refuse"], typer.Option(help="Of vocabularies that some ingredients padded or added tokens to.")
]
BatchNorm = Annotated[
    Literal["averaged", "recomputed"], typer.Option(help="How mixtures of CNNs get their BatchNorm statistics.")
]
OnCluster = Annotated[
    Literal["local", "ray"], typer.Option("--executor", help="Where the work is done: on this machine, or by Ray.")
]
Address = Annotated[
    str, typer.Option("--address", help="--executor ray: of the cluster; auto, HOST:PORT, or local (this machine).")
]


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).", metavar="RECIPE")],
    out: Annotated[Path, typer.Option("--out", help="The sweep's folder; the same command resumes it.")],
    slots: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes of each run. Default: 1, or with --executor ray one a GPU.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Repeat the failed runs too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, disk and time; run nothing.")] = False,
    probe: Annotated[bool, typer.Option(help="Time one step for the dry run's estimate.")] = True,
    on_error: OnError = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Start a Python of its own for every run; by default they share imports.")
    ] = False,
    executor: OnCluster = "local",
    address: Address = "auto",
    gpus_per_run: Annotated[
        float | None,
        typer.Option(min=0, help="--executor ray: GPUs of each run. Default: one a process, if the cluster has GPUs."),
    ] = None,
    cpus_per_run: Annotated[
        int | None, typer.Option(min=1, help="--executor ray: CPUs of each run. Default: one a process.")
    ] = None,
    nodes_per_run: Annotated[
        int | None,
        typer.Option(
            min=1, help="--executor ray: nodes that each run is spread over. Default: as few as have the GPUs."
        ),
    ] = None,
    changes: Set = None,
) -> None:
    """Fine-tune many times from one start, as the recipe plans it."""
    from hf_soups.recipe import load_recipe
    from hf_soups.sweep import print_result, run_sweep

    chosen = {} if on_error is None else {"data.on_error": on_error}
    loaded = load_recipe(recipe, {**overrides(changes), **chosen})
    if dry_run:
        from hf_soups.sweep.dry_run import print_dry_run

        print_dry_run(loaded, out, slots=slots, probe=probe)
        return
    if executor == "ray":
        from hf_soups.remote.sweeps import ray_executor

        if slots > 1 or isolate:
            raise InputError("--slots and --isolate are of one machine: with --executor ray leave them out.")
        with ray_executor(
            out,
            address,
            gpus_per_run=gpus_per_run,
            cpus_per_run=cpus_per_run,
            processes_per_run=processes,
            nodes_per_run=nodes_per_run,
        ) as where:
            result = run_sweep(loaded, out, retry_failed=retry_failed, executor=where)
    else:
        refuse_without_ray(
            address=address != "auto", gpus_per_run=gpus_per_run, cpus_per_run=cpus_per_run, nodes_per_run=nodes_per_run
        )
        result = run_sweep(
            loaded, out, slots=slots, processes_per_run=processes or 1, retry_failed=retry_failed, isolate=isolate
        )
    print_result(result)
    raise typer.Exit(result.exit_status)


@app.command()
def cook(
    sources: Annotated[list[str], typer.Argument(help="A sweep's folder, or checkpoints: folders or Hub repos.")],
    out: Annotated[Path, typer.Option("--out", help="Where the soups are written.")] = Path(OUT),
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="uniform (default), greedy, learned, learned-by-tensor, learned-free, model-stock, wise-ft, "
            "task-vectors or run-ema (repeatable).",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Task and data to choose on, for checkpoints without a sweep.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", help="What the ingredients were fine-tuned from. Default: start/ in the sweep."),
    ] = DEFAULTS.start,
    tie: Annotated[
        Literal[">=", ">"], typer.Option(help="greedy: keep an ingredient on '>=' (the paper's) or only on '>'.")
    ] = DEFAULTS.tie,
    tie_break: Annotated[
        bool, typer.Option("--tie-break", help="Where scores are equal, the lower loss decides: for small splits.")
    ] = DEFAULTS.tie_break,
    restarts: Annotated[
        int, typer.Option(min=0, help="greedy: random orders to try too; the best is kept.")
    ] = DEFAULTS.restarts,
    prune: Annotated[
        bool, typer.Option("--prune", help="greedy: in the end, take members out again.")
    ] = DEFAULTS.prune,
    every_row: Annotated[
        bool,
        typer.Option(
            "--every-row", help="greedy: score what cannot join any more on all rows too, for its exact score."
        ),
    ] = DEFAULTS.every_row,
    seed: Annotated[int, typer.Option(min=0, help="Of random orders, and of learned soups.")] = DEFAULTS.seed,
    decay: Annotated[
        float, typer.Option(help="run-ema: of the moving average over a run's checkpoints.")
    ] = DEFAULTS.decay,
    scale: Annotated[
        float | None, typer.Option(help="task-vectors: this multiple of their sum. Default: the best by score.")
    ] = DEFAULTS.scale,
    epochs: Annotated[int, typer.Option(min=1, help="learned: passes over the select rows.")] = DEFAULTS.epochs,
    learning_rate: Annotated[
        float | None, typer.Option(help="learned: of AdamW. Default: the method's.")
    ] = DEFAULTS.learning_rate,
    models_at_once: Annotated[
        int | None, typer.Option(min=1, help="learned-free: ingredients read in a step. Default: all.")
    ] = DEFAULTS.models_at_once,
    dtype: Annotated[str | None, typer.Option(help="Cast the soup, e.g. bfloat16. Default: the ingredients'.")] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="Split the weights into files of at most this size, e.g. 5GB. Default: one file.")
    ] = None,
    align_labels: AlignLabels = False,
    final_models: Annotated[
        bool, typer.Option("--final-models", help="Of Trainers' output folders take the final models alone.")
    ] = False,
    processor: Processor = None,
    force: Force = False,
    extra_rows: ExtraRows = "keep",
    allow_selection_on_report: Annotated[
        bool,
        typer.Option("--allow-selection-on-report", help="Choose on the report rows; scores are then optimistic."),
    ] = False,
    overwrite: Overwrite = False,
    executor: OnCluster = "local",
    address: Address = "auto",
    speculate: Annotated[
        int | None, typer.Option(min=1, help="--executor ray: greedy's candidates at once. Default: 4, if they fit.")
    ] = None,
    form: Format = "png",
    changes: Set = None,
) -> None:
    """Average checkpoints into soups."""
    from hf_soups.cooking import Options, print_result
    from hf_soups.cooking import cook as cook_soups

    several = _several_processes(method or METHODS)
    options = Options(
        tie=tie, tie_break=tie_break, restarts=restarts, prune=prune, every_row=every_row, seed=seed, start=start,
        decay=decay, scale=scale, epochs=epochs, learning_rate=learning_rate, models_at_once=models_at_once,
    )  # fmt: skip

    cook_here = partial(
        cook_soups,
        sources,
        methods=tuple(method or METHODS),
        out=out,
        recipe=recipe,
        overrides=overrides(changes),
        options=options,
        dtype=dtype,
        max_shard_size=max_shard_size,
        align_labels=align_labels,
        final_models=final_models,
        processor=processor,
        force=force,
        extra_rows=extra_rows,
        allow_selection_on_report=allow_selection_on_report,
        overwrite=overwrite,
    )
    if executor == "ray":
        from hf_soups.remote.scores import ray_workers

        if "greedy" not in (method or METHODS):
            raise InputError("--executor ray scores greedy's candidates: give --method greedy, or leave it out.")
        with ray_workers(address, speculate=speculate) as workers:
            print_result(cook_here(workers=workers))
        return
    refuse_without_ray(address=address != "auto", speculate=speculate)
    if several:
        _cook_together(cook_here)
    else:
        print_result(cook_here())


def _several_processes(methods: Sequence[str]) -> bool:
    """Whether a launcher started several. But for learned soups each of them would cook, and write to the same place.

    Raises:
        InputError: if another method is asked for too.
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if started in ("", "1"):
        return False
    if not all(method.startswith("learned") for method in methods):
        raise InputError(
            f"cook works in one process, but a launcher started {started}. Start it without torchrun or accelerate "
            "launch; one GPU scores the mixtures, and --executor ray takes several for greedy. Learned soups alone "
            "(--method learned) take several processes."
        )
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise InputError(
            f"WORLD_SIZE is {started}, but {', '.join(missing)} of a launcher's variables are not set. Start it by "
            "torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    return True


def _cook_together(cook_here: Callable[..., CookResult]) -> None:
    """The first process cooks, the others learn with it."""
    from hf_soups.cooking import print_result
    from hf_soups.soups.methods.learned.team import help_cooking, launched, own_device

    with launched() as team:
        if team.number:
            help_cooking(team, own_device())
            return
        result = cook_here(team=team, device=own_device())
        team.say(("done",))
    print_result(result)


@app.command()
def inspect(
    sources: Annotated[list[str], typer.Argument(help="Checkpoints: folders or Hub repos; or a sweep's folder.")],
    start: Annotated[
        str | None,
        typer.Option("--start", help="What they were fine-tuned from. Default: what the runs record."),
    ] = None,
    align_labels: AlignLabels = False,
    processor: Processor = None,
    force: Force = False,
    extra_rows: ExtraRows = "keep",
    out: Annotated[
        Path | None, typer.Option("--out", help="With --align-labels: where the permuted checkpoints are written.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything to this file too.")] = None,
) -> None:
    """Check whether checkpoints can be averaged, and how far apart they are; exit status 1 if they cannot."""
    from hf_soups.inspection import inspect_checkpoints, save_json, write_aligned

    if out is not None and not align_labels:
        raise InputError("--out is where --align-labels writes: give both, or neither.")
    found = inspect_checkpoints(
        sources, start=start, align_labels=align_labels, processor=processor, force=force, extra_rows=extra_rows
    )
    printed(found.to_rich())
    if json_file is not None:
        save_json(found, json_file)
    for path in write_aligned(found, out) if out is not None else ():
        printed(f"[dim]wrote {path}[/dim]")
    raise typer.Exit(0 if found.mixable else 1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A folder or Hub repo whose weights are pickled (.bin).")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a checkpoint with pickled weights (.bin) as safetensors: tensors alone are read, and all of them kept."""
    from hf_soups.models.convert import as_text
    from hf_soups.models.convert import convert as convert_weights

    printed(as_text(convert_weights(source, out, overwrite=overwrite)))


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="The folder of the whole job.")] = Path("quickstart"),
    slots: Annotated[int, typer.Option(min=1, help="Fine-tunes side by side.")] = 2,
    overwrite: Overwrite = False,
) -> None:
    """The whole job in minutes on handwritten digits: pretrain, fine-tune, cook, compare."""
    from hf_soups.quickstart import quickstart as run_quickstart

    run_quickstart(out, slots=slots, overwrite=overwrite)


@app.command()
def doctor() -> None:
    """Versions, devices, processes really launched, cache and offline state."""
    from hf_soups.doctor import doctor as examine
    from hf_soups.doctor import doctor_table

    rows = examine()
    printed(doctor_table(rows))
    raise typer.Exit(0 if all(row.ok for row in rows) else 1)


@app.command()
def version() -> None:
    """The installed version."""
    from hf_soups import __version__

    typer.echo(__version__)
