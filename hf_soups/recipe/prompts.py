"""Prompts and label words: a text put into a sentence, and the word that stands for each class.

A language model that has been taught to fill in words needs no new head: each class is a word, and the class whose
word is likeliest is the answer. Sources: Raffel et al. 2020, arXiv:1910.10683, appendix D, for text to text; Gao et al.
2021, arXiv:2012.15723, table 1 (manual prompts), for masked language models.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_soups.errors import CheckpointError, RecipeError
from hf_soups.recipe.task import Task

TEXTS = ("text", "text_pair")  # a stored prompt's placeholders: its user's columns may have any name
MASK = "mask"
WORDS_KEY, PROMPT_KEY = "label_words", "prompt"  # in config.json

Words = Mapping[str, str]  # label name -> word


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt and the words of the classes, as a checkpoint's config.json keeps them."""

    prompt: str  # with {text}, for pairs {text_pair}, and for a masked language model {mask}
    words: tuple[str, ...]  # in the order of the labels

    @property
    def texts(self) -> int:
        """How many texts go into the prompt."""
        return sum(name in TEXTS for _, name in pieces(self.prompt))

    def filled(self, texts: Sequence[str], mask: str = "") -> tuple[str, int]:
        """The prompt with the texts in it, and the number of characters up to the end of the mask (0: it has none).

        >>> Wording("{text} It was {mask} .", ("bad", "good")).filled(["Seen it."], "[MASK]")
        ('Seen it. It was [MASK] .', 22)
        """
        given = {**dict(zip(TEXTS, texts, strict=False)), MASK: mask}
        told, end = "", 0
        for literal, name in pieces(self.prompt):
            told += literal + given.get(name, "")
            end = len(told) if name == MASK else end
        return told, end


def wording_of(config: Mapping[str, Any]) -> Wording | None:
    """What config.json says of prompt and label words; None where it says nothing.

    Raises:
        CheckpointError: if they are not what hf_soups writes.
    """
    if WORDS_KEY not in config or PROMPT_KEY not in config:
        return None
    words, prompt = config[WORDS_KEY], config[PROMPT_KEY]
    fine = isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
    if not fine or not isinstance(prompt, str) or TEXTS[0] not in _names(prompt):
        raise CheckpointError(
            f"config.json: {WORDS_KEY} is {words!r:.80} and {PROMPT_KEY} {prompt!r:.80}. Expected a list of words in "
            "the order of the labels, and a prompt with {text} in it."
        )
    return Wording(prompt, tuple(words))


def pieces(prompt: str) -> list[tuple[str, str]]:
    """What stands before each placeholder, and its name; the last name is empty where text follows.

    Raises:
        ValueError: if a brace is open, or a placeholder is not a bare name.

    >>> pieces("rte sentence1: {text}.")
    [('rte sentence1: ', 'text'), ('.', '')]
    """
    found = []
    for literal, name, form, conversion in string.Formatter().parse(prompt):
        if form or conversion or name == "":
            raise ValueError(f"the prompt {prompt!r} has a placeholder that is no column's name")
        found.append((literal, name or ""))
    return found


def _names(prompt: str) -> list[str]:
    return [name for _, name in pieces(prompt) if name]


# What a recipe says.


def check_words(words: Words | None, prompt: str | None, task: Task) -> None:
    """What can be known of prompt and words without the model and the data.

    Raises:
        ValueError: saying what to write.
    """
    if task.kind == "image":
        raise ValueError("head.init: label-words is for texts, but the task's rows are images")
    if words is not None:
        _check_the_words(words)
        if task.label_names is not None:
            _check_labels(words, task.label_names)
    if prompt is not None:
        _check_the_prompt(prompt, task.columns)
    if task.name not in T5_PROMPTS and (words is None or prompt is None):
        lacks = " and ".join(k for k, v in (("head.words", words), ("head.prompt", prompt)) if v is None)
        raise ValueError(
            f"head.init: label-words, but {lacks} {'is' if 'and' not in lacks else 'are'} not given and only "
            f"{', '.join(T5_PROMPTS)} have defaults. Write a word for each label, such as "
            f"words: {{{', '.join(f'{n}: ...' for n in task.label_names or ('one label', 'another'))}}}, and a "
            f"prompt such as {_example(task.columns)!r}"
        )


