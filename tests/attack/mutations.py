"""Mutations: one change of one file, drawn by a seed, for each form that the files have."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

# what must come of it: the same answer; an error, a word about it or the same answer; anything decent
# ("say less": what is gone may be shown as gone, but nothing else may be another)
Must = Literal["stay the same", "be noticed", "say less", "end well"]


@dataclass(frozen=True)
class Mutation:
    """What was done to a file."""

    what: str
    must: Must = "be noticed"


class NotHere(Exception):
    """This mutation cannot be done to this file; another is drawn."""


DEEP = "[" * 10_000 + "]" * 10_000
# of JSON texts; the last are no JSON, but Python's reader takes them
VALUES = (
    "null", "true", "false", "0", "-1", "1", "2.5", "1e400", "1" + "0" * 400, "-1e308", "1e-320", '""', '"x"', "[]",
    "{}", "[null]", '[["x"]]', '{"x": 1}', '"../../x"', '"/etc/passwd"',
    '"a\\u0000b"', '"\\ud800"', '"1"', '"' + "x" * 5000 + '"', DEEP,
    "NaN", "Infinity", "-Infinity",
)  # fmt: skip


THEIRS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "adapter_config.json",
)  # fmt: skip


def mutate(path: Path, random: Random, twin: Path | None) -> Mutation:
    """Change the file, in one of the ways that its form has.

    Args:
        path: of the file.
        random: draws everything.
        twin: a file of the same kind, to swap with.
    """
    own = {".json": JSON, ".safetensors": TENSORS, ".yaml": YAML, ".csv": TEXT, ".jsonl": LINES}.get(path.suffix, ())
    ways = (*own, *own, *FILE, *((swapped,) if twin else ()))  # the form's own ways twice as often
    while True:
        way = random.choice(ways)
        try:
            done = way(path, random) if way is not swapped else swapped(path, twin)
        except NotHere:
            continue
        # what such a value means is not ours to say, as long as nothing breaks
        theirs = path.name in THEIRS and path.parent.name != "cascade"
        return Mutation(done.what, "end well") if theirs else done


# Any file.


def _write(path: Path, data: bytes) -> None:
    path.unlink()  # others may be linked to it
    path.write_bytes(data)


def truncated(path: Path, random: Random) -> Mutation:
    data = path.read_bytes()
    keep = random.choice((0, 1, 7, 8, len(data) // 2, len(data) - 1, random.randrange(len(data) + 1)))
    if len(data) - keep <= 1 and data.endswith(b"\n"):
        return _done(path, data[:keep], f"cut to {keep} of {len(data)} bytes", "end well")
    return _done(
        path,
        data[:keep],
        f"cut to {keep} of {len(data)} bytes",
        "end well" if path.suffix in (".csv", ".jsonl", ".yaml") else "be noticed",
    )


def extended(path: Path, random: Random) -> Mutation:
    tail = random.choice((b"\0" * 16, b"x", b"\n{}", random.randbytes(100)))
    text = path.suffix in (".csv", ".jsonl", ".yaml")
    return _done(path, path.read_bytes() + tail, f"{tail[:8]!r} at its end", "end well" if text else "be noticed")


def flipped(path: Path, random: Random) -> Mutation:
    data = bytearray(path.read_bytes())
    if not data:
        raise NotHere
    at = random.randrange(min(len(data), random.choice((16, 400, len(data)))))
    data[at] ^= 1 << random.randrange(8)
    return _done(path, bytes(data), f"a bit of byte {at} turned", "end well")


def noise(path: Path, random: Random) -> Mutation:
    return _done(path, random.randbytes(random.choice((3, 300, 5000))), "random bytes")


def gone(path: Path, _random: Random) -> Mutation:
    path.unlink()
    return Mutation("gone", "end well")


def no_file(path: Path, random: Random) -> Mutation:
    """A folder, a pipe, a device or a link that ends nowhere in its place."""
    path.unlink()
    kind = random.choice(("folder", "pipe", "device", "loop", "broken link", "unreadable"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem")
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "broken link": "nowhere"}[kind])
    gone = kind == "broken link" or path.parent.name == "photos"  # what is no file is no image of its folder
    return Mutation(f"a {kind} in its place", "end well" if gone else "be noticed")


def swapped(path: Path, twin: Path | None) -> Mutation:
    assert twin is not None
    data, other = path.read_bytes(), twin.read_bytes()
    _write(path, other)
    _write(twin, data)
    return Mutation(f"swapped with {twin}", "end well")


def _done(path: Path, data: bytes, what: str, must: Must = "be noticed") -> Mutation:
    if data == path.read_bytes():
        raise NotHere
    _write(path, data)
    return Mutation(what, must)


FILE: tuple[Callable[[Path, Random], Mutation], ...] = (truncated, extended, flipped, noise, gone, no_file)


# Text.


def encoded(path: Path, random: Random) -> Mutation:
    """Another encoding, a byte order mark, other ends of lines, a byte that is no UTF-8."""
    text = path.read_text(encoding="utf-8")
    how = random.choice(("utf-16", "utf-8-sig", "crlf", "latin-1", "zero byte"))
    if how == "crlf":
        return _done(path, text.replace("\n", "\r\n").encode(), "CRLF", "stay the same")
    if how == "latin-1":
        at = random.randrange(len(text))
        return _done(
            path,
            text[:at].encode() + b"\xe9" + text[at:].encode(),
            "a byte that is no UTF-8",
            "end well" if path.suffix == ".csv" else "be noticed",
        )
    if how == "zero byte":
        at = random.randrange(len(text))
        return _done(
            path,
            (text[:at] + "\0" + text[at:]).encode(),
            "a zero byte in it",
            "end well" if path.suffix in (".csv", ".yaml") else "be noticed",
        )
    return _done(path, text.encode(how), how, "end well")


TEXT = (encoded,)


# JSON, as a tree whose leaves may be any text.


class _Raw(str):
    """A piece of JSON text."""


def _dump(value: Any, key_order: Random | None = None) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        items = list(value.items())
        if key_order is not None:
            key_order.shuffle(items)
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_dump(v, key_order)}" for k, v in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_dump(v, key_order) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside, shallow things as often as deep ones."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*way, key)
            yield from _places(inner, (*way, key))


def _drawn(value: Any, random: Random) -> tuple[Any, Any, str]:
    """What holds a place, its key there, and the way in words."""
    ways = list(_places(value))
    if not ways:
        raise NotHere
    depth = random.randint(1, max(map(len, ways)))
    way = random.choice([w for w in ways if len(w) == depth])
    for key in way[:-1]:
        value = value[key]
    return value, way[-1], ".".join(map(str, way))


def _another(value: Any, random: Random) -> Any:
    """Another value of the same type, that may well be a valid one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + random.choice((-1, 1, 7))
    if isinstance(value, float):
        return value * random.choice((0.5, 2.0, -1.0))
    if isinstance(value, str):
        return random.choice((value + "x", value[1:], value.upper(), f"../{value}", f"{value}/../{value}"))
    if isinstance(value, list) and len(value) > 1:
        return random.choice((value[:-1], value[::-1], value + value[:1]))
    raise NotHere


