"""Model cards: README.md of a soup's or a cascade's folder, every figure taken from the files and checked against them.

What is generated is between two marks: text of one's own above and below them is kept when it is written again. It
may be edited too; what must stay true is what its tables, its recipe and its metadata say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.evidence import EVIDENCE_FILE
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.downloads import is_repo_id, refuse_links_out
from hf_soups.files.reading import is_there, read_json
from hf_soups.files.writing import writable, write_text
from hf_soups.recipe.origin import RECIPE_FILE, recipe_kept, recipe_text
from hf_soups.reporting.cards.card_facts import (
    SCORE_NAME,
    CardDetails,
    CardFacts,
    DataUsed,
    eval_entries,
    hub_ids,
    hub_metrics,
)
from hf_soups.reporting.cards.markdown import (
    BEGIN,
    MarkdownTable,
    MarkedText,
    card_at,
    card_text,
    cells_of,
    code_of,
    metadata_of,
    run_code,
    snippet_for,
    stock_call,
)
from hf_soups.reporting.cards.soups import BOARD_PICTURE, has_picture, soup_facts
from hf_soups.soups.soup_record import SOUP_FILE, keep_sha256, read_soup, with_sha256

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from hf_soups.recipe import Recipe

__all__ = [
    "EVAL_FILE",
    "README",
    "CardDetails",
    "FolderCard",
    "card_for",
    "check_card",
    "run_snippet",
    "snippet_of",
    "write_card",
]

README = "README.md"
EVAL_FILE = ".eval_results/hf_soups.yaml"
TEMPLATES = Path(__file__).parent
EXAMPLES = ("I would watch it again at once.", "Two hours that I will not get back.")
NOTHING, MISSING = "nothing of it", "missing"
Difference = tuple[str, Any, Any, str]  # the figure, what the files say, what the card says, and the file


@dataclass(frozen=True, slots=True)
class FolderCard:
    """The card of one folder, whose files are read once for all that is done with it."""

    folder: Path
    facts: CardFacts
    title: str  # the repo's id that users will load it by, or the folder's name
    details: CardDetails
    recipe: Recipe | None = None  # that was given; a soup's folder keeps it once the card is written

    @classmethod
    def of(
        cls,
        folder: str | Path,
        *,
        name: str | None = None,
        recipe: Recipe | None = None,
        details: CardDetails | None = None,
    ) -> FolderCard:
        """Read a folder; see `card_for`."""
        at = Path(folder)
        facts = _facts_of(at, recipe)
        if name is not None and not is_repo_id(name):
            raise InputError(f"{name!r} is no id of a Hub repo; expected 'owner/name', such as 'me/my-soup'.")
        before = _details_before(at)
        if details is not None:
            named = {f.name: getattr(details, f.name) for f in fields(details)}
            before = replace(before, **{key: value for key, value in named.items() if value})
        return cls(at, facts, name or at.resolve().name, before, recipe)

    @property
    def data_set(self) -> str | None:
        """The id of the data set on the Hub: as the recipe names it, or as somebody did."""
        data = self.facts.data
        known = () if data is None else hub_ids([(data.path, data.revision)], self.folder)
        return next(iter(known), None) or self.details.data_set or None

    @property
    def tables(self) -> list[MarkdownTable]:
        """Every table, the data's last."""
        facts = self.facts
        if facts.data is None:
            return list(facts.tables)
        record, counted = (EVIDENCE_FILE, EVIDENCE_FILE) if facts.cascade else (RECIPE_FILE, facts.record)
        return [*facts.tables, facts.data.table(self.data_set, record, counted)]

    @property
    def snippet(self) -> str:
        """Python code that loads the model by the card's title and runs it."""
        facts = self.facts
        return snippet_for(
            facts.pipeline_tag,
            self.title,
            cascade=facts.cascade,
            pair=facts.pair,
            ours=facts.ours,
            words=facts.words,
            every_label=facts.every_label,
        )

    def model_card(self) -> ModelCard:
        """The card as huggingface_hub has it."""
        from huggingface_hub import ModelCard, ModelCardData

        facts, details = self.facts, self.details
        base_models = list(dict.fromkeys((*facts.base_models, *details.base_models)))
        indexed = facts.indexed(self.data_set)
        data = ModelCardData(
            library_name=facts.library,
            pipeline_tag=facts.pipeline_tag,
            license=details.license or facts.license or None,
            language=list(details.language) or None,
            tags=list(facts.tags),
            base_model=base_models or None,
            datasets=[self.data_set] if self.data_set else None,
            metrics=hub_metrics(facts.metric),
            model_name=self.title if indexed else None,
            eval_results=indexed or None,
            base_model_relation=(facts.relation or "finetune") if base_models and not facts.cascade else None,
            **self._widget(),
        )
        card: ModelCard = ModelCard.from_template(
            data,
            template_str=(TEMPLATES / "card.md").read_text(encoding="utf-8"),
            begin=BEGIN,
            title=self.title,
            about=facts.about,
            tables=self.tables,
            notes=facts.notes,
            snippet=self.snippet,
            recipe=facts.recipe,
            limits=facts.limits,
            citations=citations(facts.cites),
            cascade=facts.cascade,
            install=f'pip install "hf_soups[{facts.extra}]"' if facts.extra else "pip install hf_soups",
            stock=stock_call(facts.pipeline_tag, self.title) if facts.code else "",
            indexed=bool(indexed),
        )
        return card

    def _widget(self) -> dict[str, Any]:
        """Examples for the Hub's page: of texts; an image would be somebody's data, and pairs have no widget."""
        facts = self.facts
        shown = facts.library == "transformers" and facts.pipeline_tag == "text-classification"
        return {"widget": [{"text": text} for text in EXAMPLES]} if shown and not (facts.pair or facts.words) else {}

    def files(self, before: MarkedText | None = None) -> dict[str, str]:
        """The texts to write, by path: README.md, `.eval_results/` for a data set of the Hub, and a recipe if given.

        Args:
            before: README.md as it is, of which text above and below the marks is kept.
        """
        text, entries = MarkedText.generated(str(self.model_card())), eval_entries(self.facts, self.data_set)
        if before is not None and before.made:
            text = replace(text, above=before.above, below=before.below)
        recipe = None if self.facts.cascade else self.recipe
        return {
            README: text.text,
            **({EVAL_FILE: entries} if entries else {}),
            **({RECIPE_FILE: recipe_text(recipe)} if recipe is not None else {}),
        }

    def draw_pictures(self, into: Path) -> list[Path]:
        """Draw the leaderboard that the card shows, where the folder keeps one; the paths."""
        board = self.facts.board
        return [] if board is None or not has_picture(board) else [board.draw(into / BOARD_PICTURE)]

    def write(self, *, out: Path | None = None, overwrite: bool = False) -> Path:
        """Write files and pictures; see `write_card`."""
        at = self.folder if out is None else out
        if at.suffix.lower() == ".md" and not at.is_dir():
            raise InputError(
                f"{at}: expected a folder, for pictures and results are written beside the card. Give one with --out; "
                f"the card is {README} in it."
            )
        path = at / README
        before = MarkedText.of(card_text(path)) if path.exists() else None
        if path.exists() and not overwrite and (before is None or not before.untouched):
            raise InputError(
                f"{path} was written or changed by hand, so it is not replaced. Move it away, or replace it "
                "(overwrite)."
            )
        files = self.files(before)
        with writable(at):
            at.mkdir(parents=True, exist_ok=True)
        self.draw_pictures(at)
        if out is None and not self.facts.cascade:
            keep_sha256(self.folder, with_sha256(read_soup(self.folder)))
        if EVAL_FILE not in files:
            (at / EVAL_FILE).unlink(missing_ok=True)  # an earlier card's, which this one does not say
        for place, text in reversed(files.items()):  # README.md last: where it is, the rest is too
            write_text(at / place, text)
        return path

    def check(self) -> None:
        """Compare what the folder's README.md and `.eval_results/` say with the files; see `check_card`."""
        path = self.folder / README
        if not path.is_file():
            raise InputError(f"{path}: there is no card. Write one (write_card).")
        for figure, wanted, got, record in self._differences(card_at(path)):
            raise InputError(
                f"{path}: {figure} is {got}, but {record} says {wanted}. Write the card again (write_card)."
            )
        if (self.folder / EVAL_FILE).is_file():
            true = [score.value for score in self.facts.published]
            wrong = [value for value in _values_in(self.folder / EVAL_FILE) if value not in true]
            if wrong:
                raise InputError(
                    f"{self.folder / EVAL_FILE}: the {self.facts.metric} on report is {wrong[0]}, but "
                    f"{self.facts.record} says {', '.join(map(str, true)) or NOTHING}. Write the card again "
                    "(write_card)."
                )

    def _differences(self, card: ModelCard) -> Iterator[Difference]:
        """Each figure of the metadata and the tables that differs, and the recipe if it does.

        Cells are compared, not the text as a whole: sentences may be edited, and differ from version to version.
        """
        facts, tables = self.facts, {table.title: table for table in self.tables}
        true = {str(r.metric_name): r.metric_value for r in facts.indexed(self.data_set)}
        got = {str(r.metric_name): r.metric_value for r in getattr(card.data, "eval_results", None) or []}
        for name in [*true, *(name for name in got if name not in true and SCORE_NAME.fullmatch(name))]:
            if true.get(name) != got.get(name):
                yield f"{name} in the metadata", true.get(name, NOTHING), got.get(name, MISSING), facts.record
        cells, found = {c: v for table in tables.values() for c, v in table.cells.items()}, cells_of(card.text)
        known = {(title, column) for title, _, column in cells}
        for cell in [*cells, *(c for c in found if c not in cells and (c[0], c[2]) in known)]:
            if cells.get(cell) != found.get(cell):
                title, row, column = cell
                figure, table = f"{column!r} of {row!r} under {title!r}", tables[title]
                record = table.other_records.get(row) or table.record or facts.record
                yield figure, cells.get(cell, NOTHING), found.get(cell, MISSING), record
        recipe = code_of(card.text, "yaml") or ""
        if facts.recipe and recipe.strip() != facts.recipe.strip():
            kept = EVIDENCE_FILE if facts.cascade else RECIPE_FILE
            yield "the recipe", _first_other(facts.recipe, recipe), "another" if recipe else MISSING, kept


