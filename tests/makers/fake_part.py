"""Stands for one process of a fine-tune on several machines; the launcher starts one on each.

    python tests/makers/fake_part.py OUT LOG GO [failed]

Rank 0 waits for the file GO and writes the folder OUT, or, once rank 1 of its attempt is gone, a failure as a fine-tune
does that has lost a process. Rank 1 waits for the folder; `failed`: it fails by itself, and rank 0 waits to be ended.
"""

import json
import os
import sys
import time
from pathlib import Path

from hf_soups.files.writing import written_whole
from hf_soups.finetune.run_record import RUN_FILE, RunRecord, write_run
from tests.makers.processes import alive

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def main(out: str, log: str, go: str, end: str = "finished") -> int:
    rank, port = os.environ["RANK"], os.environ["MASTER_PORT"]  # a port an attempt
    mine = Path(f"{log}.{port}.{rank}.json")
    mine.with_suffix(".half").write_text(json.dumps({"pid": os.getpid(), **{k: os.environ[k] for k in PLACE}}))
    mine.with_suffix(".half").rename(mine)
    other = Path(f"{log}.{port}.{1 - int(rank)}.json")
    while not other.exists():
        time.sleep(0.02)
    pid = json.loads(other.read_text())["pid"]
    if rank == "1":
        if end == "failed":
            print("the disk of this machine is full", flush=True)
            return 3
        while not Path(out).exists() and alive(pid):
            time.sleep(0.02)
        return int(not Path(out).exists())
    while not Path(go).exists() and (alive(pid) or end == "failed"):
        time.sleep(0.02)
    record = RunRecord(status="finished")
    if not Path(go).exists():
        record = RunRecord(status="error", reason="another process of this run ended")
    with written_whole(Path(out), overwrite=True, marker=RUN_FILE) as partial:
        write_run(partial, record)
    return int(record.status != "finished")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
