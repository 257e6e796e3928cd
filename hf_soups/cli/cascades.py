"""Commands of predictions, ensembles and cascades: predict, ensemble, cascade search, show, build, certify, draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hf_soups.cli.app import Format, Group, OnError, Overwrite, Set, app, overrides, printed, refuse_without_ray
from hf_soups.cli.soups import Address, OnCluster
from hf_soups.errors import InputError

cascade = typer.Typer(
    cls=Group, no_args_is_help=True, help="Search cascades in a pool of predictions, build and look at them."
)
app.add_typer(cascade, name="cascade")

Reference = Annotated[
    str,
    typer.Argument(
        metavar="FRONTIER#NUMBER",
        help="A plan: preds/frontier.json#3; #cheapest at the best single model's score; #best, or #best@0.5x within "
        "a cost.",
    ),
]
Report = Annotated[
    str, typer.Option("--report", help="Rows to report on: a share of the pool's rows (0.5), or another pool's folder.")
]
Unit = Annotated[
    str | None,
    typer.Option(
        "--cost",
        help="Unit of costs: macs, parameters, seconds, seconds_batch_1, bytes, or one given by pool add. Default: "
        "macs, or the first that all members have.",
    ),
]
Members = Annotated[list[str] | None, typer.Option("--member", help="Only this member (repeatable). Default: all.")]
Temperatures = Annotated[
    bool, typer.Option("--temperatures", help="Fit a temperature for each member on the rows chosen on.")
]

OnReport = Annotated[
    bool, typer.Option("--allow-selection-on-report", help="Choose on a pool of report rows; scores are optimistic.")
]


@app.command()
def predict(
    out: Annotated[Path, typer.Option("--out", help="The pool's folder, or that of the answers.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, Hub repos, sweeps; NAME=MODEL names one, MODEL@160 asks it at 160 pixels. None: the "
            "recipe's members."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Hub data set, folder of one, folder of images, parquet or csv files.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A recipe that names task and data instead.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: train; of a recipe: select.")] = None,
    config: Annotated[str | None, typer.Option(help="Of the data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the data set.")] = None,
    kind: Annotated[
        Literal["text", "text-pair", "image"] | None, typer.Option(help="Default: as the columns are.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text column (twice for pairs). Default: the only ones.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image column. Default: the only one.")] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Label column, or several of 0 and 1 with commas between them. Default: label, labels, or "
            "the only one."
        ),
    ] = None,
    problem_type: Annotated[
        str | None,
        typer.Option("--problem-type", help="classification, multi-label or regression. Default: as the labels are."),
    ] = None,
    label_names: Annotated[
        str | None,
        typer.Option("--label-names", help="Names of the classes, separated by commas. Default: the data's."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most N rows (stratified for pools).")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 128,
    on_error: OnError = None,
    image_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Ask every model at this size in pixels (repeatable).")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt of zero-shot models, with {} for the class (repeatable).")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Keep the N likeliest classes of each row. Default: all; for answers: 5.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at once.")] = 64,
    shard_rows: Annotated[int | None, typer.Option(min=1, help="Rows that are kept together.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the weights: float32, bfloat16 or float16; default: float32. Of a cascade also by member, "
            "small=float32,big=...; default: each member's own."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Default: the GPU where there is one. Of a cascade also by member: small=cpu,big=cuda."),
    ] = None,
    assume_label_order: Annotated[
        bool, typer.Option("--assume-label-order", help="Models without label names have the data's order.")
    ] = False,
    measure_seconds: Annotated[
        bool, typer.Option("--measure-seconds", help="Measure seconds per example too, at batch 1 and at the best.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of encoded rows, shared by equal processors.")] = None,
    spend_limit: Annotated[
        float | None,
        typer.Option(min=0, help="What answers of endpoints may cost in this call, in their unit. Default: no limit."),
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="One model: write a row for each row (parquet). A cascade always does.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(help="Of a cascade: average cost in shares of its most expensive member's.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Of answers: column that calls the rows.")] = None,
    executor: OnCluster = "local",
    address: Address = "auto",
    replicas: Annotated[
        str | None,
        typer.Option(help="--executor ray: workers of each member, such as small=8,large=2. Default: by their work."),
    ] = None,
    changes: Set = None,
) -> None:
    """Answer rows: with many models into a pool to search, or with one cascade (or --answers) into parquet files."""
    from hf_soups.files.writing import refuse_url
    from hf_soups.pool.entries import names_a_cascade

    refuse_url(out)  # before the Hub is asked what the model is
    rows: dict[str, Any] = {
        "data": data, "split": split, "config": config, "revision": revision, "kind": kind, "text": text or (),
        "image": image, "label_names": _separated(label_names), "limit": limit, "max_length": max_length,
    }  # fmt: skip
    how: dict[str, Any] = {"out": out, "batch_size": batch_size, "dtype": dtype, "device": device}
    if answers or names_a_cascade(models or []):
        more = {"id_column": id_column, "budget": budget, "templates": template}
        if spend_limit is not None:
            raise InputError("--spend-limit is for a pool: answers into parquet files are not counted.")
        if on_error == "stop":
            raise InputError("--on-error stop: answers give a row that cannot be read an error, and go on.")
        how |= {"dtype": dtype and by_member(dtype), "device": device and by_member(device)}
        how |= {**more, "top_k": top_k or 5, "shard_rows": shard_rows or 4096}
        if executor == "ray":
            _predict_on_ray(models or [], rows, how, address, replicas)
            return
        refuse_without_ray(address=address != "auto", replicas=replicas)
        _predict_answers(models or [], rows, how)
        return
    if executor == "ray":
        raise InputError("--executor ray answers rows into parquet files: give a cascade, or one model and --answers.")
    refuse_without_ray(address=address != "auto", replicas=replicas)
    if "=" in f"{dtype or ''}{device or ''}":
        raise InputError("--dtype and --device by member (name=value) are for one cascade.")
    if budget is not None or id_column is not None:
        raise InputError("--budget and --id-column belong to answers (a cascade's, or --answers).")
    rows |= {"label": label, "problem_type": problem_type, "recipe": recipe, "overrides": overrides(changes)}
    rows |= {"on_error": on_error}
    how |= {
        "image_sizes": image_size or (), "top_k": top_k, "shard_rows": shard_rows, "cache": cache,
        "assume_label_order": assume_label_order, "measure_seconds": measure_seconds,
        "spend_limit": spend_limit, "dtype": dtype or "float32",
        **({"templates": template} if template else {}),
    }  # fmt: skip
    _predict_pool(models or [], rows, how)


@app.command()
def watch(
    cascade: Annotated[str, typer.Argument(metavar="FOLDER|REPO", help="A cascade.")],
    answers: Annotated[Path, typer.Option("--answers", help="Its answers to new rows, written by hf-soups predict.")],
    last: Annotated[int | None, typer.Option(min=1, help="Only so many of the last rows. Default: all.")] = None,
    level: Annotated[float, typer.Option(help="Chance of a false alarm.")] = 0.01,
) -> None:
    """Say whether new rows are answered as those that a cascade was chosen on; exit status 1 if they are not."""
    from hf_soups.reporting.drift import watch as watch_cascade

    found = watch_cascade(cascade, answers, last=last, level=level)
    printed(found)
    raise typer.Exit(1 if found.drift.differs else 0)


def by_member(text: str) -> str | dict[str, str]:
    """A value for all, or "name=value" for some members, with commas between them."""
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise InputError(f"{text!r} is not understood; expected one value, or small=cpu,big=cuda:0 by member.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _separated(names: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in names.split(",")) if names else None


def _predict_answers(models: list[str], rows: dict[str, Any], how: dict[str, Any]) -> None:
    """One model or cascade answers rows into parquet files."""
    if len(models) != 1 or rows["data"] is None:
        raise InputError("answers are one model's or cascade's, on --data: give one of each.")
    from hf_soups.batch_predict import predict_rows, print_result

    print_result(predict_rows(models[0], **{**rows, "label_names": rows["label_names"] or ()}, **how))


def _predict_on_ray(
    models: list[str], rows: dict[str, Any], how: dict[str, Any], address: str, replicas: str | None
) -> None:
    """The same on a cluster."""
    from hf_soups.remote.answers import ray_answers

    if how["device"] is not None:
        raise InputError("--device is of one machine: with --executor ray leave it out.")
    given = by_member(replicas or "")
    counts = {name: int(n) for name, n in given.items() if n.isdigit()} if isinstance(given, dict) else {}
    if replicas and (not isinstance(given, dict) or len(counts) < len(given)):
        raise InputError(f"--replicas {replicas}: expected workers by member, such as small=8,large=2.")
    with ray_answers(how["out"], address, replicas=counts, seen=[*models, str(rows["data"])]) as executor:
        _predict_answers(models, rows, {**how, "executor": executor})


def _predict_pool(models: list[str], rows: dict[str, Any], how: dict[str, Any]) -> None:
    """Many models answer labelled rows into a pool."""
    from hf_soups.pool.predict import predict_pool, print_result

    result = predict_pool(models, **rows, **how)
    print_result(result)
    raise typer.Exit(result.exit_status)


@app.command()
def ensemble(
    pool: Annotated[Path, typer.Argument(help="A pool's folder, written by hf-soups predict.")],
    members: Members = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="accuracy, f1, matthews, nll, ... Default: accuracy; of many labels f1_micro, of a regression pearson."
        ),
    ] = None,
    cost: Unit = None,
    temperatures: Temperatures = False,
    rounds: Annotated[int, typer.Option(min=0, help="Of the greedy selection with replacement.")] = 50,
    combine: Annotated[
        Literal["mean", "geometric", "vote"],
        typer.Option(help="How the selected members, and those of the curves, are combined."),
    ] = "mean",
    report: Report = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of report rows.")] = 0,
    curves: Annotated[
        Path | None, typer.Option(help="Folder for the picture of score against the number of members.")
    ] = None,
    form: Format = "png",
    allow_selection_on_report: OnReport = False,
) -> None:
    """Ensembles of a pool: all members by mean, geometric mean and vote, and members selected greedily."""
    from hf_soups.pool.report_rows import report_rows
    from hf_soups.pool_jobs import pool_ensembles

    found = pool_ensembles(
        pool, members=members or (), metric=metric, cost=cost, temperatures=temperatures, rounds=rounds,
        combine=combine, report=report_rows(report), seed=seed, curves=curves,
        allow_selection_on_report=allow_selection_on_report,
    )  # fmt: skip
    printed(found)
    for path in found.pictures:
        printed(f"[dim]wrote {path}[/dim]")


@cascade.command()
def search(
    pool: Annotated[Path, typer.Argument(help="A pool's folder, written by hf-soups predict.")],
    members: Members = None,
    cost: Unit = None,
    method: Annotated[
        Literal["exhaustive", "beam", "streeter"],
        typer.Option(help="beam: for pools of hundreds; streeter: for a thousand, members answer alone."),
    ] = "exhaustive",
    max_members: Annotated[int, typer.Option(min=1, help="Of a cascade.")] = 4,
    combine: Annotated[
        Literal["mean", "geometric", "last"], typer.Option(help="How the members so far become one answer.")
    ] = "mean",
    confidence: Annotated[
        Literal["max", "gap", "entropy", "agreement", "labels"], typer.Option(help="What thresholds are on.")
    ] = "max",
    metric: Annotated[
        str | None,
        typer.Option(help="accuracy, f1, matthews, nll, ... Default: accuracy; of many labels f1_micro."),
    ] = None,
    grid: Annotated[
        int | None, typer.Option(min=3, help="Thresholds of a stage tried before all confidences are.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="beam: chains grown at each level.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="streeter: the model whose accuracy is kept. Default: the best.")
    ] = None,
    share: Annotated[
        list[float] | None, typer.Option(help="streeter: share of that accuracy to keep (repeatable).")
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option("--min-accuracy", "--min-score", help="Least cost at this score: best (the default) or a number."),
    ] = None,
    max_average_cost: Annotated[
        str | None, typer.Option(help="Best score within this cost: 390M, or 0.5x of the best single model's.")
    ] = None,
    max_worst_cost: Annotated[
        str | None, typer.Option(help="Bound for a row that meets every member: 390M, or 1.2x.")
    ] = None,
    temperatures: Temperatures = False,
    folds: Annotated[int, typer.Option(min=0, help="Of cross-fitted lower bounds; 0: none.")] = 5,
    report: Report = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of report rows and of folds.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Default: frontier.json in the pool's folder.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: as many as there are cores.")] = None,
    allow_selection_on_report: OnReport = False,
) -> None:
    """Search members, order and thresholds; print the frontier and the plan for the goal."""
    from hf_soups.pool.report_rows import report_rows
    from hf_soups.pool_jobs import search_pool
    from hf_soups.progress import search_progress
    from hf_soups.reporting.frontier_table import SearchTable

    with search_progress() as progress:
        result = search_pool(
            pool, members=members or (), cost=cost, method=method, max_members=max_members, combine=combine,
            confidence=confidence, metric=metric, grid=grid, width=width, reference=reference,
            shares=share or (), min_score=min_accuracy, max_average_cost=max_average_cost,
            max_worst_cost=max_worst_cost, temperatures=temperatures, folds=folds, seed=seed, out=out,
            report=report_rows(report), threads=threads, progress=progress,
            allow_selection_on_report=allow_selection_on_report,
        )  # fmt: skip
    printed(SearchTable(result))
    raise typer.Exit(0 if result.choice.plan is not None else 1)


@cascade.command()
def show(
    frontier: Annotated[Path, typer.Argument(help="A frontier that a search wrote.")],
    count: Annotated[int, typer.Option(min=2, help="Plans to print.")] = 16,
) -> None:
    """Print a frontier again."""
    from hf_soups.cascades import Frontier
    from hf_soups.reporting.frontier_table import FrontierTable

    printed(FrontierTable(Frontier.load(frontier), count))


@cascade.command()
def build(
    plan: Reference,
    out: Annotated[Path, typer.Option("--out", help="The cascade's folder.")],
    pool: Annotated[Path | None, typer.Option(help="Default: the pool that was searched.")] = None,
    references: Annotated[
        bool, typer.Option("--references", help="Keep Hub ids with pinned commits instead of copies.")
    ] = False,
    assume_label_order: Annotated[
        bool, typer.Option("--assume-label-order", help="Members without label names have the data's order.")
    ] = False,
    with_code: Annotated[
        bool,
        typer.Option("--with-code", help="Add code with which people without hf_soups load it (trust_remote_code)."),
    ] = False,
    abstain: Annotated[
        float | None,
        typer.Option(
            min=0, max=2, help="Rows less sure than this after the last member are for a human. Default: none is."
        ),
    ] = None,
    learned_deferral: Annotated[
        bool,
        typer.Option("--learned-deferral", help="Let a learned score decide when to ask on; see cascade defer."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where members run: small=cpu,big=cuda:1; the CPU on machines without it. Default: as one asks for."
        ),
    ] = None,
    fallback: Annotated[
        Literal["error", "last"],
        typer.Option(
            help="Rows that an endpoint does not answer: an error, or the last answer of the members before it, marked."
        ),
    ] = "error",
    overwrite: Overwrite = False,
) -> None:
    """Write a cascade's folder: config, members with their processors, a handler for endpoints."""
    from hf_soups.pool_jobs import build_from

    path = build_from(
        plan, out, pool=pool, references=references, assume_label_order=assume_label_order, overwrite=overwrite,
        with_code=with_code, abstain=abstain, learned_deferral=learned_deferral,
        devices=None if device is None else by_member(device), fallback=fallback,
    )  # fmt: skip
    printed(f"wrote {path}")


