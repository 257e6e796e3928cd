"""The layout's direction: a module imports only from its own level's package or from levels below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hf_soups"

# Bottom to top; docs/decisions/0001-levels.md says why.
LEVELS = (
    ("ending", "errors", "limits", "user_code", "files"),
    ("weights", "checkpoint", "predictions", "topk", "tasks", "prompts", "recipe", "recipe_kept", "run_folder"),
    ("mixing", "tensor_names", "compatibility", "metrics", "evaluate_metrics", "data", "augment", "costs", "families"),
    ("predict", "start", "soups", "ensembles", "adapters", "calibration"),
    ("finetune", "sweep"),
    ("pool", "cascades", "pipelines", "batch"),
    (
        "cook",
        "inspection",
        "contenders",
        "leaderboard",
        "report",
        "diagnosis",
        "answer",
        "compare",
        "from_pool",
        "demo",
        "hub",
    ),
    ("quickstart", "doctor"),
    ("cli", "__init__"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
LIGHT = (
    "hf_soups",
    "hf_soups.cli",
    "hf_soups.recipe.recipe",
    "hf_soups.predictions.predictions",
    "hf_soups.checkpoint",
    "hf_soups.soups.mixing",
    "hf_soups.soups.compatibility",
    "hf_soups.metrics",
    "hf_soups.sweep.plan",
    "hf_soups.leaderboard.board",
    "hf_soups.soups",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def home(path: Path) -> str:
    """The level's name of a file: its module, or its sub-package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """Modules of the package that this file imports, type-checking imports left out."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hf_soups.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "hf_soups":
            found |= {a.name for a in node.names if a.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_soups."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative imports hide the direction")
    return found


def test_every_module_has_a_level() -> None:
    assert sorted({home(path) for path in modules()} - set(LEVEL)) == []


def test_no_level_names_a_module_that_is_gone() -> None:
    assert sorted(set(LEVEL) - {home(path) for path in modules()}) == []


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    upward = {name for name in imported(path) - {home(path)} if LEVEL[name] > LEVEL[home(path)]}
    assert not upward, f"{path.name} (level {LEVEL[home(path)]}) imports from above: {sorted(upward)}"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "datasets", "evaluate", "sklearn", "matplotlib", "pandas", "accelerate")
    code = f"import {module}, sys; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("one", "other"), [("searching", "running"), ("running", "searching")])
def test_searching_cascades_and_running_them_do_not_know_each_other(one: str, other: str) -> None:
    for path in sorted((PACKAGE / "cascades" / one).glob("*.py")):
        assert f"cascades.{other}" not in path.read_text(), f"{path.name} imports from {other}"
