"""Soup: coefficients over checkpoints, how they were chosen, and the folder a soup is saved as."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.display import Displayed
from hf_soups.errors import InputError
from hf_soups.files.loaded_names import vocabulary_rows
from hf_soups.files.publishing import Publishable
from hf_soups.files.reading import is_there
from hf_soups.files.weights import json_object
from hf_soups.files.writing import write_json, write_text, written_whole
from hf_soups.soups.mixing import Coefficients, mix_to_folder
from hf_soups.soups.sentence_modules import write_surroundings
from hf_soups.soups.soup_record import FORMAT, SOUP_FILE, STEPS_PICTURE, StepRecord, read_soup

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import torch

    from hf_soups.metrics import Metric
    from hf_soups.metrics import Score as MetricScore

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}  # config.json -> safetensors


Score = float | tuple[float, ...]  # of a tuple, later values count only where the earlier ones are equal
Signs = tuple[int, ...]  # of each value of a score: 1 where higher is better, -1 where lower is
HIGHER: Signs = (1, 1)


def values_of(score: Score) -> tuple[float, ...]:
    """A score as a tuple; the first value is what it is called by, those after it break ties."""
    return tuple(map(float, score)) if isinstance(score, tuple) else (float(score),)


def rank_of(score: Score, signs: Signs = HIGHER) -> tuple[float, ...]:
    """What decides between scores: the higher is better, NaN the worst.

    >>> rank_of((0.5, 0.7), (1, -1)), rank_of(math.nan)
    ((0.5, -0.7), (-inf,))
    """
    return tuple(-math.inf if math.isnan(v) else sign * v for v, sign in zip(values_of(score), signs, strict=False))


@dataclass(frozen=True, slots=True)
class AtBest:
    """Instead of a score: a value that the score is surely no better than. Rows were left out, since it is too low."""

    value: float


@dataclass(frozen=True, slots=True)
class Step:
    """One mixture that was tried: the members so far and one candidate more."""

    candidate: str
    score: float  # of the mixture, on select; NaN where it has none, or where `at_best` says all that is known
    best_so_far: float  # after the decision
    accepted: bool
    ingredients: int  # in the mixture that was tried
    removes: bool = False  # the candidate was taken out of the members, not added
    tie_break: float | None = None  # the score's second value, where it has one
    at_best: float | None = None  # not a score: the score is surely no better, so it was not worked out


@dataclass(frozen=True, repr=False)
class Soup(Publishable, Displayed):
    """A linear combination of checkpoints that share one architecture; `push_to_hub` saves and pushes it."""

    ingredients: tuple[Checkpoint, ...]
    coefficients: tuple[float, ...]  # one per ingredient; may be negative
    method: str = ""
    steps: tuple[Step, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)  # what the method measured, e.g. {"score": 0.91}
    about: Mapping[str, Any] = field(default_factory=dict)  # further keys of soup.json
    # every tensor's own coefficients, one per ingredient, for soups mixed tensor by tensor; `coefficients` then are
    # their mean over all parameters, for people to read
    by_tensor: Mapping[str, tuple[float, ...]] | None = None
    # of the ingredients in soup.json, where they are called otherwise than by themselves: as in the pool they are from
    names: tuple[str, ...] = ()
    saved: Checkpoint | None = None  # where it is saved, of one that was loaded: its weights are mixed already

    def __post_init__(self) -> None:
        object.__setattr__(self, "ingredients", checkpoints_of(self.ingredients))
        if not self.ingredients:
            raise InputError("a soup needs at least one ingredient.")
        if len(self.ingredients) != len(self.coefficients):
            raise InputError(f"{len(self.coefficients)} coefficients for {len(self.ingredients)} ingredients.")
        for checkpoint, coefficient in zip(self.ingredients, self.coefficients, strict=True):
            if not math.isfinite(coefficient):
                raise InputError(f"the coefficient of {checkpoint.name} is {coefficient}; it must be finite.")
        total = sum(self.coefficients)
        if not 0 < total < math.inf:
            raise InputError(
                f"the coefficients sum to {total:g}, which makes no model like its ingredients. Single ones may be "
                "negative or 0, but their sum must be above 0 and finite; for an average it is 1."
            )

    @classmethod
    def from_pretrained(cls, source: Source, *, revision: str | None = None, subfolder: str | None = None) -> Soup:
        """A saved soup: what soup.json says of it, and the weights beside that.

        The ingredients are where they were when it was cooked; they are not opened, and need not be there any more.

        Args:
            source: a soup's folder, or a repo of the Hub.
            revision: of the repo.
            subfolder: of the folder or repo.
        Raises:
            CheckpointError: if there is no such folder or repo.
            InputError: if it is no soup.
        """
        named = Checkpoint.of(source, "source")
        saved = Checkpoint(named.source, revision or named.revision, subfolder or named.subfolder)
        if not is_there(saved.folder / SOUP_FILE):
            raise InputError(
                f"{saved}: no soup: it holds no {SOUP_FILE}. Name a soup's folder; of other checkpoints make a soup, "
                f"such as uniform([{str(saved)!r}])."
            )
        record = read_soup(saved.folder)
        known = [Checkpoint(i.source, i.revision, i.subfolder) for i in record.ingredients]
        rows = record.coefficients_by_tensor
        return cls(
            ingredients=tuple(known) or (saved,),
            coefficients=tuple(i.coefficient for i in record.ingredients) or (1.0,),
            method=record.method,
            steps=tuple(_step_of(step) for step in record.steps),
            scores=record.scores,
            by_tensor=None if rows is None else {name: tuple(row) for name, row in rows.items()},
            names=tuple(i.name for i in record.ingredients) or (saved.name,),
            saved=saved,
        )

    @classmethod
    def mixed_by_tensor(
        cls, ingredients: Sequence[Source], by_tensor: Mapping[str, Sequence[float]], **about: Any
    ) -> Soup:
        """A soup whose coefficients differ from tensor to tensor; `by_tensor` has a row for each tensor's name."""
        members, rows = checkpoints_of(ingredients), {name: tuple(map(float, row)) for name, row in by_tensor.items()}
        sizes = [members[0].tensors[name].elements for name in rows]
        total = sum(sizes) or 1
        mean = tuple(
            sum(size * row[i] for size, row in zip(sizes, rows.values(), strict=True)) / total
            for i in range(len(members))
        )
        return cls(members, mean, by_tensor=rows, **about)

    @property
    def weights(self) -> Coefficients:
        """The coefficients as the mixing engine takes them: one per ingredient, or a row of them for every tensor."""
        return self.coefficients if self.by_tensor is None else self.by_tensor

    @property
    def is_uniform(self) -> bool:
        """Whether all coefficients are 1/k."""
        return self.by_tensor is None and all(c == 1 / len(self.coefficients) for c in self.coefficients)

    # In memory.

    def to_model(self, device: str | torch.device | None = None, *, dtype: torch.dtype | str = "auto") -> Any:
        """The model with the soup's weights, of the class that the Auto classes load, in eval mode.

        Args:
            device: default: the GPU where there is one.
            dtype: a torch.dtype or its name; "auto": that of the weights.
        Raises:
            IncompatibleCheckpoints: if the ingredients cannot be mixed.
            CheckpointError: if they cannot be loaded.
        """
        from hf_soups.soups.in_memory import model_of

        return model_of(self, device=device, dtype=dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The mixed tensors by the names that the soup's weight files have, in the ingredients' dtypes.

        Raises:
            IncompatibleCheckpoints: if the ingredients cannot be mixed.
        """
        from hf_soups.soups.in_memory import tensors_of

        return tensors_of(self)

    def evaluate(
        self,
        rows: datasets.Dataset,
        metric: Metric | str | None = None,
        *,
        text: str | Sequence[str] = (),
        image: str | None = None,
        label: str | None = None,
        label_names: Sequence[str] | None = None,
        max_length: int = 128,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> MetricScore:
        """The soup's score on labelled rows, with its 95% interval.

        Args:
            rows: a data set of the `datasets` library.
            metric: default: accuracy; of many labels a row micro-averaged F1, of numbers Pearson's correlation.
            text: the text column, or the two of pairs; default: the only ones.
            image: the image column; default: the only one.
            label: the label column; default: "label", "labels" or the only one of classes.
            label_names: of the classes, in the order of the model's logits; default: the model's own.
            max_length: tokens of a text.
            batch_size: rows at once.
            device: default: the GPU where there is one.
        Raises:
            DataError: if it is not clear which columns are meant, or labels are not the model's.
            InputError: for an unknown metric.
        """
        from hf_soups.data.columns import NamedColumns
        from hf_soups.soups.in_memory import score_of

        texts = (text,) if isinstance(text, str) else tuple(text)
        columns = NamedColumns(None, texts, image, label)
        return score_of(
            self, rows, metric, columns=columns, label_names=label_names, max_length=max_length, batch_size=batch_size,
            device=device,
        )  # fmt: skip

    # As shown.

    def in_short(self) -> str:
        """The method, how many ingredients, and the score that it was chosen by."""
        kept = sum(c != 0 for c in self.coefficients)
        score = self.scores.get("score")
        chosen = f", score {score:.4g}" if isinstance(score, float | int) else ""
        return f"{self.method or 'mixture'} of {kept} checkpoint{'s' * (kept > 1)}{chosen}"

    def to_pandas(self) -> pd.DataFrame:
        """The ingredients, a row each: name, coefficient, source."""
        import pandas as pd

        names = self.names or display_names(self.ingredients)
        return pd.DataFrame(
            {"ingredient": names, "coefficient": self.coefficients, "source": [str(c) for c in self.ingredients]}
        )

    def _picture(self) -> bytes | None:
        """What greedy tried, as it was drawn when the soup was cooked."""
        drawn = None if self.saved is None else self.saved.folder / STEPS_PICTURE
        return drawn.read_bytes() if drawn is not None and is_there(drawn) else None

    # On disk.

    def save_pretrained(
        self,
        out: str | Path,
        *,
        dtype: str | None = None,
        max_shard_size: int | str | None = None,
        overwrite: bool = True,
        threads: int = 2,
    ) -> Path:
        """Write an ordinary checkpoint folder plus `soup.json`; it appears whole or not at all.

        A soup that is there is replaced, as transformers does; with `overwrite=False` it is not.

        Weights are streamed and keep the ingredients' dtype unless `dtype` ("float32", "bfloat16", ...) is given;
        config, tokenizer or image processor and generation config are those of the first ingredient. `max_shard_size`,
        in bytes or as text such as "5GB", cuts the weights into several files with an index; default: one file.

        Raises:
            InputError: if `out` exists and is no soup, or may not be replaced.
            IncompatibleCheckpoints: if the ingredients cannot be mixed.
            HfSoupsError: if it cannot be written.
        """
        target = Path(out)
        with written_whole(target, overwrite=overwrite, marker=SOUP_FILE) as staged:
            self.write_model(staged, dtype=dtype, max_shard_size=max_shard_size, threads=threads)
            self.write_record(staged)
        return target

    def write_model(
        self, folder: Path, *, dtype: str | None = None, max_shard_size: int | str | None = None, threads: int = 2
    ) -> None:
        """Write weights, config and processor into an existing folder."""
        stored = None if dtype is None else stored_dtype(dtype)
        largest = max_shard_size if max_shard_size is None else size_in_bytes(max_shard_size)
        members = self.ingredients if self.saved is None else (self.saved,)
        weights = self.weights if self.saved is None else (1.0,)
        mix_to_folder(members, weights, folder, dtype=stored, threads=threads, max_shard_size=largest)
        for source in members[0].carried_files():
            # not every carried file is at the top (chat templates): keep its place
            target = folder / _place(source, members[0].folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        write_surroundings(members, weights if isinstance(weights, tuple) else None, folder)
        if stored is not None:
            _set_config_dtype(folder / "config.json", stored)
        longer = members[0].longer
        if longer is not None:
            _set_vocabulary(folder / "config.json", longer.config)

    def write_record(self, folder: Path) -> None:
        """Write `soup.json` beside the weights; NaN scores become null, because strict JSON has no NaN."""
        write_json(folder / SOUP_FILE, {**self.record(), "weights": Checkpoint(str(folder)).sha256()})

    def record(self) -> dict[str, Any]:
        """What `soup.json` holds."""
        if self.saved is not None:
            return dict(json_object(self.saved.folder / SOUP_FILE))
        first = self.ingredients[0]
        heads = {c.head_fingerprint for c in self.ingredients}
        names = self.names or display_names(self.ingredients)
        return {
            "format": FORMAT,
            "method": self.method,
            "ingredients": [
                {
                    "name": name,
                    "source": str(c.source),
                    "revision": c.revision,
                    "subfolder": c.subfolder,
                    "sha256": c.sha256(),
                    "coefficient": coefficient,
                }
                for name, c, coefficient in zip(names, self.ingredients, self.coefficients, strict=True)
            ],
            **({} if self.by_tensor is None else {"coefficients_by_tensor": self.by_tensor}),
            "steps": [step_values(step) for step in self.steps],
            "scores": dict(self.scores),
            "head_fingerprint": heads.pop() if len(heads) == 1 else None,
            "label_names": None if first.label_names is None else list(first.label_names),
            "versions": versions(),
            **self.about,
        }


def _step_of(step: StepRecord) -> Step:
    """A step as it was; scores that JSON could not hold are NaN again."""
    score, best = (math.nan if value is None else value for value in (step.score, step.best_so_far))
    return Step(step.candidate, score, best, step.accepted, step.ingredients, step.removes, step.tie_break)


def display_names(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """A short name for each checkpoint; the whole source where short names are not unique."""
    short = [c.name for c in checkpoints]
    return tuple(
        name if short.count(name) == 1 else "@".join(filter(None, (str(c.source), c.subfolder, c.revision)))
        for name, c in zip(short, checkpoints, strict=True)
    )


def stored_dtype(name: str) -> str:
    """The safetensors name of a dtype that a soup can be cast to.

    >>> stored_dtype("bfloat16"), stored_dtype("F16")
    ('BF16', 'F16')
    """
    if name in DTYPES.values():
        return name
    if name not in DTYPES:
        raise InputError(f"a soup cannot be cast to {name!r}; expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def size_in_bytes(size: int | str) -> int:
    """A size as transformers takes it: bytes, or a number with KB, MB, GB (thousands) or KiB, MiB, GiB (1,024s).

    >>> size_in_bytes("5GB"), size_in_bytes("1.5MiB"), size_in_bytes(7)
    (5000000000, 1572864, 7)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", str(size), flags=re.IGNORECASE)
    bytes_ = (
        0
        if found is None
        else int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))
    )
    if bytes_ < 1:
        raise InputError(f"a size of {size!r} is not understood; expected bytes, or a text such as '500MB' or '5GB'.")
    return bytes_


