"""Signals end a program in one line, whenever they come, and nothing half-written or running is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.ending.commands import Place
from tests.makers.patience import PATIENCE
from tests.makers.processes import gone

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "ended by SIGHUP"}
PROGRAM = """
import os, sys, time, subprocess, threading
from pathlib import Path
from hf_soups.ending import end_in_one_line, removed_at_end
end_in_one_line("program", "do it again")
{work}
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def program(work: str, *arguments: object, **how: object) -> subprocess.Popen[str]:
    """A program that does something, and then waits for its signal."""
    about: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    command = [sys.executable, "-c", PROGRAM.format(work=work), *map(str, arguments)]
    process = subprocess.Popen(command, **about)  # type: ignore[call-overload]
    assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.parametrize("number", list(STATUS), ids=lambda n: n.name)
def test_one_line_and_the_status_that_a_shell_gives(number: signal.Signals) -> None:
    assert ended(program(""), number) == (STATUS[number], f"program: {SAID[number]}; do it again.\n")


@pytest.mark.parametrize(
    "work",
    [
        "threading.Thread(target=time.sleep, args=(1000,)).start()",
        "import atexit; atexit.register(time.sleep, 1000)",
        "from concurrent.futures import ThreadPoolExecutor; ThreadPoolExecutor(2).map(time.sleep, [1000] * 4)",
        "class Held:\n    def __del__(self): print('ready', flush=True); time.sleep(1000)\nheld = Held()\ndel held",
        "try:\n    print('ready', flush=True)\n    time.sleep(1000)\nexcept BaseException: raise ImportError",
    ],
    ids=["a thread", "an exit function", "a pool of threads", "a destructor", "something that catches everything"],
)
def test_nothing_that_runs_holds_it_up(work: str) -> None:
    assert ended(program(work), signal.SIGINT) == (130, "program: interrupted; do it again.\n")


def test_a_program_that_runs_until_it_is_ended_promises_its_own() -> None:
    work = "from hf_soups.ending import promise; promise('the page is closed')"
    assert ended(program(work), signal.SIGINT) == (130, "program: interrupted; the page is closed.\n")


def test_what_is_half_written_goes_though_a_thread_writes_on(tmp_path: Path) -> None:
    work = """
from hf_soups.files.writing import written_whole, write_file
def write(partial):
    partial.write_text("half"); ready.wait()
def files():
    with written_whole(Path(sys.argv[1], "folder"), marker="x") as partial:
        for i in range(10**9):
            try: (partial / f"{i % 50}").write_text("half")
            except OSError: pass
ready = threading.Event()
for work in (files, lambda: write_file(Path(sys.argv[1], "file"), write)):
    threading.Thread(target=work, daemon=True).start()
while len(os.listdir(sys.argv[1])) < 2: time.sleep(0.01)
"""
    process = program(work, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert ended(process, signal.SIGTERM)[0] == 143
    assert list(tmp_path.iterdir()) == []


ELSEWHERE = """
from hf_soups.ending import called_at_end
def end():
    Path(sys.argv[1]).touch()
    time.sleep({seconds})
    print("ended elsewhere", flush=True)
block = called_at_end(end)
block.__enter__()
"""


def test_what_is_elsewhere_is_ended_first(tmp_path: Path) -> None:
    process = program(ELSEWHERE.format(seconds=0.1), tmp_path / "asked")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE) == ("ended elsewhere\n", "program: ended by SIGTERM; do it again.\n")
    assert process.returncode == 143


def test_a_second_signal_does_not_wait_for_what_is_elsewhere(tmp_path: Path) -> None:
    process = program(ELSEWHERE.format(seconds=PATIENCE), tmp_path / "asked")
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "asked").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE) == ("", "program: interrupted; do it again.\n")
    assert process.returncode == 130


def test_what_is_elsewhere_is_ended_when_its_block_is_left() -> None:
    from hf_soups.ending import called_at_end

    said: list[str] = []
    with pytest.raises(KeyError), called_at_end(lambda: said.append("ended")):
        raise KeyError
    assert said == ["ended"]


