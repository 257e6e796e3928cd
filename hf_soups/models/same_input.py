"""Whether two tokenizers, or two image processors, give a model the same input: compared as loaded, not as files.

What a loaded one does is taken apart into named parts with plain values. Parts that are equal are the same for every
text or image; where they are written in another way, both read the same probes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_soups.models.loading import UNLIMITED

Parts = dict[str, Any]
PROBES = (
    "a", "The cat sat, the DOG ran!", "Caffè, naïve ÜBER Straße; ﬁ ½ ①", "  two  blanks\tand a tab\nand a line ", "",
    "don't can't it's 'quoted' \"words\" (and) [brackets] {braces} <angles>", "12 3,456.78 -9 +1e10 50% $5 #1 @me a_b",
    "http://a.example/b?c=d&e=f~g `code` \\ / | ^ * =", "漢字 かな 한국어 русский עברית العربية हिन्दी",
    "😀 e\u0301 \u200bx\xa0y",
    "supercalifragilisticexpialidocious" * 4,
)  # fmt: skip
SIDES = ("padding side", "truncation side")
ADDED, VOCABULARY, AROUND = "added tokens", "vocabulary", "special tokens around a text and a pair"
TYPES, PAIR_TYPES = "token types", "token types of a text and a pair"
SHOWN = 3  # examples of each kind in a message
# Of an image processor: names and forms, and what the steps that are not taken would use.
NAMES = frozenset({
    "image_processor_type", "feature_extractor_type", "processor_class", "transformers_version", "return_tensors",
    "data_format", "input_data_format", "device", "disable_grouping", "default_to_square", "do_convert_rgb",
    "_valid_processor_keys", "_processor_class", "use_fast", "image_seq_length", "num_channels",
})  # fmt: skip
USED_BY = {
    "do_resize": ("size", "resample", "crop_pct", "size_divisor", "size_divisibility"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor", "offset", "rescale_offset"),
    "do_normalize": ("image_mean", "image_std"),
    "do_pad": ("pad_size", "size_divisor"),
}
SUFFIXES = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")


@dataclass(frozen=True, slots=True)
class InputDifference:
    """What two of them do differently, in words; nothing where the model is fed the same."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    grown: int = 0  # 1: all that differs are tokens that only the second knows; -1: that only the first knows

    def __bool__(self) -> bool:
        return bool(self.errors or self.warnings)


# Tokenizers.


def tokenizer_parts(tokenizer: Any) -> Parts:
    """Everything of a loaded tokenizer that decides which ids a text becomes, by a name for each part."""
    around, types = _around(tokenizer)
    parts = {
        VOCABULARY: dict(tokenizer.get_vocab()),
        "padding side": tokenizer.padding_side,
        "truncation side": tokenizer.truncation_side,
        TYPES: "token_type_ids" in tokenizer.model_input_names,
        "padding token": tokenizer.pad_token_id,
        "mask token": tokenizer.mask_token_id,
        "special tokens read as text": bool(getattr(tokenizer, "split_special_tokens", False)),
        AROUND: around,
        PAIR_TYPES: types,
    }
    if not getattr(tokenizer, "is_fast", False):
        return {**parts, "class": type(tokenizer).__name__, "special tokens": dict(tokenizer.special_tokens_map)}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = {key: value for key, value in state["model"].items() if value not in (None, "", False)}
    vocab = model.pop("vocab", None)
    return {
        **parts,
        "merges": model.pop("merges", []),
        "scores of pieces": vocab if isinstance(vocab, list) else None,  # of unigrams; else in the vocabulary
        "model": model,
        "normaliser": _plain_steps(state["normalizer"]),
        "splitting into words": _plain_steps(state["pre_tokenizer"]),
        ADDED: {token.pop("content"): _without(token, "special") for token in state["added_tokens"]},
    }


