"""Endpoints in a pool: each row is asked and paid once, whatever happens, and no secret is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.endpoint import ENDPOINT_FILE, HOSTS_VARIABLE, read_endpoint
from hf_soups.pool import predict_pool, read_pool
from tests.endpoints.server import TOKEN, Asked, Said, by_length, endpoint
from tests.makers.patience import PATIENCE
from tests.makers.tiny import tiny_bert, tiny_sentences

ROWS = 60


def name_endpoint(folder: Path, there: Asked, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    about = {"url": there.url, "task": "text-classification", "timeout": 20.0, **values}
    (folder / ENDPOINT_FILE).write_text(json.dumps(about))
    return folder


@pytest.fixture
def there() -> Iterator[Asked]:
    with endpoint(by_length) as asked:
        yield asked


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{text} {i}" for i, text in enumerate(tiny_sentences(ROWS))]
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    from datasets import ClassLabel, Features, Value

    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(ROWS)]}, features=kinds).to_parquet(str(file))
    return file


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert happened()


def everything_written(*folders: Path) -> bytes:
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return b"".join(file.read_bytes() for file in files)


def test_an_endpoint_is_a_member_like_any_other(there: Asked, rows: Path, tmp_path: Path) -> None:
    remote = name_endpoint(tmp_path / "remote", there, cost_per_1000=2.5, unit="cents")
    small = tiny_bert(tmp_path / "small")
    found = predict_pool(
        [small, remote], data=str(rows), out=tmp_path / "pool", assume_label_order=True, progress=False
    )
    assert not found.failed
    answered = read_pool(tmp_path / "pool").predictions["remote"]
    texts = Dataset.from_parquet(str(rows))["text"]
    wanted = [[by_length(text)[name] for name in ("neg", "pos")] for text in texts]
    np.testing.assert_allclose(np.exp(answered.log_probs), wanted, rtol=1e-5)
    member = found.pool.members["remote"]
    assert member.cost("cents").value == pytest.approx(0.0025)
    assert member.macs is None
    assert member.seconds_batch_1 is not None
    assert member.seconds_batch_1 > 0
    assert there.most_asked == 1
    assert not (tmp_path / "pool/.endpoints").exists()


def test_the_same_call_again_and_other_precisions_ask_nothing(there: Asked, rows: Path, tmp_path: Path) -> None:
    remote, out = name_endpoint(tmp_path / "remote", there), tmp_path / "pool"
    predict_pool(remote, data=str(rows), out=out, progress=False)
    name_endpoint(tmp_path / "remote", there, timeout=7.0, cost_per_1000=1.0)  # waits and prices change no answer
    again = predict_pool(remote, data=str(rows), out=out, dtype="bfloat16", batch_size=5, progress=False)
    assert again.kept == ("remote",)
    assert there.requests == ROWS


def test_a_limit_stops_before_it_is_passed_and_the_next_call_goes_on(there: Asked, rows: Path, tmp_path: Path) -> None:
    remote, out = name_endpoint(tmp_path / "remote", there, cost_per_1000=100.0), tmp_path / "pool"
    done = predict_pool(remote, data=str(rows), out=out, spend_limit=2.5, progress=False)
    assert done.exit_status == 1
    assert "limit of 2.5 dollars is reached: 2.5 dollars were spent by this call" in done.failed["remote"]
    assert "25 of 60 rows are there, and kept" in done.failed["remote"]
    assert there.requests == 25
    small = tiny_bert(tmp_path / "small")  # a call that succeeds meanwhile leaves what was paid for
    predict_pool(small, data=str(rows), out=out, assume_label_order=True, progress=False)
    rest = predict_pool(remote, data=str(rows), out=out, batch_size=7, spend_limit=3.5, progress=False)
    assert rest.answered == ("remote",)
    assert there.requests == ROWS
    assert there.most_asked == 1


def test_the_command_takes_the_limit(there: Asked, rows: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hf_soups.cli.app import app

    remote = name_endpoint(tmp_path / "remote", there, cost_per_1000=100.0)
    asked = ["predict", str(remote), "--data", str(rows), "--out", str(tmp_path / "pool"), "--spend-limit", "0.9"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1
    assert "9 of 60 rows are there, and kept. Raise --spend-limit to go on" in " ".join(done.output.split())
    assert there.requests == 9


def test_answers_that_were_paid_are_kept_when_the_map_of_labels_was_wrong(rows: Path, tmp_path: Path) -> None:
    with endpoint(lambda text: {"LABEL_0": 0.3, "LABEL_1": 0.7}) as there:
        remote, out = name_endpoint(tmp_path / "remote", there), tmp_path / "pool"
        failed = predict_pool(remote, data=str(rows), out=out, progress=False).failed
        assert "say so in endpoint.json" in failed["remote"]
        name_endpoint(remote, there, labels={"LABEL_0": "neg", "LABEL_1": "pos"})
        assert not predict_pool(remote, data=str(rows), out=out, progress=False).failed
        assert there.requests == ROWS
        assert there.most_asked == 1


def test_a_failure_in_the_middle_leaves_what_was_answered(there: Asked, rows: Path, tmp_path: Path) -> None:
    remote, out = name_endpoint(tmp_path / "remote", there, attempts=1, concurrency=1), tmp_path / "pool"

    def scores(text: str) -> dict[str, float]:
        if len(there.rows) == 20:
            there.always = Said(500, b"out of order")
        return by_length(text)

    there.scores = scores
    failed = predict_pool(remote, data=str(rows), out=out, progress=False).failed
    assert "no answer after 1 of 1 tries; at the last it answered 500 (out of order)" in failed["remote"]
    there.always, there.scores = None, by_length
    assert not predict_pool(remote, data=str(rows), out=out, progress=False).failed
    assert len(there.rows) == ROWS
    assert there.most_asked == 1


def test_a_line_that_a_kill_cut_off_is_asked_again_alone(there: Asked, rows: Path, tmp_path: Path) -> None:
    remote, out = name_endpoint(tmp_path / "remote", there, cost_per_1000=100.0), tmp_path / "pool"
    predict_pool(remote, data=str(rows), out=out, spend_limit=1.0, progress=False)
    (kept,) = (out / ".endpoints").glob("*.jsonl")
    kept.write_bytes(kept.read_bytes()[:-20])
    assert not predict_pool(remote, data=str(rows), out=out, progress=False).failed
    assert there.requests == ROWS + 1


@pytest.mark.slow
def test_a_killed_call_loses_what_is_in_flight_alone(there: Asked, rows: Path, tmp_path: Path) -> None:
    remote, out = name_endpoint(tmp_path / "remote", there, concurrency=3), tmp_path / "pool"
    there.hold_after = 20
    command = [sys.executable, "-m", "hf_soups.cli", "predict", str(remote), "--data", str(rows), "--out", str(out)]
    env = {**os.environ, "HF_HUB_OFFLINE": "0", HOSTS_VARIABLE: "127.0.0.1"}
    killed = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(lambda: there.requests == 23)  # 20 are answered, three in flight
    kept = next((out / ".endpoints").glob("*.jsonl"))
    until(lambda: len(kept.read_bytes().splitlines()) == 20)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=PATIENCE)
    before = list(there.rows)
    there.hold_after = None
    done = subprocess.run(command, env=env, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert there.requests == 23 + ROWS - 20
    assert not set(before) & set(there.rows[len(before) :])
    assert f"Bearer {TOKEN}" in there.tokens
    assert TOKEN.encode() not in everything_written(tmp_path) + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://me:secret@host.example/x", r"at host\.example has a user name or a password"),
        ("https://host.example/x?token=secret", r"at host\.example has a query"),
        ("https://host.example/x#secret", r"at host\.example has a query"),
        (f"https://host.example/{TOKEN}-secret", r"a token"),
        ("ftp://secret.example", r"no address; expected https"),
        ("https://", r"no address that can be asked"),
        (7, r"no address; expected https"),
    ],
)
def test_an_address_that_could_hold_a_secret_is_refused_and_not_shown(tmp_path: Path, url: object, why: str) -> None:
    (tmp_path / ENDPOINT_FILE).write_text(json.dumps({"url": url, "task": "text-classification"}))
    with pytest.raises(CheckpointError, match=why) as raised:
        read_endpoint(tmp_path)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    if isinstance(url, str) and url.startswith("https"):
        with pytest.raises(InputError) as named:
            predict_pool(f"big={url}", data="rows.csv", out=tmp_path / "pool")
        assert "secret" not in str(named.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"token": "abc"}, r"'token' is no key of it.*HF_TOKEN"),
        ({"labels": {"a": TOKEN}}, "a token is in it. Remove it"),
        ({"task": "translation"}, "not valid as an endpoint: task"),
        ({"timeout": 0}, "timeout is 0.0; expected a number above 0"),
        ({"attempts": 1000}, "attempts is 1000; expected a number above 0, 20 at most"),
        ({"cost_per_1000": -1}, "cost_per_1000 is -1"),
        ({"unit": "seconds"}, "unit is 'seconds'; expected a word of your own"),
        ({"labels": {"a": "neg", "b": "neg"}}, "labels gives two names to one class"),
    ],
)
def test_a_file_that_cannot_be_used_is_said(there: Asked, tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    name_endpoint(tmp_path, there, **changes)
    with pytest.raises(CheckpointError, match=why) as raised:
        read_endpoint(tmp_path)
    assert TOKEN not in str(raised.value)


def test_an_address_alone_is_answered_by_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'a file endpoint\.json in it, such as \{"url": "https://host\.example/m"'):
        predict_pool("https://host.example/m", data="rows.csv", out=tmp_path / "pool")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"spend_limit": 1.0}, "what remote costs is not known"),
        ({"spend_limit": 1.0, "models": "small"}, "none of the models is one"),
        ({"spend_limit": -1.0}, "expected a number of 0 or more"),
    ],
)
def test_a_limit_needs_a_cost(there: Asked, rows: Path, tmp_path: Path, how: dict[str, Any], why: str) -> None:
    remote, small = name_endpoint(tmp_path / "remote", there), tiny_bert(tmp_path / "small")
    models = small if how.pop("models", "") else remote
    with pytest.raises(InputError, match=why):
        predict_pool(models, data=str(rows), out=tmp_path / "pool", progress=False, **how)


def test_an_endpoint_cannot_be_mixed_and_is_no_cascade(there: Asked, tmp_path: Path) -> None:
    from hf_soups.checkpoint import Checkpoint
    from hf_soups.pool.entries import kind_of_head, names_a_cascade

    remote = name_endpoint(tmp_path / "remote", there)
    assert not names_a_cascade([remote])
    with pytest.raises(CheckpointError, match="an endpoint, which has no weights here"):
        _ = Checkpoint(remote).tensors
    with pytest.raises(InputError, match="an endpoint answers rows into a pool"):
        kind_of_head(Checkpoint(remote))
