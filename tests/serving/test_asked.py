"""What a request asks for, and every way in which it can be none."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.serving.asked import Asked, Refused, read_request

PNG = b"\x89PNG..."
TEXT = base64.b64encode(PNG).decode()
PAIR = {"text": "a", "text_pair": "b"}


def read(body: Any, kind: str = "text", media: str = "application/json", most: int = 4) -> Asked:
    return read_request(body if isinstance(body, bytes) else json.dumps(body).encode(), media, kind, most)


def test_texts_pairs_and_images_are_read_alone_and_in_lists() -> None:
    assert read({"inputs": "a"}) == Asked((("a", None),), several=False)
    assert read({"inputs": {"text": "a"}}).rows == (("a", None),)
    assert read({"inputs": ["a", "b"]}) == Asked((("a", None), ("b", None)), several=True)
    assert read({"inputs": PAIR}, "text-pair").rows == (("a", "b"),)
    assert read({"inputs": [PAIR, PAIR]}, "text-pair").rows == (("a", "b"),) * 2
    for image in (TEXT, f"{TEXT[:4]}\n{TEXT[4:]}", f"data:image/png;base64,{TEXT}"):
        assert read({"inputs": image}, "image").rows == (PNG,)
    for media in ("image/jpeg", "IMAGE/PNG; x=y", "", "application/octet-stream"):
        assert read(PNG, "image", media) == Asked((PNG,), several=False)


def test_parameters_have_defaults_and_null_is_the_default() -> None:
    asked = read({"inputs": "a", "parameters": {"top_k": 2, "return_exits": True, "budget": 0.3}})
    assert (asked.top_k, asked.return_exits, asked.budget) == (2, True, 0.3)
    nothing: dict[str, Any] = {"top_k": None, "return_exits": None, "budget": None}
    assert read({"inputs": "a", "parameters": nothing}) == read({"inputs": "a"}) == read(
        {"inputs": "a", "parameters": None}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        (b"", "text", 400, "the body is no JSON"),
        (b"{", "text", 400, "the body is no JSON"),
        (b"\xff\xfe\x00", "text", 400, "the body is no JSON"),
        (b"[" * 100_000, "text", 400, "nested too deeply"),
        (b'{"inputs": "a", "parameters": {"top_k": ' + b"9" * 5000 + b"}}", "text", 400, "the body is no JSON"),
        (b'{"inputs": "a", "parameters": {"budget": NaN}}', "text", 400, "NaN is no number that JSON has"),
        (b'{"inputs": "a", "parameters": {"budget": -Infinity}}', "text", 400, "-Infinity is no number"),
        (b'{"inputs": "a", "parameters": {"budget": 1e999}}', "text", 400, '"budget" is Infinity; expected a number'),
        ([], "text", 400, 'expected {"inputs": ...}, got a list of 0'),
        ("a", "text", 400, 'expected {"inputs": ...}, got "a"'),
        ({"input": "a"}, "text", 400, 'expected {"inputs": ...}, got an object of "input"'),
        ({"inputs": "a", "options": {}}, "text", 400, '"options": unknown'),
        ({"inputs": []}, "text", 400, '"inputs" is an empty list'),
        ({"inputs": ["a"] * 5}, "text", 413, "5 inputs; at most 4"),
        ({"inputs": None}, "text", 400, "the input is null; expected a text"),
        ({"inputs": 3}, "text", 400, "the input is 3; expected a text"),
        ({"inputs": ["a", 3]}, "text", 400, "input 1 is 3; expected a text"),
        ({"inputs": [["a"]]}, "text", 400, "input 0 is a list of 1; expected a text"),
        ({"inputs": " \n"}, "text", 400, "the input is empty"),
        ({"inputs": "\ud800"}, "text", 400, "half of a character"),
        ({"inputs": PAIR}, "text", 400, "this model takes single texts"),
        ({"inputs": "a"}, "text-pair", 400, "this model takes pairs"),
        ({"inputs": {**PAIR, "more": 1}}, "text-pair", 400, "this model takes pairs"),
        ({"inputs": {"text": "a", "text_pair": ""}}, "text-pair", 400, '"text_pair" of the input is empty'),
        ({"inputs": {"text": 3, "text_pair": "b"}}, "text-pair", 400, '"text" of the input is 3'),
        ({"inputs": "http://127.0.0.1/a.png"}, "image", 400, "a URL, which this service does not fetch"),
        ({"inputs": "HTTPS://x"}, "image", 400, "a URL, which this service does not fetch"),
        ({"inputs": "/etc/passwd!"}, "image", 400, "the input is no base64 text"),
        ({"inputs": "é"}, "image", 400, "the input is no base64 text"),
        ({"inputs": ""}, "image", 400, "the input is empty"),
        ({"inputs": PAIR}, "image", 400, "expected an image as base64 text"),
        ({"inputs": f"data:image/svg+xml;base64,{TEXT}"}, "image", 415, "a data URL of 'image/svg+xml;base64'"),
        ({"inputs": f"data:image/png,{TEXT}"}, "image", 415, "expected an image's, with ;base64"),
        ({"inputs": "a", "parameters": []}, "text", 400, '"parameters" is a list of 0; expected an object'),
        ({"inputs": "a", "parameters": {"topk": 1}}, "text", 400, 'unknown parameters: "topk"; there are top_k'),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "text", 400, '"top_k" is 0; expected a whole number'),
        ({"inputs": "a", "parameters": {"top_k": True}}, "text", 400, '"top_k" is true; expected a whole number'),
        ({"inputs": "a", "parameters": {"top_k": 1.0}}, "text", 400, '"top_k" is 1.0; expected a whole number'),
        ({"inputs": "a", "parameters": {"return_exits": 1}}, "text", 400, '"return_exits" is 1; expected true'),
        ({"inputs": "a", "parameters": {"budget": "0.3"}}, "text", 400, '"budget" is "0.3"; expected a number'),
        ({"inputs": "a", "parameters": {"budget": 0}}, "text", 400, '"budget" is 0; expected a number'),
        ({"inputs": "a", "parameters": {"budget": {}}}, "text", 400, '"budget" is an object of nothing'),
    ],
)
def test_what_is_no_request_is_refused_in_words(body: Any, kind: str, status: int, why: str) -> None:
    with pytest.raises(Refused) as refused:
        read(body, kind)
    assert refused.value.status == status
    assert why in refused.value.why
    assert len(refused.value.why) < 300


@pytest.mark.parametrize("media", ["text/plain", "image/svg+xml", "multipart/form-data; boundary=x", "x" * 9999])
def test_other_media_are_refused(media: str) -> None:
    with pytest.raises(Refused, match="or the bytes of an image") as refused:
        read(PNG, "image", media)
    assert refused.value.status == 415
    assert len(refused.value.why) < 300


def status_of(body: Any, kind: str, media: str) -> int:
    """Of the refusal; 499 where it is read."""
    try:
        return 499 if read(body, kind, media).rows else 0
    except Refused as refused:
        return refused.status


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["inputs", "text", "top_k"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=50)
@given(JSONS, JSONS, st.sampled_from(["text", "text-pair", "image"]))
def test_whatever_is_sent_is_read_or_refused(inputs: Any, parameters: Any, kind: str) -> None:
    for body in (inputs, {"inputs": inputs}, {"inputs": "a", "parameters": parameters}):
        assert 400 <= status_of(body, kind, "application/json") < 500


@given(st.binary(), st.text())
def test_whatever_bytes_come_are_read_or_refused(body: bytes, media: str) -> None:
    for kind in ("text", "image"):
        for given_media in (media, "application/json", "image/png"):
            assert 400 <= status_of(body, kind, given_media) < 500
