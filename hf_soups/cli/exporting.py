"""The command export: models for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_soups.cli.app import Overwrite, Set, app, overrides
from hf_soups.errors import InputError


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(help="Folder or Hub repo of a classifier, soup or cascade; MODEL@160 for images of 160 pixels."),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The folder to make; of a cascade with --int8 one for each member.")
    ],
    onnx: Annotated[bool, typer.Option("--onnx", help="The form to export; there is no other.")] = True,
    int8: Annotated[
        Literal["dynamic", "static"] | None,
        typer.Option(
            help="dynamic: weights of matrix products, for texts and ViTs. static: convolutions too, and activations "
            "by the ranges that rows have."
        ),
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="--int8 static: the split whose rows it is calibrated on, such as select.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe that names the rows to calibrate on.")] = None,
    data: Annotated[str | None, typer.Option(help="Labelled rows to calibrate on, instead of a recipe's.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="To calibrate on.")] = 256,
    overwrite: Overwrite = False,
    changes: Set = None,
) -> None:
    """Write a model, or a cascade's members, for ONNX Runtime; it answers and is searched like any other member."""
    from hf_soups.pool.entries import names_a_cascade
    from hf_soups.pool.rows import RowsWanted
    from hf_soups.pool_jobs.exporting import export_onnx, print_exported

    if calibrate is None and (recipe or data):
        raise InputError("--recipe and --data name the rows of --calibrate, such as --calibrate select.")
    if (int8 == "static") != (calibrate is not None):
        raise InputError(
            "static int8 takes the ranges of activations from rows, and nothing else does: give --int8 static with "
            "--calibrate select and --recipe (or --data), or neither."
        )
    wanted = None
    if calibrate is not None:
        source = None if data is None else str(data)
        wanted = RowsWanted(data=source, recipe=recipe, split=calibrate, limit=rows, overrides=overrides(changes))
    done = export_onnx(model, out, int8=int8, rows=wanted, overwrite=overwrite)
    print_exported(
        done, out, cascade=names_a_cascade([model]), rows=f"--recipe {recipe}" if recipe else f"--data {data or 'DATA'}"
    )