def _check_the_words(words: Words) -> None:
    seen: dict[str, str] = {}
    for label, word in words.items():
        if not word.strip():
            raise ValueError(f"head.words: the word of {label!r} is empty")
        if word.strip() in seen:
            raise ValueError(
                f"head.words: {seen[word.strip()]!r} and {label!r} have one word, {word!r}, so they could not be told "
                "apart. Give each label a word of its own"
            )
        seen[word.strip()] = label


def _check_labels(words: Words, names: Sequence[str]) -> None:
    unknown, without = [w for w in words if w not in names], [n for n in names if n not in words]
    if unknown or without:
        told = [f"{', '.join(map(repr, unknown))} is no label of the task"] if unknown else []
        told += [f"{', '.join(map(repr, without))} has no word"] if without else []
        raise ValueError(f"head.words: {'; '.join(told)}. The labels are {', '.join(names)}")


def _check_the_prompt(prompt: str, columns: Sequence[str]) -> None:
    names = _names(prompt)
    for name in names:
        if name not in (*columns, MASK):
            raise ValueError(
                f"head.prompt: {{{name}}} is no column of the task. Its columns are {', '.join(columns)}, as in "
                f"{_example(columns)!r}"
            )
    for column in columns:
        if names.count(column) != 1:
            raise ValueError(
                f"head.prompt: {prompt!r} has {{{column}}} {names.count(column)} times. Put every column in once, as "
                f"in {_example(columns)!r}"
            )


def _example(columns: Sequence[str]) -> str:
    return " ".join(f"{column}: {{{column}}}" for column in columns)


def wording_for(
    words: Words | None, prompt: str | None, task: Task, label_names: Sequence[str], *, masked: bool
) -> Wording:
    """The wording of a new start: what the recipe gives, and for the rest the defaults of GLUE's four tasks.

    Args:
        words: of the recipe.
        prompt: of the recipe, with the task's columns as placeholders.
        task: its name chooses the defaults.
        label_names: of the data, in the order of the logits.
        masked: whether a masked language model fills in the word.
    Raises:
        RecipeError: if they do not fit the labels or the model.
    """
    try:
        check_words(words, prompt, task)
        own = words if words is not None else _default_words(task, label_names, masked)
        _check_labels(own, label_names)
        stored = (MASKED_PROMPTS if masked else T5_PROMPTS)[task.name] if prompt is None else _stored(prompt, task)
        _check_mask(stored, masked)
    except ValueError as error:
        raise RecipeError(f"{error}.") from error
    return Wording(stored, tuple(own[name].strip() for name in label_names))


def _default_words(task: Task, label_names: Sequence[str], masked: bool) -> Words:
    return MASKED_WORDS[task.name] if masked else {name: name for name in label_names}


def _check_mask(stored: str, masked: bool) -> None:
    count = _names(stored).count(MASK)
    if masked and count != 1:
        raise ValueError(
            f"head.prompt: {stored!r} has {{{MASK}}} {count} times, but a masked language model fills in one word. "
            f"Put {{{MASK}}} where the label's word belongs, as in '{{text}} It was {{{MASK}}} .'"
        )
    if not masked and count:
        raise ValueError(
            f"head.prompt: {stored!r} has {{{MASK}}}, but a text-to-text model writes the word itself. Leave it out"
        )


def _stored(prompt: str, task: Task) -> str:
    names = {**dict(zip(task.columns, TEXTS, strict=False))}
    told = ""
    for literal, name in pieces(prompt):
        told += literal.replace("{", "{{").replace("}", "}}") + (f"{{{names.get(name, name)}}}" if name else "")
    return told


T5_PROMPTS = {
    "glue/mrpc": "mrpc sentence1: {text} sentence2: {text_pair}",
    "glue/rte": "rte sentence1: {text} sentence2: {text_pair}",
    "glue/cola": "cola sentence: {text}",
    "glue/sst2": "sst2 sentence: {text}",
}
MASKED_PROMPTS = {
    "glue/mrpc": "{text} {mask} , {text_pair}",
    "glue/rte": "{text} ? {mask} , {text_pair}",
    "glue/cola": "{text} This is {mask} .",
    "glue/sst2": "{text} It was {mask} .",
}
MASKED_WORDS = {
    "glue/mrpc": {"equivalent": "Yes", "not_equivalent": "No"},
    "glue/rte": {"entailment": "Yes", "not_entailment": "No"},
    "glue/cola": {"acceptable": "correct", "unacceptable": "incorrect"},
    "glue/sst2": {"positive": "great", "negative": "terrible"},
}