def _mutated_tree(tree: Any, random: Random) -> tuple[Any, str, Must]:
    holder, key, where = _drawn(tree, random)
    way = random.choice(("wrong", "wrong", "wrong", "another", "dropped", "renamed", "added"))
    if way == "wrong":
        raw = random.choice(VALUES)
        holder[key] = _Raw(raw)
        return tree, f"{where} = {raw:.30}", "say less" if raw in ("null", "{}", "[]", '""') else "be noticed"
    if way == "another":
        holder[key] = _another(holder[key], random)
        return tree, f"{where} = {str(holder[key])[:40]!r}", "end well"
    if way == "dropped":
        del holder[key]
        return tree, f"without {where}", "say less" if isinstance(holder, dict) else "end well"
    if not isinstance(holder, dict):
        raise NotHere
    if way == "renamed":
        holder[random.choice((f"{key}x", f"../{key}", ""))] = holder.pop(key)
        return tree, f"{where} renamed", "say less"
    tree["a later version's"] = _Raw(random.choice(VALUES[:20]))
    return tree, "a key that is not known", "stay the same"


def changed_json(path: Path, random: Random) -> Mutation:
    tree, what, must = _mutated_tree(json.loads(path.read_text(encoding="utf-8")), random)
    return _done(path, _dump(tree).encode("utf-8", "surrogatepass"), what, must)


def reordered(path: Path, random: Random) -> Mutation:
    tree = json.loads(path.read_text(encoding="utf-8"))
    # the order of a pool's members is their order in tables, and a card shows records in the order that they have
    must: Must = "end well" if path.name in ("pool.json", "evidence.json", "soup.json") else "stay the same"
    return _done(path, _dump(tree, random).encode(), "its keys in another order", must)


