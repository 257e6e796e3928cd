"""The service on a made-up model: batches, limits, clients that leave, what is counted. No socket and no weights."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from hf_soups.errors import InputError, MissingExtra
from hf_soups.serving import ServeSettings, make_app
from hf_soups.serving.settings import HELD_BODIES
from tests.makers.patience import PATIENCE
from tests.serving.asgi import JSON, Answer, call, get, post
from tests.serving.made import Lengths, expected


async def until(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, PATIENCE))


def label(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json[0][0]["label"])


@pytest.mark.slow
def test_two_hundred_clients_at_once_get_their_own_answers_in_few_batches() -> None:
    model = Lengths()
    app = make_app(model.served)
    texts = ["a" * (1 + i % 50) for i in range(200)]

    async def story() -> list[Answer]:
        model.free.clear()
        budgets = [None, 0.5, 1]  # of which two are one plan
        asked = [asyncio.ensure_future(post(app, t, budget=budgets[i % 3])) for i, t in enumerate(texts)]
        await until(lambda: app.state.service.open == 200 and len(app.state.service.batcher) >= 200 - 32)
        model.free.set()
        return await asyncio.gather(*asked)

    answers = run(story())
    assert [label(a) for a in answers] == [expected(t) for t in texts]
    assert max(map(len, model.batches)) == 32
    assert sum(map(len, model.batches)) == 200
    assert len(model.batches) <= 10  # the first one may have left before it was full


def test_a_list_is_answered_by_a_list_though_it_takes_several_batches() -> None:
    app = make_app(Lengths().served, ServeSettings(max_batch=4))
    texts = ["a" * i for i in range(1, 31)]
    answer = run(post(app, texts, top_k=1))
    assert [[one["label"] for one in own] for own in answer.json] == [[expected(t)] for t in texts]


def test_exits_members_and_costs_stand_beside_each_label_where_they_are_asked_for() -> None:
    app = make_app(Lengths().served)
    easy, hard = run(post(app, ["a", "a" * 41], return_exits=True, top_k=1)).json
    assert easy == [{"label": "odd", "score": pytest.approx(0.9), "exit": 0, "members": ["small"], "cost": 1.0}]
    assert hard[0]["exit"] == 1
    assert (hard[0]["members"], hard[0]["cost"]) == (["small", "big"], 5.0)
    cheap = run(post(app, "a" * 41, return_exits=True, budget=0.25)).json
    assert [one["exit"] for one in cheap[0]] == [0, 0]


def test_a_bad_row_costs_its_own_request_alone() -> None:
    model = Lengths()
    app = make_app(model.served, ServeSettings(max_batch=4, wait_ms=1000 * PATIENCE))

    async def story() -> list[Answer]:
        return await asyncio.gather(post(app, "fine"), post(app, "poison"), post(app, ["good", "poison!"]))

    fine, poison, several = run(story())
    assert label(fine) == "even"
    assert (poison.status, poison.error) == (500, "the model cannot answer this input (RuntimeError).")
    assert (several.status, several.error) == (500, "input 1: the model cannot answer this input (RuntimeError).")
    assert [len(batch) for batch in model.batches] == [4, 1, 1, 1, 1]


def test_a_client_that_leaves_costs_nothing() -> None:
    model = Lengths()
    app = make_app(model.served, ServeSettings(max_batch=1))
    service = app.state.service

    async def story() -> tuple[Answer, Answer]:
        model.free.clear()
        first = asyncio.ensure_future(post(app, "first"))
        await until(lambda: service.open == 1 and not len(service.batcher))
        leaves = asyncio.Event()
        body = json.dumps({"inputs": ["second", "and more"]}).encode()
        second = asyncio.ensure_future(call(app, body, leaves=leaves))
        third = asyncio.ensure_future(post(app, "third"))
        await until(lambda: len(service.batcher) == 3)
        leaves.set()
        await second
        model.free.set()
        return await first, await third

    first, third = run(story())
    assert (label(first), label(third)) == (expected("first"), expected("third"))
    assert model.batches == [["first"], ["third"]]
    assert (service.open, service.held, len(service.batcher)) == (0, 0, 0)
    assert service.counters.requests == {200: 2, 499: 1}


def test_a_client_that_leaves_while_it_sends_is_forgotten() -> None:
    app = make_app(Lengths().served)

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "root_path": ""}
    run(app(scope, receive, send))
    assert app.state.service.open == 0


def test_more_requests_than_may_wait_are_asked_to_come_again() -> None:
    model = Lengths()
    app = make_app(model.served, ServeSettings(max_waiting=10))

    async def story() -> list[Answer]:
        model.free.clear()
        waiting = [asyncio.ensure_future(post(app, "a" * (1 + i))) for i in range(50)]
        await until(lambda: sum(one.done() for one in waiting) == 40)
        model.free.set()
        return await asyncio.gather(*waiting)

    answers = run(story())
    refused = [a for a in answers if a.status == 503]
    assert len(refused) == 40
    assert {(a.headers["retry-after"], a.error) for a in refused} == {
        ("1", "10 requests are open already; come again.")
    }
    assert [label(a) for a in answers[:10]] == [expected("a" * (1 + i)) for i in range(10)]
    assert app.state.service.open == 0


def test_bodies_that_wait_are_bounded_in_bytes() -> None:
    model = Lengths()
    app = make_app(model.served, ServeSettings(max_body=1000, max_waiting=200))
    service, most = app.state.service, 0
    body = json.dumps({"inputs": "a" * 900}).encode()
    fit = HELD_BODIES * 1000 // len(body)

    async def story() -> list[Answer]:
        nonlocal most
        model.free.clear()
        waiting = [asyncio.ensure_future(call(app, body)) for _ in range(100)]
        await until(lambda: sum(one.done() for one in waiting) == 100 - fit)
        most = service.held
        model.free.set()
        return await asyncio.gather(*waiting)

    answers = run(story())
    assert sorted(a.status for a in answers) == [200] * fit + [503] * (100 - fit)
    assert most == fit * len(body)
    assert service.held == 0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in-parts"])
def test_twenty_megabytes_are_refused_before_they_are_read(declared: bool) -> None:
    app, read = make_app(Lengths().served), 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(20):
            read += 2**20
            yield b"a" * 2**20

    answer = run(call(app, parts(), {**JSON, **({"content-length": str(20 * 2**20)} if declared else {})}))
    assert answer.status == 413
    assert "more than 1,048,576 bytes" in answer.error
    assert read <= 2 * 2**20
    assert app.state.service.held == 0


def test_a_body_that_never_ends_is_given_up() -> None:
    app = make_app(Lengths().served, ServeSettings(body_seconds=1e-3))

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(PATIENCE)

    answer = run(call(app, parts()))
    assert (answer.status, answer.error) == (408, "no whole body after 0.001 seconds.")


@pytest.mark.parametrize(
    ("headers", "status", "why"),
    [
        ({}, 415, "Content-Type is 'missing'; send JSON as application/json."),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "send JSON as application/json"),
        ({"content-type": "image/png"}, 415, "send JSON"),
        ({**JSON, "content-encoding": "gzip"}, 415, "Content-Encoding is 'gzip'; send the body as it is."),
        (JSON, 400, "the body is no JSON"),
        ({**JSON, "content-length": "nonsense"}, 400, "the body is no JSON"),
        ({**JSON, "content-length": "9" * 5000}, 400, "the body is no JSON"),
    ],
)
def test_what_is_no_request_gets_a_sentence(headers: dict[str, str], status: int, why: str) -> None:
    answer = run(call(make_app(Lengths().served), b"inputs=a", headers))
    assert answer.status == status
    assert why in answer.error


def test_a_budget_that_no_plan_keeps_to_is_the_clients_mistake() -> None:
    answer = run(post(make_app(Lengths().served), "a", budget=0.01))
    assert answer.status == 400
    assert "the cheapest plan that this cascade holds takes 0.25" in answer.error


def test_other_pages_and_methods_say_what_there_is() -> None:
    app = make_app(Lengths().served)
    for path, method, status in (("/nowhere", "GET", 404), ("/", "PUT", 405), ("/docs", "GET", 404)):
        answer = run(call(app, method=method, path=path))
        assert answer.status == status
        assert "there are POST / (answers), GET /, /health and /metrics" in answer.error


def test_home_and_health_say_how_to_ask_and_who_answers() -> None:
    app = make_app(Lengths().served)
    assert """-d '{"inputs": "a text"}'""" in run(get(app, "/")).body.decode()
    health = {"status": "ready", "model": "lengths", "kind": "text", "members": ["small", "big"]}
    assert run(get(app, "/health")).json == health
    app.state.service.close()
    stopping = run(get(app, "/health"))
    assert (stopping.status, stopping.json["status"]) == (503, "stopping")


def test_metrics_count_requests_rows_exits_costs_and_batches() -> None:
    app = make_app(Lengths().served)
    run(post(app, ["a", "a" * 41]))
    run(post(app, "poison"))
    run(post(app, []))
    text = run(get(app, "/metrics")).body.decode()
    for line in (
        'requests_total{status="200"} 1', 'requests_total{status="400"} 1', 'requests_total{status="500"} 1',
        "rows_total 2", "rows_failed_total 1", 'exits_total{member="small",stage="0"} 1',
        'exits_total{member="big",stage="1"} 1', 'cost_total{unit="macs"} 6.0', 'cost_average{unit="macs"} 3.0',
        'batch_rows_bucket{member="small",le="1"} 0', 'batch_rows_bucket{member="small",le="2"} 1',
        'batch_rows_sum{member="big"} 1.0', "request_seconds_count 3", "open_requests 0", "waiting_rows 0",
    ):  # fmt: skip
        assert f"\nhf_soups_{line}\n" in text
    shaped = r'(# (HELP|TYPE) .+|hf_soups_\w+(\{(\w+="[^"]*",?)+\})? [-+.\de]+)'
    assert [line for line in text.splitlines() if not re.fullmatch(shaped, line)] == []
    names = re.findall(r"^# TYPE (\S+)", text, flags=re.M)
    assert len(names) == len(set(names))


def test_other_shares_of_exits_than_the_searchs_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(Lengths().served, ServeSettings(watch_rows=100))
    for length in (1, 41, 41):
        run(post(app, ["a" * length] * 40))
        run(post(app, ["a" * length] * 60))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "left small -> big at shares of 100.0%, 0.0%; in the search it was 75.0%, 25.0% of 400 rows" in said[0]
    text = run(get(app, "/metrics")).body.decode()
    assert "\nhf_soups_exit_shares_differ 1\n" in text
    assert 'hf_soups_exit_shares_p_value{plan="small -> big"}' in text


def test_a_defect_is_answered_and_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(Lengths().served)
    monkeypatch.setattr(app.state.service.counters, "batch", lambda *_: 1 / 0)
    monkeypatch.setattr("hf_soups.serving.app.as_json", lambda *_: 1 / 0)
    answer = run(post(app, "a"))
    assert answer.status == 500
    assert "ZeroDivisionError" in answer.error
    monkeypatch.undo()
    assert label(run(post(app, "a"))) == "odd"


@pytest.mark.parametrize("name", ["max_batch", "max_body", "max_inputs", "max_waiting"])
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0; expected 1 or more"):
        ServeSettings(**{name: 0})
    with pytest.raises(InputError, match="wait_ms is nan"):
        ServeSettings(wait_ms=float("nan"))


def test_without_fastapi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from hf_soups.serving.app import require_extra

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else found(name, *a))
    with pytest.raises(MissingExtra, match=r'uvicorn cannot be imported. Run: pip install "hf_soups\[serve\]"'):
        require_extra()
