"""Class texts: what is said of each class so that a text tower can place it among images.

Source: Radford et al. 2021, arXiv:2103.00020, section 3.1 (a template around the name, several templates averaged).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_soups.errors import InputError

TEMPLATES = ("a photo of a {}.",)


def prompts(
    label_names: Sequence[str], templates: Sequence[str], class_texts: Mapping[str, str] | None = None
) -> list[list[str]]:
    """The texts of each class: its name in every template, underscores as spaces and the first of its synonyms.

    Two classes whose first synonyms are the same keep all of theirs.

    Args:
        label_names: in the order of the classes.
        templates: each with one {} where the class goes.
        class_texts: what to call a class instead of its name, for any of them.
    Raises:
        InputError: if there is no template, one has no place for the class or several, a class text belongs to no
            class, or two classes get the same texts.

    >>> prompts(["tabby, tabby_cat", "dog"], ["a {}."])
    [['a tabby.'], ['a dog.']]
    >>> prompts(["n02", "n01"], ["a {}."], {"n01": "goldfish", "n02": "bird"})
    [['a bird.'], ['a goldfish.']]
    """
    check_templates(templates)
    given = class_texts or {}
    _check_known(given, label_names)
    called = {name: text for name, text in zip(label_names, _called(label_names), strict=True)} | dict(given)
    _check_apart(called)
    return [[template.replace("{}", called[name]) for template in templates] for name in label_names]


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates that do not say where the class goes.

    Raises:
        InputError: if there is none, or one has not exactly one {}.
    """
    if not templates:
        raise InputError('a zero-shot model needs at least one template, such as "a photo of a {}."')
    for template in templates:
        if template.count("{}") != 1:
            places = template.count("{}")
            raise InputError(
                f"the template {template!r} has {'no place' if not places else f'{places} places'} for the class. "
                'Put one {} in it, as in "a photo of a {}."'
            )


def _called(label_names: Sequence[str]) -> list[str]:
    whole = [name.replace("_", " ").strip() for name in label_names]
    short = [name.split(",")[0].strip() for name in whole]
    return [all_ if short.count(first) > 1 else first for all_, first in zip(whole, short, strict=True)]


def _check_known(given: Mapping[str, str], label_names: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(label_names))
    if unknown:
        raise InputError(
            f"class_texts speak of {_some(unknown)}, but the data have no such class; theirs are {_some(label_names)}. "
            "Write each class as the data do."
        )
    empty = sorted(name for name, text in given.items() if not text.strip())
    if empty:
        raise InputError(f"class_texts are empty for {_some(empty)}. Write what such an image shows, or leave it out.")


def _check_apart(called: Mapping[str, str]) -> None:
    """Classes with one text get one logit: no image could ever be told apart."""
    owners: dict[str, list[str]] = {}
    for name, text in called.items():
        owners.setdefault(text.casefold(), []).append(name)
    for text, names in owners.items():
        if len(names) > 1:
            raise InputError(
                f"the classes {_some(names)} are called {text!r}, so a text tower cannot tell them apart. "
                "Give them different class_texts or names."
            )


def _some(names: Sequence[str], most: int = 6) -> str:
    told = ", ".join(repr(name) for name in names[:most])
    return told + (f" and {len(names) - most} more" if len(names) > most else "")
