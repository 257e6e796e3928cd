"""One row asked of an endpoint: what is read, what is tried again, what is refused, and where the token goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from hf_soups.errors import CheckpointError, EndpointFailed
from hf_soups.files.endpoint import HOSTS_VARIABLE, Endpoint
from hf_soups.models import endpoint_requests
from hf_soups.models.endpoint import endpoint_classifier
from hf_soups.models.endpoint_requests import LimitReached, Spending, ask
from tests.endpoints.server import TOKEN, Asked, Said, by_length, endpoint

NAMES = ("neg", "pos")


@pytest.fixture
def there() -> Iterator[Asked]:
    with endpoint(by_length) as asked:
        yield asked


def told(there: Asked, **changes: object) -> Endpoint:
    values = {"url": there.url, "task": "text-classification", "timeout": 5.0, **changes}
    return Endpoint(**values)  # type: ignore[arg-type]


def answers(there: Asked, texts: list[str], names: tuple[str, ...] = NAMES, **changes: object) -> np.ndarray:
    one = endpoint_classifier(told(there, **changes), names, "text")
    return one.answer([(text, None) for text in texts]).log_probs


def test_labels_are_joined_by_name_in_whatever_order_they_come(there: Asked) -> None:
    texts = ["a", "bb", "ccc", "dddd", "bb"]
    wanted = [[by_length(text)[name] for name in NAMES] for text in texts]
    np.testing.assert_allclose(np.exp(answers(there, texts)), wanted, rtol=1e-5)
    assert there.most_asked == 1  # the same text twice in a batch
    there.flat = True
    np.testing.assert_allclose(np.exp(answers(there, texts)), wanted, rtol=1e-5)
    assert there.bodies[0] == {"inputs": "a", "parameters": {"top_k": 2}}


def test_pairs_are_sent_as_the_hub_has_them(there: Asked) -> None:
    one = endpoint_classifier(told(there), NAMES, "text-pair")
    one.answer([("first", "second")])
    assert there.bodies[0]["inputs"] == {"text": "first", "text_pair": "second"}


def test_images_are_sent_with_their_pixels() -> None:
    import base64
    import io

    from PIL import Image

    seen: list[np.ndarray] = []

    def scores(sent: str) -> dict[str, float]:
        seen.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(sent)))))
        return {"neg": 0.25, "pos": 0.75}

    with endpoint(scores) as there:
        there.flat = True
        image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        one = endpoint_classifier(told(there, task="image-classification"), NAMES, "image")
        found = one.answer([Image.fromarray(image)])
    np.testing.assert_array_equal(seen[0], image)
    np.testing.assert_allclose(np.exp(found.log_probs), [[0.25, 0.75]], rtol=1e-6)


def test_a_map_of_labels_says_what_the_endpoint_calls_them() -> None:
    with endpoint(lambda text: {"LABEL_1": 0.8, "LABEL_0": 0.2}) as there:
        with pytest.raises(CheckpointError, match=r"answers 2 labels \('LABEL_0', 'LABEL_1'\), but the rows have 2"):
            answers(there, ["a"])
        found = answers(there, ["a"], labels={"LABEL_0": "pos", "LABEL_1": "neg"})
    np.testing.assert_allclose(np.exp(found), [[0.8, 0.2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ({"neg": 0.5, "other": 0.5}, r"2 labels \('neg', 'other'\), but the rows have 2 \('neg', 'pos'\)"),
        ({"pos": 1.0}, r"1 labels \('pos'\), but the rows have 2 .* leaves labels out: it does not heed top_k"),
        ({"neg": 0.2, "pos": 0.3, "x": 0.5}, r"3 labels \('neg', 'pos', 'x'\), but the rows have 2"),
        ({"neg": 0.9, "pos": 0.9}, r"sum to 1\.8; expected 1"),
    ],
)
def test_other_labels_missing_labels_and_no_probabilities_are_said(scores: dict[str, float], why: str) -> None:
    with endpoint(lambda text: scores) as there:
        with pytest.raises(CheckpointError, match=why):
            answers(there, ["a", "b", "c", "d", "e"])
        assert there.requests == 1  # the first row shows it: no more is paid


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        (b"<html><body>Sign in</body></html>", "text/html", r"no JSON but '<html><body>Sign in.*\(text/html\)"),
        (b'[[{"label": "neg", "sco', "application/json", r"no JSON but '\[\[\{\"label\": \"neg\", \"sco'"),
        (b'{"outputs": [0.1, 0.9]}', "application/json", r"it answered '\{\"outputs\": \[0\.1, 0\.9\]\}'; expected"),
        (b'[{"label": "neg", "score": "0.9"}]', "application/json", "it answered .*; expected"),
        (b'[{"label": "neg", "score": NaN}]', "application/json", "it answered .*; expected"),
        (b"", "application/json", "no JSON but 'nothing'"),
        (b"[" * 100_000, "application/json", "no JSON but"),
    ],
)
def test_what_is_no_answer_is_shown_and_not_asked_again(there: Asked, body: bytes, kind: str, why: str) -> None:
    there.always = Said(body=body, headers={"Content-Type": kind})
    with pytest.raises(CheckpointError, match=why) as raised:
        answers(there, ["a"])
    assert len(str(raised.value)) < 600
    assert there.requests == 1


def test_a_server_that_is_busy_is_asked_again_as_late_as_it_wants(there: Asked) -> None:
    there.faults = [Said(503, b"loading", {"Retry-After": "0"}), Said(503, b"loading", {"Retry-After": "0.05"})]
    assert answers(there, ["a"]).shape == (1, 2)
    assert there.requests == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_refuses_for_ever_is_asked_so_often_and_no_more(there: Asked, status: int) -> None:
    there.always = Said(status, b'{"error": "too many"}')
    with pytest.raises(EndpointFailed, match=rf"no answer after 3 of 3 tries; at the last it answered {status}"):
        answers(there, ["a"], attempts=3)
    assert there.requests == 3


def test_a_server_that_wants_hours_is_not_waited_for(there: Asked) -> None:
    there.always = Said(429, b"", {"Retry-After": "7200"})
    with pytest.raises(EndpointFailed, match=r"is to be asked again in 7,200 seconds; at most 120 are waited for"):
        answers(there, ["a"])
    assert there.requests == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Said(404, b"no such model"), r"answered 404 \(no such model\)\. Check its address and task"),
        (Said(401, b"who are you"), rf"401 .*No token was sent.*{HOSTS_VARIABLE}=127\.0\.0\.1"),
        (Said(302, b"", {"Location": "http://127.0.0.1:1/"}), r"sends on to another address, which is not followed"),
    ],
)
def test_what_another_try_does_not_change_is_not_tried_again(there: Asked, said: Said, why: str) -> None:
    there.always = said
    with pytest.raises(EndpointFailed, match=why):
        answers(there, ["a"])
    assert there.requests == 1


def test_a_server_that_is_not_there_or_breaks_off_is_said(there: Asked) -> None:
    there.faults = [Said(body=b'[[{"label": "neg", "score": 1.0}]]', cut=True)]
    assert answers(there, ["a"]).shape == (1, 2)  # the second try is answered
    assert there.requests == 2
    with endpoint(by_length) as gone:
        pass
    with pytest.raises(EndpointFailed, match=r"no answer after 2 of 2 tries; at the last the connection failed"):
        ask(told(gone, attempts=2), "a", 2, Spending(), threading.Event())


@pytest.mark.parametrize("said", [None, Said(body=b" " * 1000, wait=0.05)], ids=["silent", "drop by drop"])
def test_an_answer_that_takes_too_long_ends_the_try(there: Asked, said: Said | None) -> None:
    there.always, there.hold_after = said, 0 if said is None else None
    with pytest.raises(EndpointFailed, match=r"after 2 of 2 tries; at the last there was no whole answer after 0\.3"):
        answers(there, ["a"], attempts=2, timeout=0.3)
    assert there.requests == 2


def test_the_token_goes_to_no_host_that_the_user_did_not_name(there: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(there, ["a"])
    monkeypatch.setenv(HOSTS_VARIABLE, "example.org, 127.0.0.1")
    answers(there, ["a"])
    assert there.tokens == [None, f"Bearer {TOKEN}"]
    there.always = Said(403, f"bad token {TOKEN}".encode())
    with pytest.raises(EndpointFailed, match=r"bad token \[token\]\).*does not accept the token") as raised:
        answers(there, ["a"])
    assert TOKEN not in str(raised.value)


def test_a_limit_is_never_passed_and_refused_tries_cost_nothing(there: Asked) -> None:
    spending, known = Spending(0.005, "dollars"), told(there, cost_per_1000=2.0)
    there.faults = [Said(503, headers={"Retry-After": "0"})]
    for text in ("a", "b"):
        ask(known, text, 2, spending, threading.Event())
    assert spending.spent == pytest.approx(0.004)
    with pytest.raises(LimitReached, match=r"limit of 0\.005 dollars is reached: 0\.004 dollars were spent"):
        ask(known, "c", 2, spending, threading.Event())
    assert there.requests == 3


def test_an_answer_without_end_is_not_read_for_ever(there: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_requests, "MOST_BYTES", 1000)
    there.always = Said(body=json.dumps([{"label": "x" * 5000, "score": 1.0}]).encode())
    with pytest.raises(CheckpointError, match=r"more than 1,000 bytes"):
        answers(there, ["a"])