def doubled(path: Path, random: Random) -> Mutation:
    """A key twice, the first time with another value: every reader takes the last."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise NotHere
    key = random.choice(list(tree))
    text = f"{{{json.dumps(key)}: {random.choice(VALUES[:20])}, {_dump(tree)[1:]}"
    return _done(path, text.encode(), f"{key} twice")


def another_top(path: Path, random: Random) -> Mutation:
    text = random.choice((*VALUES, "", " ", "{", "{}x"))
    return _done(path, text.encode("utf-8", "surrogatepass"), f"only {text[:20]!r}")


JSON = (changed_json, changed_json, changed_json, changed_json, reordered, doubled, another_top, encoded)


def changed_line(path: Path, random: Random) -> Mutation:
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise NotHere
    at = random.randrange(len(lines))
    tree, what, must = _mutated_tree(json.loads(lines[at]), random)
    lines[at] = _dump(tree)
    return _done(path, "\n".join([*lines, ""]).encode("utf-8", "surrogatepass"), f"line {at}: {what}", must)


LINES = (changed_line, encoded)


def changed_yaml(path: Path, random: Random) -> Mutation:
    import yaml

    tree, what, must = _mutated_tree(yaml.safe_load(path.read_text(encoding="utf-8")), random)
    # JSON is YAML, flow style
    return _done(path, _dump(tree).encode("utf-8", "surrogatepass"), what, must)


def yaml_tricks(path: Path, random: Random) -> Mutation:
    bomb = "x0: &x0 [1]\n" + "".join(f"x{i + 1}: &x{i + 1} [{', '.join([f'*x{i}'] * 9)}]\n" for i in range(12))
    tail = random.choice(
        (bomb, "sweep: {runs: 1000000000000}\n", "x: !!python/object/apply:os.system ['touch code-was-run']\n",
         "task: {}\n", "? [a, b]\n: c\n", "\t\n", "a: *b\n", "sweep: {runs: true}\n", "train: {epochs: .nan}\n")
    )  # fmt: skip
    return _done(path, path.read_bytes() + tail.encode(), f"{tail[:30]!r} at its end", "end well")


YAML = (changed_yaml, changed_yaml, changed_yaml, yaml_tricks, encoded)


# Safetensors.


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header: str, body: bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def header_length(path: Path, random: Random) -> Mutation:
    length = random.choice((0, 1, 100, 2**31, 2**63, 2**64 - 1, 100_000_000))
    return _done(path, struct.pack("<Q", length) + path.read_bytes()[8:], f"a header of {length} bytes")


def changed_header(path: Path, random: Random) -> Mutation:
    header, body = _parts(path)
    tree, what, _ = _mutated_tree(header, random)
    return _done(path, _joined(_dump(tree), body), f"header: {what}")


def changed_numbers(path: Path, random: Random) -> Mutation:
    """NaN, infinity, a positive log-probability, an index beyond: raw numbers of one tensor."""
    header, body = _parts(path)
    name = random.choice([key for key in header if key != "__metadata__"])
    begin, end = header[name]["data_offsets"]
    width = {"F32": 4, "I64": 8, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "I16": 2, "U16": 2}.get(header[name]["dtype"])
    if width is None or end <= begin:
        raise NotHere
    kind = "f" if header[name]["dtype"] == "F32" else "i"
    at = begin + width * random.randrange((end - begin) // width)
    if kind == "f":
        value = random.choice((float("nan"), float("inf"), -float("inf"), 3.0, 1e30, -1e30))
        raw = struct.pack("<f", value)
    else:
        value = random.choice((-1, 2, 1 << (8 * width - 2)))
        raw = (value % (1 << (8 * width))).to_bytes(width, "little")
    data = body[:at] + raw + body[at + width :]
    text = path.read_bytes()
    weights = "predictions" not in path.parts and "preds" not in path.parts and "tops" not in path.parts
    finite = kind == "f" and math.isfinite(value)
    must: Must = "end well" if weights and (finite or kind == "i") else "be noticed"
    return _done(path, text[: len(text) - len(body)] + data, f"{name}: {value} at {at}", must)


TENSORS = (header_length, changed_header, changed_header, changed_header, changed_numbers, changed_numbers)
