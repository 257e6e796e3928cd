"""Commands of pools whose answers were made elsewhere: pool add, pool cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_soups.cli.app import Group, app, printed
from hf_soups.errors import InputError

pool = typer.Typer(
    cls=Group, no_args_is_help=True, help="Add answers that were made elsewhere to a pool of predictions."
)
app.add_typer(pool, name="pool")

Folder = Annotated[Path, typer.Argument(metavar="POOL", help="A pool's folder.")]
CostUnit = Annotated[
    str, typer.Option("--unit", help="macs, parameters, seconds, seconds_batch_1, bytes, or a word such as dollars.")
]
Hardware = Annotated[str, typer.Option(help="That seconds were measured on.")]


@pool.command()
def add(
    folder: Annotated[Path, typer.Argument(metavar="POOL", help="A pool's folder; it is made if it is not there.")],
    answers: Annotated[
        str,
        typer.Argument(
            metavar="NAME=FILE", help="A member's name and its answers: csv, tsv, parquet, jsonl, npy or saved "
            "Predictions; a number for each row and class, or for two classes one a row."
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(help="True labels: a column, or a file (FILE#COLUMN). A new pool needs them; others compare."),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(help="Ids of the rows: a column, or a file. Default: a column called id, else the rows' order."),
    ] = None,
    values: Annotated[
        Literal["probs", "log-probs", "logits"] | None,
        typer.Option(help="What the numbers are. Default: what they can only be; where that is not clear, refused."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of the numbers, separated by commas. Default: all numbers, by name.")
    ] = None,
    label_names: Annotated[
        str | None,
        typer.Option("--label-names", help="Classes in the order of the columns, separated by commas."),
    ] = None,
    assume_label_order: Annotated[
        bool, typer.Option("--assume-label-order", help="The columns are in the order of the pool's classes.")
    ] = False,
    normalise: Annotated[bool, typer.Option("--normalise", help="Rows need not sum to 1.")] = False,
    drop_surplus: Annotated[
        bool, typer.Option("--drop-surplus", help="Leave out rows that the pool does not have.")
    ] = False,
    cost: Annotated[float | None, typer.Option(min=0, help="Of one example, in --unit.")] = None,
    unit: CostUnit = "",
    hardware: Hardware = "",
    split: Annotated[
        str, typer.Option(help="What the rows of a new pool are called; report: nothing is to be chosen on them.")
    ] = "select",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a member of that name.")] = False,
) -> None:  # fmt: skip
    """Add answers made elsewhere (scikit-learn, an LLM's API, timm, ...) as a member, for ensembles and cascades."""
    from hf_soups.pool.elsewhere import add_answers
    from hf_soups.pool.predict import pool_table

    name, equals, file = answers.partition("=")
    if not equals or not name or not file:
        raise InputError(f"{answers}: expected NAME=FILE, such as llm=probs.csv.")
    if (cost is None) != (not unit):
        raise InputError("--cost and --unit belong together, such as --cost 0.004 --unit dollars.")
    added = add_answers(
        folder, name, file, labels=labels, ids=ids, values=values, columns=_separated(columns),
        label_names=_separated(label_names), assume_label_order=assume_label_order, normalise=normalise,
        drop_surplus=drop_surplus, cost=cost, unit=unit, hardware=hardware, split=split, overwrite=overwrite,
    )  # fmt: skip
    printed(pool_table(added.pool))
    for note in added.notes:
        typer.echo(f"{name}: {note}")


@pool.command(name="cost")
def set_cost(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A member of the pool.")],
    cost: Annotated[float, typer.Option(min=0, help="Of one example, in --unit.")],
    unit: CostUnit,
    hardware: Hardware = "",
) -> None:
    """Say what an example costs a member, in a unit that all members share, such as dollars."""
    from hf_soups.pool.elsewhere import set_cost as give_cost
    from hf_soups.pool.predict import pool_table

    printed(pool_table(give_cost(folder, name, cost, unit, hardware)))


def _separated(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names else ()
