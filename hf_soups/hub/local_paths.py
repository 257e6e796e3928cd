"""Paths of this machine in files that are pushed: of each only its last name stays.

Records say where an ingredient lay (`/home/me/runs/run_00`, `../../runs/run_00`), which is nobody else's business and
leads nowhere elsewhere; the SHA-256 beside it tells which weights it was. Where two places have the same last name, as
many names stay as tell them apart.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_soups.errors import InputError
from hf_soups.files.reading import read_text
from hf_soups.hub.contents import LocalFile, Stage
from hf_soups.recipe.origin import place_shown

RECORDS = (
    "soup.json", "pool.json", "frontier.json", "evidence.json", "recipe.yaml", "steps.csv", "leaderboard.csv",
    "leaderboard.json",
)  # fmt: skip
NAMES = ("label_names", "id2label", "label2id")  # labels may look like paths: AudioSet's are "/m/09x0r"
# of a model's configs only what transformers writes there of places: texts and tokens may look like paths as well
PLACES = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file", "merges_file")
# a path within a sentence, such as that of an error: two names at least
_IN_A_SENTENCE = re.compile(r"(?<![\w.:/~])(?:~|\.\.|[A-Za-z]:)?[/\\][^\s/\\'\"]+[/\\][^\s'\"]*[^\s'\".,;:)\]]")


def without_local_paths(value: Any) -> Any:
    """The value with every path in it that is absolute or leads out of the folder cut to its last name.

    >>> without_local_paths({"source": "/home/me/runs/run_00", "label_names": ["/m/09x0r"], "model": "org/model"})
    {'source': './run_00', 'label_names': ['/m/09x0r'], 'model': 'org/model'}
    >>> without_local_paths({"/a/x/run": 1, "/a/y/run": 2, "why": "/a/x/run is the best, /b/data/rows is gone."})
    {'./x/run': 1, './y/run': 2, 'why': './x/run is the best, ./rows is gone.'}
    """
    return _clean(value, _short(_places_in(value)))


def cleaned(files: Sequence[LocalFile], stage: Stage) -> list[LocalFile]:
    """The records among the files that name places of this machine, as they are pushed instead.

    Raises:
        InputError: if one cannot be read.
    """
    records = {file: _read(file.source) for file in files if PurePosixPath(file.path).name in RECORDS}
    short = _short(place for value in records.values() for place in _places_in(value))
    changes = [(file.path, value, _clean(value, short)) for file, value in records.items()]
    for file in files:
        with suppress(InputError):  # a file that the user includes need not be one of a model
            if file.path.endswith("config.json"):
                value = _read(file.source)
                changes.append((file.path, value, _clean_config(value)))
    return [stage.text(path, as_text(path, clean)) for path, value, clean in changes if clean != value]


def note_of(clean: list[LocalFile]) -> tuple[str, ...]:
    """A note for the user on the records that are pushed with other paths than the folder's."""
    return (
        (f"local paths are pushed as their last part alone, in {', '.join(f.path for f in clean)}.",) if clean else ()
    )


def as_text(name: str, record: Any) -> str:
    """A record as the text of its file, by the ending of its name."""
    import yaml

    if name.endswith(".yaml"):
        return str(yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    if name.endswith(".csv"):
        made = io.StringIO(newline="")
        csv.writer(made, lineterminator="\n").writerows(record)
        return made.getvalue()
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> Any:
    from hf_soups.files.plain_yaml import read_yaml

    if path.suffix == ".yaml":
        return read_yaml(path)
    try:
        text = read_text(path, again="Make the folder again.")
        if path.suffix == ".csv":
            return list(csv.reader(io.StringIO(text, newline="")))
        return json.loads(text)
    except InputError:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Make the folder again.") from error


def _clean(value: Any, short: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            short.get(key, key): inner if key in NAMES else _clean(inner, short) for key, inner in value.items()
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [_clean(inner, short) for inner in value]
    return _clean_text(value, short) if isinstance(value, str) else value


def _clean_text(text: str, short: Mapping[str, str]) -> str:
    if text in short:
        return short[text]
    for place in sorted((place for place in short if place in text), key=len, reverse=True):
        text = re.sub(rf"(?<![\w./~-]){re.escape(place)}(?![\w-])", short[place].replace("\\", r"\\"), text)
    return _IN_A_SENTENCE.sub(lambda found: place_shown(_posix(found[0])), text)


def _clean_config(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: place_shown(_posix(inner)) if key in PLACES and _is_local(inner) else _clean_config(inner)
            for key, inner in value.items()
        }
    return [_clean_config(inner) for inner in value] if isinstance(value, list) else value


def _places_in(value: Any) -> Iterator[str]:
    """The texts in a record that are places of this machine, keys among them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _places_in(key)
            yield from _places_in(None if key in NAMES else inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _places_in(inner)
    elif _is_local(value):
        yield value


def _short(places: Iterable[str]) -> dict[str, str]:
    """What each place is called instead: its last name, with as many before it as tell it from the others."""
    names = {place: PurePosixPath(_posix(place)).parts for place in places}
    short = {}
    for place, parts in names.items():
        others = [other for other in names.values() if other != parts]
        count = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), 1)
        short[place] = place_shown(_posix(place)) if count == 1 else "/".join((".", *parts[-count:]))
    return short


def _is_local(text: Any) -> bool:
    if not isinstance(text, str) or "\n" in text or ", " in text or text.endswith("."):  # a sentence
        return False
    windows = PureWindowsPath(text)
    return text.startswith(("/", "~/", "../")) or bool(windows.drive and windows.root)


def _posix(text: str) -> str:
    return PureWindowsPath(text).as_posix()