def _around(tokenizer: Any) -> tuple[list[list[int]], list[list[int]]]:
    """What is put around a text and around a pair: ids; and the types, which are 0 for a model that is given none."""
    typed = "token_type_ids" in tokenizer.model_input_names
    if getattr(tokenizer, "is_fast", False):
        backend, put = tokenizer.backend_tokenizer, tokenizer.backend_tokenizer.post_processor
        backend.no_padding()  # the file may say so; transformers sets both anew at every call
        backend.no_truncation()
        one, two = (backend.encode("a", add_special_tokens=False) for _ in range(2))
        made = [one, two] if put is None else [put.process(one), put.process(one, two)]
        ids, types = [one.ids for one in made], [one.type_ids for one in made]
    else:
        called = [tokenizer(*texts, return_attention_mask=False) for texts in (("a",), ("a", "a"))]
        ids = [list(one["input_ids"]) for one in called]
        types = [list(one.get("token_type_ids") or []) for one in called]
    return ids, types if typed else [[0] * len(one) for one in ids]


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _plain_steps(step: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A normaliser or splitter as a flat list of steps, each without what does not change ids."""
    return [] if step is None else [_plain(one) for one in _flat(step)]


def _flat(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    inner = step.get("normalizers", step.get("pretokenizers")) if step.get("type") == "Sequence" else None
    if inner is None:
        yield step
    for one in inner or ():
        yield from _flat(one)


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    plain = _without(step, "trim_offsets", "str_rep")
    if step.get("type") == "BertNormalizer" and step.get("strip_accents") is None:
        plain["strip_accents"] = step.get("lowercase")  # what it does when it is not said
    return plain


def tokenizer_difference(first: Any, other: Any, *, places: int | None = None, types: bool = True) -> InputDifference:
    """What `other` does differently from `first`.

    Args:
        first: a loaded tokenizer.
        other: another one.
        places: tokens that the model takes, for tokenizers that set no limit of their own.
        types: whether the model reads token types.
    """
    a, b = tokenizer_parts(first), tokenizer_parts(other)
    unread = {TYPES} if types else {TYPES, PAIR_TYPES}  # that there are some says nothing: what they are counts
    differing = [name for name in a | b if a.get(name) != b.get(name) and name not in unread]
    for name in ("padding token", "mask token"):  # one that has none does not read otherwise
        if name in differing and None in (a[name], b[name]):
            differing.remove(name)
    if ADDED in differing and VOCABULARY not in differing and _read_alike(first, other, a[ADDED], b[ADDED]):
        differing.remove(ADDED)
    follows = {AROUND, PAIR_TYPES}  # from what else differs
    differing = [name for name in differing if name not in follows] or differing
    warnings = _limits(first, other, places)
    if not differing:
        return InputDifference(warnings=warnings)
    errors = [_about(name, a.get(name), b.get(name)) for name in differing if name != ADDED or len(differing) == 1]
    example = next(_examples(first, other, (*PROBES, *_added_probes(a[ADDED], b[ADDED])) if ADDED in a else PROBES), "")
    return InputDifference(tuple(errors + [example] * bool(example)), warnings, _grown(a, b, differing))


def _read_alike(first: Any, other: Any, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return not next(_examples(first, other, _added_probes(a, b)), "")


def _added_probes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts that show whether a token is found inside words, takes the blanks around it, or is found in lower case."""
    tokens = [token for token in {**a, **b} if a.get(token) != b.get(token)]
    return tuple(
        text for t in tokens for text in (t, f"x{t}y", f"x {t} y", f"x  {t}  y", f"x {t.lower()} y", f"x {t.upper()} y")
    )


def _examples(first: Any, other: Any, texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        ids = [list(t(text, add_special_tokens=False)["input_ids"]) for t in (first, other)]
        if ids[0] != ids[1]:
            yield f"{text[:40]!r} becomes {_shortened(ids[1])}, but {_shortened(ids[0])}"


def _grown(a: Parts, b: Parts, differing: Sequence[str]) -> int:
    """1 where `b` only knows further tokens, -1 where `a` does, 0 where more differs."""
    if VOCABULARY not in differing or not set(differing) <= {VOCABULARY, ADDED}:
        return 0
    for sign, (less, more) in ((1, (a, b)), (-1, (b, a))):
        same_ids = less[VOCABULARY].items() <= more[VOCABULARY].items()
        if same_ids and all(more[ADDED].get(token) == how for token, how in less.get(ADDED, {}).items()):
            return sign
    return 0


def _limits(first: Any, other: Any, places: int | None) -> tuple[str, ...]:
    """A warning where rows are cut at another length; a tokenizer without a limit has that of the model."""
    limits = [t.model_max_length if 0 < t.model_max_length < UNLIMITED else None for t in (first, other)]
    if limits[0] == limits[1]:
        return ()
    # RoBERTa and its like count positions from 2 on
    if None in limits and places is not None and {*limits} & {places, places - 2}:
        return ()
    said = ["no limit" if limit is None else f"{limit} tokens" for limit in limits]
    return (f"model_max_length: {said[1]}, but {said[0]}",)


def _about(name: str, a: Any, b: Any) -> str:
    if name == VOCABULARY:
        return _about_vocabulary(a, b)
    if name in ("merges", "scores of pieces"):
        return f"{name}: {len(b or ())}, but {len(a or ())}" if len(a or ()) != len(b or ()) else f"{name}: others"
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in a | b if a.get(key) != b.get(key)]
        return f"{name}: " + "; ".join(f"{key} {b.get(key)!r}, but {a.get(key)!r}" for key in keys[:SHOWN])
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(isinstance(x, dict) for x in a + b):
        return "; ".join(_about(name, x, y) for x, y in zip(a, b, strict=True) if x != y)
    return f"{name}: {_shortened(b)}, but {_shortened(a)}"


def _about_vocabulary(a: Mapping[str, int], b: Mapping[str, int]) -> str:
    a, b = (dict(sorted(vocab.items(), key=lambda item: item[1])) for vocab in (a, b))
    moved = [token for token in a if token in b and a[token] != b[token]]
    said = []
    if moved:
        some = ", ".join(f"{token!r} ({b[token]}, but {a[token]})" for token in moved[:SHOWN])
        said.append(f"{len(moved)} tokens have other ids: {some}")
    for only, place in (([t for t in b if t not in a], "only here"), ([t for t in a if t not in b], "only there")):
        if only:
            said.append(f"{len(only)} tokens are {place}: {', '.join(map(repr, only[:SHOWN]))}")
    return f"{VOCABULARY}: {'; '.join(said)}"


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Image processors.


def image_parts(processor: Any) -> Parts:
    """Everything of a loaded image processor that decides which pixels an image becomes, by the key of each value."""
    values = json.loads(json.dumps(processor.to_dict(), default=str))
    unused = {key for step, keys in USED_BY.items() if not values.get(step) for key in keys}
    return {
        key: _plain_sizes(value)
        for key, value in values.items()
        if key not in NAMES | unused and value is not None and value is not False
    }


def _plain_sizes(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def kind_of(processor: Any) -> str:
    """The class of an image processor without what says in which version, and with which library, it works.

    >>> kind_of(type("ViTImageProcessorPil", (), {})())
    'ViT'
    """
    name = type(processor).__name__
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def image_difference(first: Any, other: Any) -> InputDifference:
    """What `other` does differently from `first`; of two classes that say the same, the pixels decide."""
    a, b = image_parts(first), image_parts(other)
    differing = [key for key in a | b if not _close(a.get(key), b.get(key))]
    errors = tuple(f"{key}: {b.get(key)}, but {a.get(key)}" for key in differing)
    if not errors and kind_of(first) != kind_of(other) and not _same_pixels(first, other):
        errors = (f"{type(other).__name__} makes other pixels than {type(first).__name__} of the same settings",)
    return InputDifference(errors)


def _close(a: Any, b: Any) -> bool:
    """Equal, but for the last digits of what was written as a decimal."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    try:
        return bool(np.allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-6, atol=0))
    except (TypeError, ValueError):
        return bool(a == b)


def _same_pixels(first: Any, other: Any) -> bool:
    from PIL import Image

    random = np.random.default_rng(0)
    for height, width in ((37, 53), (300, 200), (64, 64)):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        a, b = (np.asarray(p(images=image, return_tensors="np")["pixel_values"]) for p in (first, other))
        if a.shape != b.shape or not np.allclose(a, b, atol=1e-5):
            return False
    return True