@cascade.command()
def abstain(
    plan: Annotated[
        str,
        typer.Argument(
            metavar="FRONTIER[#NUMBER]", help="A plan, such as preds/frontier.json#3; the file alone: all its plans."
        ),
    ],
    coverage: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Share of the select rows to answer (repeatable). Default: 1 down to 0.5."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the picture of one plan's curve.")] = None,
    form: Format = "png",
) -> None:
    """Wrong answers against rows left to a human, by a threshold below which a cascade does not answer."""
    from hf_soups.pool_jobs import abstain_plan

    printed(abstain_plan(plan, out=out, **({"coverages": coverage} if coverage else {})))
    if out is not None and "#" in plan:
        printed(f"[dim]wrote {out}[/dim]")


@cascade.command()
def defer(
    plan: Reference,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-fitting.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
) -> None:
    """Learn when asking the next member pays; exit status 1 if that does not beat the plan's own confidence."""
    from hf_soups.pool_jobs import defer_plan

    found = defer_plan(plan, folds=folds, seed=seed)
    printed(found)
    raise typer.Exit(0 if found.deferral.pays else 1)


@cascade.command()
def certify(
    plan: Reference,
    max_loss: Annotated[
        float | None, typer.Option(help="Accuracy that may be lost. Default: 0.01, unless --max-risk is given.")
    ] = None,
    max_risk: Annotated[
        float | None,
        typer.Option(help="Instead: wrong answers among those that are given; the other rows are for a human."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance that the certificate is wrong.")] = 0.05,
    against: Annotated[
        str | None, typer.Option(help="The model that the loss is against. Default: all members together.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split of the report rows.")] = 0,
) -> None:
    """Thresholds that keep --max-loss or --max-risk with probability 1 - --delta, shown on rows not searched on."""
    from hf_soups.pool_jobs import certify_plan, certify_plan_risk

    if max_risk is not None:
        if max_loss is not None or against is not None:
            raise InputError("--max-risk bounds the answers that are given: leave out --max-loss and --against.")
        shown = certify_plan_risk(plan, max_risk=max_risk, delta=delta, seed=seed)
        printed(shown.in_words())
        if shown.plan is not None and shown.plan.abstain:
            printed(f"to use it: hf-soups cascade build {plan} --abstain {shown.plan.abstain!r} --out FOLDER")
        raise typer.Exit(0 if shown.certified else 1)
    found = certify_plan(plan, against=against, max_loss=0.01 if max_loss is None else max_loss, delta=delta, seed=seed)
    printed(found.in_words())
    if found.plan is not None:
        thresholds = ", ".join(f"{t:.6g}" for t in found.plan.thresholds)
        printed(f"thresholds {thresholds}; average cost {found.plan.average_cost:.4g} {found.plan.unit}")
    raise typer.Exit(0 if found.certified else 1)


@cascade.command()
def draw(
    plan: Reference,
    out: Annotated[Path, typer.Option("--out", help="Folder of the pictures.")],
    images: Annotated[bool, typer.Option(help="Draw a sheet of images by exit too.")] = True,
    form: Format = "png",
) -> None:
    """Score against cost, rows and accuracy by exit, reliability, latency if it was measured, and images by exit."""
    from hf_soups.pool_jobs import draw_plan

    for path in draw_plan(plan, out, images=images):
        printed(f"[dim]wrote {path}[/dim]")