def test_children_are_asked_and_then_killed_and_so_are_their_groups(tmp_path: Path) -> None:
    """One listens; another one, which leads a group, is deaf and has a child of its own."""
    work = """
notes = "import os, subprocess, sys, time; note = open(sys.argv[1], 'w'); "
listens = notes + "note.write(str(os.getpid())); note.close(); time.sleep(1000)"
deaf = (
    notes + "import signal; signal.signal(15, signal.SIG_IGN); child = subprocess.Popen(['sleep', '1000']); "
    "note.write(str(os.getpid()) + ' ' + str(child.pid)); note.close(); time.sleep(1000)"
)
subprocess.Popen([sys.executable, "-c", listens, sys.argv[1] + "/a"])
subprocess.Popen([sys.executable, "-c", deaf, sys.argv[1] + "/b"], start_new_session=True)
def noted():
    texts = [path.read_text() for path in Path(sys.argv[1]).iterdir()]
    return len(texts) == 2 and all(texts)
while not noted(): time.sleep(0.01)
from hf_soups import ending
ending.GRACE_SECONDS = 0.5
"""
    process = program(work, tmp_path)
    pids = [int(pid) for path in tmp_path.iterdir() for pid in path.read_text().split()]
    assert len(pids) == 3
    assert ended(process, signal.SIGINT)[0] == 130
    assert gone(*pids)


def test_a_second_signal_ends_it_at_once() -> None:
    work = (
        "deaf = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(0, flush=True); time.sleep(1000)'\n"
        "child = subprocess.Popen([sys.executable, '-c', deaf], stdout=subprocess.PIPE); child.stdout.readline()\n"
        "from hf_soups import ending\nending.GRACE_SECONDS = 1000"
    )
    process = program(work)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "program: interrupted; do it again.\n"
    assert ended(process, signal.SIGINT) == (130, "")


def test_a_forked_process_leaves_without_a_word_and_without_touching_its_parents_files(tmp_path: Path) -> None:
    work = """
with removed_at_end(Path(sys.argv[1])):
    there, here = os.pipe()
    child = os.fork()
    if child == 0: os.write(here, b".")
    while child == 0: time.sleep(0.01)
    os.read(there, 1)  # a signal that comes while it is being made is Python's to lose
    os.kill(child, 2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    Path(sys.argv[2]).write_text(f"{status} {Path(sys.argv[1]).exists()}")
"""
    (tmp_path / "half").write_text("")
    process = program(work, tmp_path / "half", tmp_path / "told")
    assert (tmp_path / "told").read_text() == "130 True"
    assert ended(process, signal.SIGINT)[1].count("interrupted") == 1


def test_signals_that_are_ignored_stay_so() -> None:
    process = program("", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert ended(process, signal.SIGTERM) == (143, "program: ended by SIGTERM; do it again.\n")


def test_in_a_run_of_several_processes_one_speaks() -> None:
    assert ended(program("", env={**os.environ, "RANK": "1"}), signal.SIGTERM) == (143, "")


def test_importing_the_package_leaves_signals_alone() -> None:
    code = "import signal, hf_soups; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    for command in (["-c", code], ["-m", "timeit", "-n1", "-r1", code]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("True")


def test_without_proc_children_are_found_by_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_soups import ending

    with subprocess.Popen(["sleep", "1000"]) as child:
        found = ending._children_by_ps()
        assert (child.pid, os.getpgid(0)) in found
        assert (child.pid, os.getpgid(0)) in ending._children()
        child.kill()


# Whole commands, stopped at seeded moments. Python shows its own words until it has read the package.
EARLY = 0.4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("stopped").resolve())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "cook", "search", "report", "leaderboard", "sweep", "finetune"])
def test_whole_commands_stopped_at_any_moment(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    dice, counts = random.Random(name), Counter[str]()
    began = time.monotonic()
    whole = place.run(place.command(name))
    seconds = time.monotonic() - began
    for _ in range(3):
        number, after = dice.choice(list(STATUS)), dice.uniform(EARLY, max(EARLY, seconds))
        told = place.stopped(name, number, after)
        where = f"{name}: {number.name} after {after:.2f} of {seconds:.1f} s: {told}"
        assert told.left == (), where
        if told.status in (whole.returncode, -number):  # it had ended, or Python was clearing up
            counts["ended before"] += 1
            assert told.stderr == whole.stderr, where
            continue
        counts[number.name] += 1
        assert told.status == STATUS[number], where
        assert told.stderr.count("\n") == 1, where
        assert f": {SAID[number]}; " in told.stderr, where
    with capsys.disabled():
        print(f"\n{name}: {dict(counts)}")
