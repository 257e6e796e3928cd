"""What config.json of a cascade may say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_soups.cascades.plan import Plan, plan_of, plan_values
from hf_soups.cascades.rule import Rule
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAN = Plan(
    ("small", "big"), (0.75,), (1.0, 5.0), Rule("geometric", "gap"), (1.5, 0.1), score=0.8, score_low=0.7,
    average_cost=2.5, exit_shares=(0.7, 0.3), unit="seconds", hardware="a CPU", rows=100,
)  # fmt: skip
MEMBERS = [
    {"name": "small", "subfolder": "member_0", "image_size": 160, "dtype": "bfloat16", "label_order": [1, 0]},
    {"name": "big", "repo": "org/big", "revision": COMMIT},
]


def config(**changes: Any) -> CascadeConfig:
    about = {"kind": "image", "members": MEMBERS, "plan": plan_values(PLAN), "id2label": {0: "no", 1: "yes"}}
    return CascadeConfig(**{**about, **changes})


def test_saving_then_loading_is_the_identity(tmp_path: Path) -> None:
    from transformers import AutoConfig

    written = config(frontier=[plan_values(Plan(("small",), (), (1.0,)))], max_length=64)
    written.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert type(read) is CascadeConfig
    assert read.built == PLAN
    assert read.plans[0] == PLAN
    assert read.plans[1].members == ("small",)
    assert read.places == written.places
    assert read.places[0].label_order == (1, 0)
    assert read.label_names == ("no", "yes")
    assert read.label2id == {"no": 0, "yes": 1}


def test_a_plan_that_is_stored_as_built_and_in_the_frontier_counts_once() -> None:
    alone = Plan(("small",), (), (1.0,))
    known = config(frontier=[plan_values(alone), plan_values(replace(PLAN, score_low=None)), plan_values(alone)])
    assert known.plans == (alone, PLAN)  # with the lower bound, which the frontier does not know
    assert config(frontier=[plan_values(alone)]).plans == (PLAN, alone)
    assert config().plans == (PLAN,)


def test_what_is_not_known_of_a_plan_is_left_out() -> None:
    assert set(plan_values(Plan(("a",), (), (1.0,)))) & {"score", "average_cost", "score_low"} == set()
    assert plan_of({**plan_values(PLAN), "of a later version": 1}) == PLAN


@pytest.mark.parametrize("subfolder", ["../x", "/etc", "a/b", "..", ".", "", "x/..", "~", ".git", "a\\b/../c"])
def test_a_member_outside_the_folder_is_refused(subfolder: str) -> None:
    with pytest.raises(InputError, match="Nothing outside is read"):
        config(members=[{"name": "small", "subfolder": subfolder}, MEMBERS[1]])


@pytest.mark.parametrize("repo", ["../big", "/home/big", "a/b/c", "org/../big", "https://x.org/big"])
def test_a_reference_that_is_no_repo_is_refused(repo: str) -> None:
    with pytest.raises(InputError, match="no id of a Hub repo"):
        config(members=[MEMBERS[0], {"name": "big", "repo": repo, "revision": COMMIT}])


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:-1], COMMIT + "0"])
def test_a_reference_that_is_not_pinned_is_refused(revision: str | None) -> None:
    with pytest.raises(InputError, match="expected a commit"):
        config(members=[MEMBERS[0], {"name": "big", "repo": "org/big", "revision": revision}])


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
def test_a_config_that_names_code_is_refused(tmp_path: Path, key: str) -> None:
    from transformers import AutoConfig

    config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, key: {"AutoConfig": "evil.Config"}}))
    with pytest.raises(InputError, match=f"{key}.*names code to run"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "sound"}, "expected one of image, text, text-pair"),
        ({"members": [MEMBERS[0], {**MEMBERS[1], "name": "small"}]}, "one name stands there twice"),
        ({"members": [MEMBERS[0]]}, "a plan of the cascade uses big, but its members are small"),
        ({"members": [{**MEMBERS[0], "label_order": [0]}, MEMBERS[1]]}, "gives 1 labels, the cascade has 2"),
        ({"id2label": "cat"}, "not valid as a cascade: id2label: "),
        ({"frontier": 7}, "not valid as a cascade: frontier: "),
        ({"members": [{**MEMBERS[0], "dtype": "int8"}, MEMBERS[1]]}, "to answer in 'int8'"),
        ({"members": [{**MEMBERS[0], "image_size": 0}, MEMBERS[1]]}, "images of 0 pixels"),
        ({"members": ["small", MEMBERS[1]]}, "not valid as a member: Input should be an object"),
        ({"plan": {"members": ["small", "big"]}}, "not valid as a plan: thresholds: Field required"),
        ({"plan": {**plan_values(PLAN), "thresholds": [3]}}, "the threshold of stage 0 is 3"),
        ({"plan": {**plan_values(PLAN), "thresholds": []}}, "0 thresholds for 2 members"),
        (
            {"plan": {**plan_values(PLAN), "rule": {"combine": "vote"}}},
            "rule.combine: Input should be 'mean', 'geometric' or 'last'",
        ),
        ({"frontier": [plan_values(Plan(("other",), (), (1.0,)))]}, "a plan of the cascade uses other"),
        (
            {"members": [{**MEMBERS[0], "label_order": [1, 1]}, MEMBERS[1]]},
            r"order \[1, 1\]; expected different",
        ),
        ({"members": [{**MEMBERS[0], "label_order": [0, -1]}, MEMBERS[1]]}, r"order \[0, -1\]; expected different"),
        (
            {"members": [{**MEMBERS[0], "label_order": [True, 0]}, MEMBERS[1]]},
            "label_order.0: Input should be a val",
        ),
        ({"members": [{**MEMBERS[0], "image_size": "big"}, MEMBERS[1]]}, "image_size: Input should be a valid integer"),
        ({"plan": {**plan_values(PLAN), "costs": [-1.0, 5.0]}}, "costs are .*expected numbers of 0 or more"),
        ({"plan": {**plan_values(PLAN), "costs": [1.0, "5"]}}, "costs.1: Input should be a valid number"),
        ({"plan": {**plan_values(PLAN), "exit_shares": [0.9, 0.9]}}, "exit shares are .*with a sum of 1"),
        ({"plan": {**plan_values(PLAN), "temperatures": [1.0, 0.0]}}, "expected numbers above 0"),
        ({"plan": {**plan_values(PLAN), "thresholds": [True]}}, "thresholds.0: Input should be a valid number"),
        ({"id2label": {0: "no", 2: "yes"}}, "id2label is not numbered 0, 1, 2"),
        ({"max_length": 0}, "cuts texts after 0 tokens"),
    ],
)
def test_an_inconsistent_config_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        config(**changes)


SEEN = """
from hf_soups.cascades.plan import plan_of, plan_values
from hf_soups.cascades.running.config import CascadeConfig
assert type(AutoConfig.for_model("cascade")) is CascadeConfig
assert CascadeConfig in AutoModelForImageClassification._model_mapping
assert CascadeConfig in AutoModelForSequenceClassification._model_mapping
"""
NAMES = "from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import hf_soups\n" + NAMES,
        NAMES + "import hf_soups\n",
        "import transformers, hf_soups\n" + NAMES,
        "from transformers import AutoConfig\nimport hf_soups\n" + NAMES,
        "from hf_soups.cascades.running.config import CascadeConfig\n" + NAMES,
        "from hf_soups.cascades.running.model import CascadeForImageClassification\n" + NAMES,
        "import hf_soups.cascades.pipelines, hf_soups.cascades.pipelines\n" + NAMES,
    ],
)
def test_cascades_are_registered_in_either_order_of_imports(first: str) -> None:
    subprocess.run([sys.executable, "-c", first + SEEN], check=True)


def test_registration_leaves_other_imports_alone() -> None:
    code = (
        "import hf_soups, sys, importlib.util\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'import hf_soups is light'\n"
        "assert importlib.util.find_spec('json').loader is not None\n"
        "from hf_soups.registration import register_with_transformers\n"
        "n = len(sys.meta_path); register_with_transformers(); assert len(sys.meta_path) == n\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