def step_values(step: Step) -> dict[str, Any]:
    """A step as soup.json and steps.csv hold it."""
    return {
        "candidate": step.candidate,
        "ingredients": step.ingredients,
        "score": step.score,
        "best_so_far": step.best_so_far,
        "accepted": step.accepted,
        **({"removes": True} if step.removes else {}),
        **({} if step.tie_break is None else {"tie_break": step.tie_break}),
        **({} if step.at_best is None else {"at_best": step.at_best}),
    }


def versions() -> dict[str, str]:
    """Installed versions of what made a soup, without importing any of it."""
    found = {}
    for name in ("hf_soups", "torch", "transformers", "safetensors", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _place(file: Path, folder: Path) -> Path:
    return file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)


def _set_config_dtype(path: Path, dtype: str) -> None:
    config = json_object(path)
    config.pop("torch_dtype", None)  # the older name of the same key
    config["dtype"] = next(name for name, stored in DTYPES.items() if stored == dtype)
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")  # as transformers wrote it


def _set_vocabulary(path: Path, longer: Mapping[str, Any]) -> None:
    """The number of tokens that the tables have a row for, and a pad token that only the longer config has."""
    config = json_object(path)
    place = config if "vocab_size" in config else config.get("text_config", config)
    place["vocab_size"] = vocabulary_rows(longer)
    if config.get("pad_token_id") is None and longer.get("pad_token_id") is not None:
        config["pad_token_id"] = longer["pad_token_id"]
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
