"""Inspection: each thing that does not match is found, told and counted; nothing is an abort; labels are aligned."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.inspection import ComparedCheckpoint, Inspection, inspect_checkpoints, save_json, write_aligned
from hf_soups.inspection.table import COLUMNS, InspectionTable, fitting
from hf_soups.predictions import Predictions
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.mixing import mix_to_folder
from tests.makers.folders import CONFIG, folder_of
from tests.makers.patience import PATIENCE
from tests.makers.pile import make_sweep, near, plain_answers
from tests.makers.tiny import tiny_bert, tiny_sentences, tiny_vit

NAMES = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}


@pytest.fixture
def pile(tmp_path: Path) -> list[Path]:
    """A start and three checkpoints near it."""
    start = tiny_bert(tmp_path / "start", **NAMES)
    return [start, *(near(start, tmp_path / f"m{i}", seed=i) for i in range(3))]


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    changed = change(tensors)
    kept = changed if isinstance(changed, dict) else tensors
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shown(found: Inspection, width: int = 140) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(InspectionTable(found))
    return capture.get()


def unfolded(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def only_error(found: Inspection, topic: str) -> str:
    assert [finding.topic for finding in found.errors] == [topic]
    return found.errors[0].message


# What matches


def test_checkpoints_of_one_start_can_be_mixed(pile: list[Path]) -> None:
    found = inspect_checkpoints(pile[1:], start=pile[0])
    assert found.mixable
    assert found.verdict == "can be mixed: 3 checkpoints"
    assert (found.findings, found.notes, found.permutations) == ((), (), {})
    for row in found.rows:
        assert (row.missing, row.extra, row.other_shapes, row.other_dtypes) == ((), (), (), ())
        assert (row.tied, row.labels, row.processor, row.finite, row.one_class) == ("none", "same", "same", True, None)
        assert (row.dtypes, row.head) == (("F32",), "not recorded")


def test_distances_and_angles_are_those_of_dense_vectors(pile: list[Path]) -> None:
    def flat(folder: Path) -> np.ndarray:
        weights = load_file(folder / "model.safetensors")
        return np.concatenate([weights[name].double().numpy().ravel() for name in sorted(weights)])

    start, *offsets = (flat(folder) - flat(pile[0]) for folder in pile)
    assert not start.any()
    lengths = [float(np.linalg.norm(o)) for o in offsets]
    found = inspect_checkpoints(pile[1:], start=pile[0])
    assert [row.from_start for row in found.rows] == pytest.approx(lengths, rel=1e-5)
    assert [(p.a, p.b) for p in found.pairs] == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    for pair, (i, j) in zip(found.pairs, ((0, 1), (0, 2), (1, 2)), strict=True):
        cosine = offsets[i] @ offsets[j] / lengths[i] / lengths[j]
        assert pair.distance == pytest.approx(float(np.linalg.norm(offsets[i] - offsets[j])), rel=1e-5)
        assert pair.angle == pytest.approx(float(np.degrees(np.arccos(cosine))), abs=1e-3)
    assert [row.angle for row in found.rows] == [None, found.pairs[0].angle, found.pairs[1].angle]


def test_without_a_start_distances_between_them_are_known_and_angles_are_not(pile: list[Path]) -> None:
    known, unknown = inspect_checkpoints(pile[1:], start=pile[0]), inspect_checkpoints(pile[1:])
    assert [p.distance for p in unknown.pairs] == pytest.approx([p.distance for p in known.pairs], rel=1e-4)
    assert {p.angle for p in unknown.pairs} == {row.from_start for row in unknown.rows} == {None}
    assert "No start is known" in " ".join(unknown.notes)


def test_the_order_in_which_tensors_are_stored_does_not_matter(tmp_path: Path) -> None:
    tensors = {name: torch.randn(3, 2) for name in ("a", "b", "c")}
    one = folder_of(tmp_path / "one", tensors)
    two = folder_of(tmp_path / "two", {name: t + 1 for name, t in tensors.items()})
    turned = shutil.copytree(two, tmp_path / "turned")
    rewrite_in_order(turned / "model.safetensors", ["c", "a", "b"])
    assert list(Checkpoint(turned).tensors) != list(Checkpoint(two).tensors)
    found = inspect_checkpoints([one, turned])
    assert found.mixable
    assert found.findings == ()
    for folder in (two, turned):
        mix_to_folder([Checkpoint(one), Checkpoint(folder)], (0.25, 0.75), tmp_path / f"soup of {folder.name}")
    soups = [(tmp_path / f"soup of {name}" / "model.safetensors").read_bytes() for name in ("two", "turned")]
    assert soups[0] == soups[1]


def rewrite_in_order(path: Path, order: Sequence[str]) -> None:
    """The same float32 tensors, stored one after another in this order."""
    weights, at, header = load_file(path), 0, {}
    for name in order:
        end = at + 4 * weights[name].numel()
        header[name] = {"dtype": "F32", "shape": list(weights[name].shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    data = b"".join(weights[name].numpy().tobytes() for name in order)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# What does not match


def test_other_names_shapes_and_dtypes_are_counted(pile: list[Path]) -> None:
    def fewer(t: dict[str, torch.Tensor]) -> None:
        del t["bert.pooler.dense.weight"]
        t["bert.more"] = torch.randn(7)

    edit_weights(pile[2], fewer)
    edit_weights(
        pile[3], lambda t: t.update({"classifier.weight": torch.randn(3, 32), "classifier.bias": torch.ones(3)})
    )
    narrow = shutil.copytree(pile[1], pile[1].with_name("narrow"))
    edit_weights(narrow, lambda t: {name: x.bfloat16() for name, x in t.items()})
    found = inspect_checkpoints([*pile[1:], narrow], start=pile[0])
    first, names, shapes, dtypes = found.rows
    assert (names.missing, names.extra) == (("bert.pooler.dense.weight",), ("bert.more",))
    assert set(shapes.other_shapes) == {"classifier.weight", "classifier.bias"}
    assert dtypes.dtypes == ("BF16",)
    assert len(dtypes.other_dtypes) == first.tensors
    assert found.verdict == "cannot: m1 (tensors); m2 (tensors)"
    assert {names.from_start, shapes.from_start} == {None}
    assert [(p.a, p.b) for p in found.pairs] == [("m0", "narrow")]


@pytest.mark.parametrize("first", [True, False])
def test_a_prefix_is_named_with_what_to_do(first: bool, pile: list[Path]) -> None:
    edit_weights(pile[1 if first else 2], lambda t: {f"model.{name}": x for name, x in t.items()})
    said = only_error(inspect_checkpoints(pile[1:3]), "tensors")
    count = len(load_file(pile[1] / "model.safetensors"))
    assert f"{count} of its {count} tensor names begin with 'model.' ('model.bert.embeddings" in said
    assert "was saved from the model below the head: load it as BertForSequenceClassification" in said


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("module.", "DataParallel or DistributedDataParallel puts there; from_pretrained() finds no weights"),
        ("_orig_mod.", "torch.compile puts there; from_pretrained() finds no weights"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_wrapper_that_one_was_saved_with_is_a_warning(first: bool, prefix: str, told: str, pile: list[Path]) -> None:
    edit_weights(pile[1 if first else 2], lambda t: {prefix + name: x for name, x in t.items()})
    found = inspect_checkpoints(pile[1:3])
    assert found.mixable
    (said,) = [f.message for f in found.warnings if f.topic == "tensors"]
    assert told in said
    assert "Save the model inside it again" in said


def test_a_checkpoint_of_the_bare_encoder_is_told_as_such(pile: list[Path]) -> None:
    bare = lambda t: {n.removeprefix("bert."): x for n, x in t.items() if n.startswith("bert.")}  # noqa: E731
    edit_weights(pile[2], bare)
    found = inspect_checkpoints(pile[1:3])
    said = only_error(found, "tensors")
    assert "begin with 'bert.' ('bert.embeddings" in said
    assert "If it has no fine-tuned head, it can be the start of ingredients, but is none." in said
    assert "classifier.weight" in found.rows[1].missing


def test_a_wrapper_that_all_were_saved_with_is_a_warning(pile: list[Path]) -> None:
    for folder in pile[1:3]:
        edit_weights(folder, lambda t: {f"module.{name}": x for name, x in t.items()})
    found = inspect_checkpoints(pile[1:3])
    assert found.mixable
    assert [f.topic for f in found.warnings] == ["tensors", "tensors"]
    assert "from_pretrained() finds no weights under such names" in found.warnings[0].message


def tied(path: Path, kept: str, alias: str | None, *, both: str = "") -> Path:
    """A folder of two tied tensors: one stored, or `both` "equal" or "different"."""
    weight = torch.arange(6.0).reshape(2, 3)
    tensors = {kept: weight, "x": torch.randn(4)}
    if both:
        tensors[{"shared": "decoder", "decoder": "shared"}[kept]] = weight + (both == "different")
    folder_of(path, tensors)
    if alias is not None:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt", alias: kept})
    return path


def test_ties_are_compared(tmp_path: Path) -> None:
    first = tied(tmp_path / "first", "shared", "decoder")
    same = tied(tmp_path / "same", "shared", "decoder")
    twice = tied(tmp_path / "twice", "shared", None, both="equal")
    silent = tied(tmp_path / "silent", "shared", None)
    found = inspect_checkpoints([first, same, twice, silent])
    assert found.errors == ()
    assert [row.tied for row in found.rows] == ["same", "same", "stored twice", "not recorded"]
    assert found.rows[0].ties == {"decoder": "shared"}
    assert found.rows[2].ties == {"decoder": "shared"}
    assert all(not row.missing and not row.extra for row in found.rows)


def test_ties_that_differ_are_an_error_that_names_them(tmp_path: Path) -> None:
    first = tied(tmp_path / "first", "shared", "decoder")
    untied = tied(tmp_path / "untied", "shared", None, both="different")
    turned = tied(tmp_path / "turned", "decoder", "shared")
    found = inspect_checkpoints([first, untied, turned])
    assert [row.tied for row in found.rows] == ["same", "other", "other"]
    said = [finding.message for finding in found.errors]
    assert f"'decoder' is tied to 'shared' in {first}, but {untied} has weights of its own there." in said[0]
    assert f"'decoder' is tied to 'shared' in {first}, but {turned} stores it under 'decoder' alone." in said[1]
    assert "save_pretrained() of one transformers" in said[1]


def test_processors_heads_and_values_are_columns(tmp_path: Path, pile: list[Path]) -> None:
    for folder, head in zip(pile[1:], "aab", strict=True):
        record = {"status": "finished", "head_fingerprint": head * 64}
        (folder / "soup.json").write_text(json.dumps(record))
    tokenizer = pile[2] / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "model_max_length": 77}))
    edit_weights(pile[3], lambda t: t["classifier.bias"].fill_(float("nan")))
    found = inspect_checkpoints(pile[1:], start=pile[0])
    assert [row.head for row in found.rows] == ["same", "same", "other"]
    assert [row.processor for row in found.rows] == ["same", "slightly other", "same"]
    assert [row.finite for row in found.rows] == [True, True, False]
    assert found.verdict == "cannot: m2 (head, values)"
    assert len(found.pairs) == 1  # NaN lies nowhere
    other = tiny_vit(tmp_path / "v1"), tiny_vit(tmp_path / "v2", seed=1)
    processor = other[1] / "preprocessor_config.json"
    processor.write_text(json.dumps({**json.loads(processor.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    assert [row.processor for row in inspect_checkpoints(other).rows] == ["same", "other"]


def answer(folder: Path, classes: Sequence[int]) -> None:
    probs = np.eye(2)[np.asarray(classes)]
    labels = np.arange(len(classes)) % 2
    Predictions.from_probs(probs, labels=labels).save(folder / "predictions" / "select.safetensors")


def test_a_model_that_answers_one_class_is_a_warning(pile: list[Path]) -> None:
    answer(pile[1], [0, 1, 1, 0])
    answer(pile[2], [1, 1, 1, 1])
    found = inspect_checkpoints(pile[1:])
    assert [row.one_class for row in found.rows] == [False, True, None]
    assert [f.topic for f in found.warnings] == ["answers"]
    assert "m1: its cached answers on select are the same for all rows" in found.warnings[0].message
    (pile[2] / "predictions" / "select.safetensors").write_bytes(b"broken")
    assert "is not known" in inspect_checkpoints(pile[1:]).warnings[0].message


def test_rows_that_are_all_of_one_label_prove_nothing(pile: list[Path]) -> None:
    probs = np.eye(2)[[1, 1, 1]]
    Predictions.from_probs(probs, labels=[1, 1, 1]).save(pile[1] / "predictions" / "select.safetensors")
    assert inspect_checkpoints(pile[1:]).rows[0].one_class is None


# What cannot be read


def test_what_cannot_be_read_is_a_row_with_the_reason(tmp_path: Path, pile: list[Path]) -> None:
    whole = (pile[2] / "model.safetensors").read_bytes()
    (pile[2] / "model.safetensors").write_bytes(whole[:-50])
    lying = folder_of(tmp_path / "lying", {"x": torch.ones(3), "y": torch.ones(3)}, shards=2)
    index = json.loads((lying / "model.safetensors.index.json").read_text())
    shards = index["weight_map"]
    shards["x"], shards["y"] = shards["y"], shards["x"]
    (lying / "model.safetensors.index.json").write_text(json.dumps(index))
    cut = folder_of(tmp_path / "cut", {"x": torch.ones(3), "y": torch.ones(3)}, shards=2)
    shard = cut / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    nowhere = tmp_path / "nowhere"
    found = inspect_checkpoints([pile[1], pile[2], lying, cut, nowhere, pile[3]])
    assert [row.usable for row in found.rows] == [True, False, False, False, False, True]
    reasons = [row.reason for row in found.rows]
    assert "truncated: its tensors need" in reasons[1]
    assert "index and shards do not belong together" in reasons[2]
    assert f"{shard}: truncated" in reasons[3]
    assert "no such folder" in reasons[4]
    assert found.verdict == f"cannot: m1 (files); lying (files); cut (files); {nowhere} (files)"
    assert [(p.a, p.b) for p in found.pairs] == [("m0", "m2")]


def test_the_first_that_can_be_read_is_what_the_others_are_compared_with(pile: list[Path]) -> None:
    (pile[1] / "config.json").unlink()
    found = inspect_checkpoints(pile[1:], start=pile[0])
    assert [row.usable for row in found.rows] == [False, True, True]
    assert found.rows[1].angle is None
    assert found.rows[2].angle == found.pairs[0].angle


def test_nothing_that_can_be_read_is_told_without_an_abort(tmp_path: Path) -> None:
    found = inspect_checkpoints([tmp_path / "a", tmp_path / "b"])
    assert [row.usable for row in found.rows] == [False, False]
    assert found.verdict == f"cannot: {tmp_path / 'a'} (files); {tmp_path / 'b'} (files)"
    assert found.notes == ()
    assert "no such folder" in shown(found)


def test_one_checkpoint_alone_is_no_soup(pile: list[Path]) -> None:
    assert inspect_checkpoints(pile[1:2]).verdict == "cannot: a soup needs at least two checkpoints, got 1"
    with pytest.raises(InputError, match="nothing to inspect"):
        inspect_checkpoints([])


# Sweeps and starts


def test_a_sweep_shows_its_failed_runs_and_finds_its_start(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, models=3)
    shutil.copytree(tmp_path / "pile" / "start", sweep / "start")
    record = sweep / "run_01" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "nan-loss", "reason": "at step 7."}))
    found = inspect_checkpoints([sweep])
    assert [row.name for row in found.rows] == ["run_00", "run_01", "run_02"]
    assert found.rows[1].reason == "nan-loss (at step 7.)"
    assert found.verdict == "can be mixed: 2 checkpoints, 1 left out"
    assert [row.head for row in found.rows if row.usable] == ["same", "same"]
    assert [row.one_class for row in found.rows if row.usable] == [False, False]
    assert found.start == str((sweep / "start").resolve())
    assert found.rows[2].angle is not None
    text = shown(found)
    assert "run_01 (nan-loss)" in text
    assert "warning: run_01: left out: nan-loss (at step 7.)" in text
    by_name = inspect_checkpoints([sweep / "run_00", sweep / "run_01", sweep / "run_02"])
    assert by_name.start == found.start
    assert [row.usable for row in by_name.rows] == [True, False, True]


def test_runs_that_record_other_starts_have_none_in_common(pile: list[Path]) -> None:
    for folder, start in zip(pile[1:3], (pile[0], pile[3]), strict=True):
        (folder / "soup.json").write_text(json.dumps({"status": "finished", "start": str(start)}))
    assert "They come from 2 starts" in inspect_checkpoints(pile[1:3]).notes[0]
    (pile[2] / "soup.json").write_text(json.dumps({"status": "finished", "start": str(pile[0])}))
    assert inspect_checkpoints(pile[1:3]).start == str(pile[0].resolve())


def test_a_start_of_another_kind_leaves_distances_between_the_others(tmp_path: Path, pile: list[Path]) -> None:
    found = inspect_checkpoints(pile[1:], start=tiny_vit(tmp_path / "vit"))
    assert found.start is None
    assert len(found.pairs) == 3
    assert "Distances and angles to the start" in found.notes[0]
    assert found.mixable
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect_checkpoints(pile[1:], start=tmp_path / "nowhere")


# Labels


def turn_labels(folder: Path, names: Sequence[str]) -> None:
    edit_config(folder, id2label={str(i): n for i, n in enumerate(names)}, label2id={n: i for i, n in enumerate(names)})


def test_aligned_checkpoints_answer_the_same_in_the_new_order(tmp_path: Path) -> None:
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    one, two = (tiny_bert(tmp_path / f"m{i}", labels=3, seed=i, **names) for i in range(2))
    turn_labels(two, ["c", "a", "b"])
    refused = inspect_checkpoints([one, two])
    assert not refused.mixable
    assert refused.rows[1].labels == "other order"
    assert refused.permutations == {str(two): (1, 2, 0)}
    assert "m1: --align-labels reads the rows of its head in the order 1, 2, 0, which is a, b, c." in shown(refused)
    found = inspect_checkpoints([one, two], align_labels=True)
    assert found.mixable
    (written,) = write_aligned(found, tmp_path / "out")
    assert written == tmp_path / "out" / "m1"
    sentences = tiny_sentences(5, seed=0)
    before, after = plain_answers(two, sentences), plain_answers(written, sentences)
    weights, turned = (load_file(folder / "model.safetensors") for folder in (two, written))
    for name, tensor in weights.items():
        assert torch.equal(turned[name], tensor[[1, 2, 0]] if name.startswith("classifier") else tensor)
    # the head reads 32 numbers in [-1, 1]; another order of its rows may be another order of each sum of 33 terms
    terms = weights["classifier.weight"].abs().sum(dim=1).max() + weights["classifier.bias"].abs().max()
    rounding = 2 * 33 * 2**-24 * float(terms)
    np.testing.assert_allclose(after, before[:, [1, 2, 0]], rtol=0, atol=rounding)
    assert np.abs(np.diff(before, axis=1)).min() > 100 * rounding  # another order would be seen
    config = json.loads((written / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert config["label2id"] == {"a": 0, "b": 1, "c": 2}
    report = preflight([Checkpoint(one), Checkpoint(written)])
    assert (report.errors, report.warnings) == ((), ())
    assert {p.name for p in written.iterdir()} == {p.name for p in two.iterdir()}
    with pytest.raises(InputError, match="exists already"):
        write_aligned(found, tmp_path / "out")


def test_distances_are_those_of_aligned_labels(tmp_path: Path) -> None:
    one = tiny_bert(tmp_path / "one", **NAMES)
    two = shutil.copytree(one, tmp_path / "two")
    turn_labels(two, ["pos", "neg"])
    edit_weights(two, lambda t: t.update({n: x.flip(0) for n, x in t.items() if n.startswith("classifier")}))
    start = near(two, tmp_path / "start", seed=3)
    assert inspect_checkpoints([one, two]).pairs[0].distance > 0.1
    found = inspect_checkpoints([one, two], start=start, align_labels=True)
    # the same model twice: what is left is the rounding of float32 products, about 1e-6 of the squares
    assert found.pairs[0].distance <= 2e-3 * found.rows[0].from_start  # type: ignore[operator]
    assert found.rows[0].from_start == pytest.approx(found.rows[1].from_start, rel=1e-5)


def test_nothing_is_written_where_all_labels_stand_in_one_order(tmp_path: Path, pile: list[Path]) -> None:
    assert write_aligned(inspect_checkpoints(pile[1:], align_labels=True), tmp_path / "out") == ()
    assert not (tmp_path / "out").exists()


def test_names_of_one_folder_do_not_collide(tmp_path: Path) -> None:
    one = tiny_bert(tmp_path / "one", **NAMES)
    for parent in ("x", "y"):
        turn_labels(shutil.copytree(one, tmp_path / parent / "m"), ["pos", "neg"])
    found = inspect_checkpoints([one, tmp_path / "x/m", tmp_path / "y/m"], align_labels=True)
    written = write_aligned(found, tmp_path / "out")
    assert len(set(written)) == 2
    assert all(path.parent == tmp_path / "out" for path in written)


def test_labels_without_names_or_of_another_task_are_told(pile: list[Path]) -> None:
    turn_labels(pile[2], ["no", "yes"])
    edit_config(pile[3], id2label={"0": "LABEL_0", "1": "LABEL_1"})
    found = inspect_checkpoints(pile[1:])
    assert [row.labels for row in found.rows] == ["same", "other", "not named"]
    assert found.permutations == {}


# What is shown


def mixed_bag(tmp_path: Path) -> Inspection:
    """Every column says something else in some row."""
    first = ComparedCheckpoint("m0", "m0", tensors=3, dtypes=("F32",), from_start=1.0)
    second = ComparedCheckpoint(
        "a name that is far too long for its column", "m1", tensors=3, missing=("x",), extra=("y", "z"),
        other_shapes=("w",), dtypes=("BF16",), other_dtypes=("w",), tied="other", labels="other order",
        processor="other", head="other", finite=False, one_class=True, from_start=123.456, angle=88.8,
    )  # fmt: skip
    return Inspection((first, second, ComparedCheckpoint("m2", "m2", f"{tmp_path}: no such folder.")), (), (), (), ())


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_the_terminal(width: int, tmp_path: Path, pile: list[Path]) -> None:
    for found in (mixed_bag(tmp_path), inspect_checkpoints(pile[1:], start=pile[0])):
        text = shown(found, width)
        assert max(len(line) for line in text.splitlines()) <= width
        for column in COLUMNS:
            assert column.title in text  # shown, folded into one line, or told to be left out
        assert "…" not in text
        for row in found.rows:
            assert row.name.split()[0] in text


def test_columns_that_say_one_thing_only_go_first(tmp_path: Path) -> None:
    rows = [
        ComparedCheckpoint("m0", "m0", dtypes=("F32",)),
        ComparedCheckpoint("m1", "m1", dtypes=("F32",), head="other"),
    ]
    shown_columns, same = fitting(COLUMNS, rows, 2, 40)
    assert "head" in [c.title for c in shown_columns]
    assert same
    assert all(len({c.text(row) for row in rows}) == 1 for c in same)
    bag = [row for row in mixed_bag(tmp_path).rows if row.usable]
    few, none = fitting(COLUMNS, bag, 16, 50)
    assert none == []
    assert few[0].title == "names"
    assert "angle" not in [c.title for c in few]


def test_many_pairs_are_told_in_a_sentence(tmp_path: Path) -> None:
    start = folder_of(tmp_path / "start", {"x": torch.zeros(2)})
    many = [folder_of(tmp_path / f"m{i:02d}", {"x": torch.tensor([1.0, float(i)])}) for i in range(20)]
    text = unfolded(shown(inspect_checkpoints(many, start=start), 80))
    assert "190 pairs: the closest m00 and m01 (1 apart), the farthest m00 and m19 (19)" in text
    assert "Angles at the start: 0° to 87°." in text


def test_the_record_is_strict_json(tmp_path: Path, pile: list[Path]) -> None:
    edit_weights(pile[3], lambda t: t["classifier.bias"].fill_(float("nan")))
    found = inspect_checkpoints(pile[1:], start=pile[0])
    save_json(found, tmp_path / "deep" / "found.json")
    told = json.loads((tmp_path / "deep" / "found.json").read_text(), parse_constant=pytest.fail)
    assert told["mixable"] is False
    assert [row["name"] for row in told["rows"]] == ["m0", "m1", "m2"]
    assert told["rows"][1]["from_start"] == found.rows[1].from_start
    assert told["pairs"][0]["distance"] == found.pairs[0].distance
    assert told["errors"][0]["topic"] == "values"


# The command


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hf_soups.cli", "inspect", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE)


def test_the_command_says_the_verdict_by_its_exit_status(tmp_path: Path, pile: list[Path]) -> None:
    good = command("m0", "m1", "--json", "found.json", cwd=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.rstrip().endswith("can be mixed: 2 checkpoints")
    assert json.loads((tmp_path / "found.json").read_text())["mixable"] is True
    turn_labels(pile[2], ["pos", "neg"])
    assert command("m0", "m1", cwd=tmp_path).returncode == 1
    aligned = command("m0", "m1", "--align-labels", "--out", "out", cwd=tmp_path)
    assert aligned.returncode == 0
    assert "wrote out/m1" in aligned.stdout
    wrong = command("m0", "m1", "--out", "out", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("hf-soups: --out is where --align-labels writes")


def test_inspecting_folders_does_not_import_torch(tmp_path: Path) -> None:
    for i in range(2):
        folder_of(tmp_path / f"m{i}", {"classifier.weight": torch.randn(2, 3)}, config={**CONFIG, **NAMES})
    turn_labels(tmp_path / "m1", ["pos", "neg"])
    code = (
        "import sys\nfrom hf_soups.inspection import inspect_checkpoints, write_aligned\n"
        "found = inspect_checkpoints(['m0', 'm1'], align_labels=True)\nfound.to_rich()\nwrite_aligned(found, 'out')\n"
        "print(found.mixable, sorted({'torch', 'transformers', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "True []"