def card_for(
    folder: str | Path, *, name: str | None = None, recipe: Recipe | None = None, details: CardDetails | None = None
) -> ModelCard:
    """The card of a soup or cascade, from what its files hold; nothing is fetched.

    Args:
        folder: with config.json, and soup.json for a soup.
        name: the repo's id that users will load it by, in the title and the code; default: the folder's name.
        recipe: of a soup that keeps none, such as one of plain checkpoints; default: recipe.yaml in the folder.
        details: what no file holds, such as the license; what it leaves open is taken from the card that is there.
    Raises:
        InputError: if the folder holds neither, its records cannot be read or do not agree, or `name` is no repo's id.
    """
    return FolderCard.of(folder, name=name, recipe=recipe, details=details).model_card()


def write_card(
    folder: str | Path,
    *,
    name: str | None = None,
    recipe: Recipe | None = None,
    details: CardDetails | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write README.md, `.eval_results/` where the report score is of a data set of the Hub, and a picture of the
    leaderboard where the folder keeps one; the README's path.

    Args:
        folder: as for `card_for`.
        name: as for `card_for`.
        recipe: as for `card_for`; the soup's folder keeps it from now on.
        details: as for `card_for`.
        out: the folder to write into, which need not be there; default: `folder` itself.
        overwrite: replace a README.md that was written by hand, or changed in its metadata or between the marks.
    Raises:
        InputError: if there is such a README.md, or the folder is neither soup nor cascade.
        HfSoupsError: if it cannot be written.
    """
    card = FolderCard.of(folder, name=name, recipe=recipe, details=details)
    return card.write(out=None if out is None else Path(out), overwrite=overwrite)


def check_card(folder: str | Path) -> None:
    """Compare the figures of README.md, in tables and metadata, and its recipe with the folder's files.

    Sections, rows and metadata that no card is given (of data, of other people's measurements) are not looked at.

    Raises:
        InputError: naming the first figure that differs, is missing, or is in no file; or if there is no card.
    """
    FolderCard.of(folder).check()


def run_snippet(folder: str | Path | FolderCard, *, name: str | None = None) -> str:
    """Run the code of a folder's card against the folder, in a process of its own; what it printed.

    The code is what `card_for` writes, made anew and not read from any text: a README.md, and the names in a card, can
    come from anywhere.

    Raises:
        InputError: if it fails, or as for `card_for`.
    """
    card = folder if isinstance(folder, FolderCard) else FolderCard.of(folder, name=name)
    return run_code(card.snippet, card.folder, card.title)


def snippet_of(card: ModelCard) -> str:
    """The card's Python code; it loads the model by the card's name, so it runs where there is a folder of that name.

    Raises:
        InputError: if the card has none.
    """
    code = code_of(str(card.text))
    if code is None:
        raise InputError("the card holds no Python code. Write the card again (write_card).")
    return code


def citations(keys: Sequence[str]) -> str:
    """The entries of citations.bib with these keys, in their order there."""
    entries = (TEMPLATES / "citations.bib").read_text(encoding="utf-8").strip().split("\n\n")
    return "\n\n".join(entry for entry in entries if entry.partition("{")[2].partition(",")[0] in keys)


def _facts_of(folder: Path, recipe: Recipe | None) -> CardFacts:
    """What the files of a soup or cascade say; `recipe` is of a soup whose folder keeps none."""
    refuse_links_out(folder)
    config = read_json(_needed(folder, "config.json"), again="Make the folder again.")
    if config.get("model_type") == "cascade":
        from hf_soups.cascades.running.config import read_cascade
        from hf_soups.reporting.cards.cascades import cascade_facts

        facts = _whole(lambda: cascade_facts(folder, read_cascade(folder)), folder / "config.json")
        return facts if recipe is None or facts.data is not None else replace(facts, data=DataUsed.of_task(recipe.task))
    record, known = with_sha256(read_soup(_needed(folder, SOUP_FILE).parent)), recipe or recipe_kept(folder)
    # as it is in the file: later versions may know further keys
    shown = "" if known is None else recipe_text(known) if recipe else card_text(folder / RECIPE_FILE)
    fenced = shown.replace("```", "'''")  # no text may end the block of code: a folder can come from anywhere
    return _whole(lambda: soup_facts(folder, record, config, known, fenced), folder / SOUP_FILE)


def _needed(folder: Path, name: str) -> Path:
    if not is_there(folder):
        raise InputError(f"{folder}: no such folder. Check the path.")
    if not is_there(folder / name):
        raise InputError(
            f"{folder} holds no {name}, so it is neither a soup nor a cascade. Name a folder that `hf-soups cook` or "
            "`hf-soups cascade build` wrote."
        )
    return folder / name


def _whole(read: Callable[[], CardFacts], file: Path) -> CardFacts:
    try:
        return read()
    except HfSoupsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{file} is no whole record of a soup or cascade ({type(error).__name__}: {error}). Make the folder again."
        ) from error


def _details_before(folder: Path) -> CardDetails:
    """What the folder's card says that no file holds; of a card that cannot be read, nothing."""
    if not (folder / README).is_file():
        return CardDetails()
    values = metadata_of(folder / README)

    def listed(key: str) -> tuple[str, ...]:
        value = values.get(key)
        return () if value is None else tuple(map(str, value)) if isinstance(value, list) else (str(value),)

    data_sets, base_models = (tuple(filter(is_repo_id, listed(key))) for key in ("datasets", "base_model"))
    return CardDetails("".join(listed("license")[:1]), listed("language"), "".join(data_sets[:1]), base_models)


def _values_in(path: Path) -> list[Any]:
    """The values in a file of `.eval_results/`; one that is no such file holds none."""
    from hf_soups.files.plain_yaml import read_yaml

    entries = read_yaml(path)
    return [e.get("value") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _first_other(true: str, got: str) -> str:
    """The first line of the recipe that the card lacks."""
    lines = got.splitlines()
    return next((repr(line.strip()) for line in true.splitlines() if line not in lines), "it in another order")
