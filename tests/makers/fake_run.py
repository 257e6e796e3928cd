"""Stands for a fine-tune in the tests of the sweep: the same folders and ends, without a model.

    python tests/makers/fake_run.py NAME OUT LOG SECONDS [failed|crash|silent|segfault]

Appends a line to LOG when it starts and when it ends, and holds LOG.NAME.lock as proof that no twin runs beside it.
"""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

from hf_soups.files.writing import written_whole
from hf_soups.finetune.run_record import RUN_FILE, RunRecord, write_run


def main(name: str, out: str, log: str, seconds: str, end: str = "finished") -> int:
    def note(event: str) -> None:
        with Path(log).open("a") as file:
            file.write(f"{event} {name} {os.getpid()}\n")

    alone = Path(f"{log}.{name}.lock").open("w")  # noqa: SIM115 (held until this process is gone)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("TWIN")
    Path(f"{log}.{name}.pid").write_text(str(os.getpid()))
    note("start")
    if end in ("crash", "silent", "segfault"):
        if end == "crash":
            print("the driver went away", flush=True)
        if end == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        return 3
    with written_whole(Path(out), overwrite=True, marker=RUN_FILE) as partial:
        (partial / "half").write_text("half of a model")
        time.sleep(float(seconds))
        if end == "failed":
            (partial / "half").unlink()
            write_run(partial, RunRecord(status="nan-loss", reason="the loss is NaN at step 3"))
        else:
            (partial / "half").rename(partial / "model.safetensors")
            write_run(partial, RunRecord(status="finished"))
    note("end")
    return 1 if end == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
