"""`hf-soups cook` by a launcher: several processes learn one soup, and one of them cooks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_soups.cooking import Options, cook
from tests.makers.patience import PATIENCE
from tests.makers.pile import make_sweep


@pytest.mark.slow
def test_two_processes_write_the_learned_soup_of_one_once(tmp_path: Path) -> None:
    make_sweep(tmp_path, models=3)
    alone = cook([tmp_path / "sweep"], "learned", tmp_path / "alone", options=Options(epochs=2), tell=None).soups[0]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--standalone",
        "-m",
        "hf_soups.cli",
    ]
    words = ["cook", "sweep", "--method", "learned", "--epochs", "2", "--out", "together"]
    done = subprocess.run(
        [*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learned soup of ") == 1  # one process speaks
    found = json.loads((tmp_path / "together/learned/soup.json").read_text())
    own = [one["coefficient"] for one in found["ingredients"]]
    np.testing.assert_allclose(own, [one.coefficient for one in alone.record.ingredients], atol=1e-5)
    assert sorted(p.name for p in (tmp_path / "together").iterdir() if p.name.startswith(".")) == []
