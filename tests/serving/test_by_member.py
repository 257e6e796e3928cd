"""A service whose members answer apart, without a cluster: as the whole cascade, in batches of each member's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Committee, Rule
from hf_soups.models.answers import Answers
from hf_soups.predictions import Predictions
from hf_soups.serving import ServeSettings, make_app
from hf_soups.serving.batching import Batcher, Worker
from hf_soups.serving.by_member import MemberAnswering, Reached
from hf_soups.serving.served import Served
from tests.makers.patience import PATIENCE
from tests.serving.asgi import get, post
from tests.serving.made import PLANS, Lengths, expected
from tests.serving.test_app import label, run, until

ROWS, CLASSES = 60, 3
MEMBERS, TEMPERATURES = ("small", "middle", "big"), (0.5, 1.0, 2.0)
RULES = [
    Rule(), Rule("geometric", "entropy"), Rule("last", "gap"), Rule("mean", "agreement"),
    Rule("mean", "learned", ((0.1, 1.0, 0.2, 0.0, 0.3, 0.0, 0.0),) * 2),
]  # fmt: skip


def halving(members: Mapping[str, Predictions], rule: Rule) -> tuple[float, ...]:
    """Thresholds in gaps that are wide, at which about half of the rows leave; none where all are equally sure."""
    thresholds, committee = [], Committee(rule)
    for (_, own), temperature in zip(list(members.items())[:-1], TEMPERATURES, strict=False):
        committee = committee.joined(own.at_temperature(temperature).log_probs)
        sure = np.unique(committee.confidence())
        third = len(sure) // 3 if len(sure) > 9 else 0
        gaps = np.diff(sure)[third : len(sure) - third]
        at = third + int(np.argmax(gaps)) if len(gaps) else 0
        thresholds.append(float(sure[at : at + 2].mean()) if len(gaps) else NEVER)
    return tuple(thresholds)


class Apart:
    """`Lengths` in two members: `small` is sure of a text of up to 40 letters, `big` of any."""

    def __init__(self) -> None:
        self.free = {name: threading.Event() for name in ("small", "big")}
        self.batches: dict[str, list[list[str]]] = {"small": [], "big": []}
        for event in self.free.values():
            event.set()

    def answer(self, name: str, values: Sequence[Any], _: float) -> Answers:
        assert self.free[name].wait(PATIENCE)
        texts = [text for text, _ in values]
        self.batches[name].append(texts)
        if any("poison" in text for text in texts):
            raise RuntimeError("index out of range in self")
        odd = np.array([len(text) % 2 for text in texts])
        sure = np.where([name == "big" or len(text) <= 40 for text in texts], 0.9, 0.6)[:, None]
        probs = np.where(np.eye(2)[odd] > 0, sure, 1 - sure)
        return Answers(np.log(probs).astype(np.float32), np.zeros(len(texts), dtype=np.int64), None)

    @property
    def served(self) -> Served:
        def worker(name: str) -> Worker:
            own = MemberAnswering(name, PLANS, lambda *given: self.answer(name, *given), "text", 0)
            return Worker(own)

        return replace(Lengths().served, workers={name: worker(name) for name in self.batches})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.confidence)
@pytest.mark.parametrize("abstain", [None, 0.55])
def test_members_apart_answer_as_the_plan_does(rule: Rule, abstain: float | None) -> None:
    random = np.random.default_rng(0)
    members = {n: Predictions.from_probs(random.dirichlet(np.ones(CLASSES) * 2, ROWS)) for n in MEMBERS}
    plan = Plan(MEMBERS, halving(members, rule), (1.0, 3.0, 9.0), rule, TEMPERATURES, abstain=abstain)
    wanted = plan.apply(members)
    assert wanted.exits is not None
    assert {1, 2} <= set(wanted.exits.tolist())

    def answer(name: str, values: Sequence[Any], temperature: float) -> Answers:
        own = members[name].take([int(v) for v in values]).at_temperature(temperature).log_probs
        return Answers(own, np.zeros(len(values), dtype=np.int64), None)

    known: dict[int, Any] = {row: () for row in range(ROWS)}
    for name in MEMBERS:
        member = MemberAnswering(name, (plan,), lambda *given, name=name: answer(name, *given), "text", 0)
        going = [row for row in known if isinstance(known[row], tuple)]
        for some in np.array_split(random.permutation(going), 4):  # in other batches than those before
            found = member([Reached(int(row), known[row]) for row in some], 0)
            known |= {
                int(row): (*known[row], one) if isinstance(one, np.ndarray) else one
                for row, one in zip(some, found, strict=True)
            }
    assert [known[row].exit for row in range(ROWS)] == wanted.exits.tolist()
    assert [known[row].cost for row in range(ROWS)] == wanted.costs.tolist()
    np.testing.assert_allclose([known[row].scores for row in range(ROWS)], wanted.probs, atol=1e-6)
    if abstain is not None:
        assert [known[row].abstained for row in range(ROWS)] == wanted.abstained.tolist()


def test_rows_that_go_on_are_gathered_again_from_several_batches() -> None:
    model = Apart()
    app = make_app(model.served, ServeSettings(max_batch=8, wait_ms=1000 * PATIENCE))
    texts = ["a" * (1 + i) if i % 4 else "a" * (41 + i) for i in range(32)]  # of each batch of `small` two go on

    async def story() -> list[Any]:
        return await asyncio.gather(*(post(app, text, return_exits=True, top_k=1) for text in texts))

    answers = run(story())
    assert [label(a) for a in answers] == [expected(t) for t in texts]
    assert [a.json[0][0]["exit"] for a in answers] == [0 if i % 4 else 1 for i in range(32)]
    assert [len(batch) for batch in model.batches["small"]] == [8] * 4
    assert [len(batch) for batch in model.batches["big"]] == [8]
    said = run(get(app, "/metrics")).body.decode()
    for line in ('rows_total 32', 'batch_rows_count{member="small"} 4', 'batch_rows_count{member="big"} 1',
                 'exits_total{member="small",stage="0"} 24', 'exits_total{member="big",stage="1"} 8'):  # fmt: skip
        assert f"hf_soups_{line}\n" in said


def test_a_bad_row_costs_its_own_request_alone_at_any_member() -> None:
    model = Apart()
    app = make_app(model.served, ServeSettings(max_batch=4))
    texts = ["a", "poison", "a" * 41, "poison" + "a" * 41]

    async def story() -> list[Any]:
        return await asyncio.gather(*(post(app, text) for text in texts))

    answers = run(story())
    assert [answer.status for answer in answers] == [200, 500, 200, 500]
    assert "the model cannot answer this input (RuntimeError)" in answers[1].error
    assert "hf_soups_rows_failed_total 2\n" in run(get(app, "/metrics")).body.decode()


def test_exits_are_watched_in_the_order_in_which_rows_came() -> None:
    """Else the first windows lack the rows that the large member still has, and shares would seem to differ."""
    model = Apart()
    app = make_app(model.served, ServeSettings(max_batch=10, watch_rows=40))
    service = app.state.service
    texts = ["a" if i % 4 else "a" * 41 for i in range(40)]  # as the search's

    async def story() -> None:
        model.free["big"].clear()
        asked = [asyncio.ensure_future(post(app, text)) for text in texts]
        await until(lambda: service.counters.exits["small", 0] == 30)
        assert service.counters.watches[0].seen.sum() == 0  # the first row has not left
        more = [asyncio.ensure_future(post(app, "a")) for _ in range(10)]
        await until(lambda: service.counters.exits["small", 0] == 40)
        model.free["big"].set()
        await asyncio.gather(*asked, *more)

    run(story())
    watch = service.counters.watches[0]
    assert (watch.tested, watch.warned, watch.p_value) == (1, False, pytest.approx(1.0))
    assert watch.seen.sum() == 10


def test_a_client_that_leaves_costs_the_large_member_nothing() -> None:
    model = Apart()
    app = make_app(model.served)

    async def story() -> None:
        from tests.serving.asgi import call

        model.free["big"].clear()
        first = asyncio.ensure_future(post(app, "a" * 41))  # which `big` has at hand
        await until(lambda: app.state.service.counters.batches["small"].total == 1)
        await until(lambda: not len(app.state.service.batcher))
        leaves = asyncio.Event()
        gone = asyncio.ensure_future(call(app, b'{"inputs": "' + b"b" * 50 + b'"}', leaves=leaves))
        await until(lambda: app.state.service.counters.batches["small"].total == 2)
        leaves.set()
        await gone
        model.free["big"].set()
        await first

    run(story())
    assert model.batches["big"] == [["a" * 41]]


def test_as_many_batches_as_there_are_replicas_are_answered_side_by_side() -> None:
    inside, free = threading.Barrier(2), threading.Event()

    def work(rows: Sequence[str], _: int) -> Sequence[str]:
        inside.wait(PATIENCE)  # for both
        assert free.wait(PATIENCE)
        return rows

    async def story() -> list[str]:
        batcher: Batcher[str, int, str] = Batcher(work, max_batch=2, wait_seconds=0, at_once=2)
        waiting = batcher.put(["a", "b", "c", "d", "e", "f"], 0)
        await until(lambda: len(batcher) == 2)  # the third batch waits for its turn
        free.set()
        inside.abort()
        return [str(await one) for one in waiting[:4]]

    assert run(story()) == ["a", "b", "c", "d"]
