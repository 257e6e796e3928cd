"""Batch predict: one output row for each input row, whatever is wrong with it and however often it is killed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_soups.batch_predict import RowsResult, predict_rows, print_result
from hf_soups.batch_predict.outputs import AnswerFiles
from hf_soups.errors import DataError, HfSoupsError, InputError
from tests.makers.patience import PATIENCE
from tests.makers.tiny import tiny_bert, tiny_clip, tiny_sentences, tiny_vit

ROWS = 23


def write_photos(folder: Path, rows: int = ROWS) -> None:
    """Images of different sizes and modes, some in folders below; file names in no order."""
    random = np.random.default_rng(0)
    for i in range(rows):
        at = folder / ("below" if i % 3 else ".") / f"photo_{(i * 7) % rows:02d}.{'png' if i % 2 else 'jpg'}"
        at.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if i == 4 else "RGB").save(at)


def table(out: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path in sorted(out.glob("part-*.parquet")):
        for name, values in pq.read_table(path).to_pydict().items():
            found.setdefault(name, []).extend(values)
    return found


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("vit"), id2label={0: "cat", 1: "dog", 2: "bird"})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return folder


def test_each_image_of_a_folder_is_answered_once_as_the_stock_pipeline_would(
    vit: Path, photos: Path, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    result = predict_rows(vit, data=str(photos), out=tmp_path / "out", shard_rows=10, batch_size=4, progress=False)
    told = table(tmp_path / "out")
    wanted = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.is_file())
    assert told["row_id"] == wanted
    assert (result.rows, result.answered, result.errors) == (ROWS, ROWS, 0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "_answers.json", "part-000000.parquet", "part-000001.parquet", "part-000002.parquet",
    ]  # fmt: skip
    stock = pipeline(
        "image-classification", model=AutoModelForImageClassification.from_pretrained(vit),
        image_processor=AutoImageProcessor.from_pretrained(vit, backend="pil"),
    )  # fmt: skip
    for i, name in enumerate(wanted):
        own = stock(str(photos / name))
        assert [o["label"] for o in own] == told["top_labels"][i]
        np.testing.assert_allclose([o["score"] for o in own], told["top_scores"][i], atol=1e-5)
        assert (told["label"][i], told["score"][i]) == (told["top_labels"][i][0], told["top_scores"][i][0])
    assert set(told["exit_stage"]) == {0}
    assert set(told["members_used"]) == {1}
    assert set(told["cost"]) == {None}


def test_what_cannot_be_read_is_a_row_with_an_error(vit: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 6)
    (tmp_path / "in" / "a_broken.jpg").write_bytes(b"no image")
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    whole = next((tmp_path / "in").glob("*.jpg")).read_bytes()
    (tmp_path / "in" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "notes.txt").write_text("not an image's name, so not a row")
    result = predict_rows(
        vit, data=str(tmp_path / "in"), out=tmp_path / "out", shard_rows=2, batch_size=2, progress=False
    )
    told = table(tmp_path / "out")
    errors = {name: error for name, error in zip(told["row_id"], told["error"], strict=True) if error}
    assert sorted(errors) == ["a_broken.jpg", "cut.jpg", "empty.png"]
    assert "row a_broken.jpg: the image in column 'file' cannot be read" in errors["a_broken.jpg"]
    assert (len(told["row_id"]), result.errors) == (9, 3)
    for name, label in zip(told["row_id"], told["label"], strict=True):
        assert (label is None) == (name in errors)


def test_a_row_that_only_the_model_cannot_take_does_not_take_others_with_it(
    vit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_soups.models.classifier import Classifier

    answer, marked = Classifier.answer, []

    def picky(self: Classifier, values: Any) -> Any:
        if any(image.size[1] == 25 for image in values):
            marked.append(len(values))
            raise ZeroDivisionError("an odd image")
        return answer(self, values)

    monkeypatch.setattr(Classifier, "answer", picky)
    predict_rows(vit, data=str(photos), out=tmp_path / "out", batch_size=8, progress=False)
    told = table(tmp_path / "out")
    assert [e for e in told["error"] if e] == ["it cannot be answered (ZeroDivisionError: an odd image)"]
    assert len(told["row_id"]) == ROWS
    assert 1 in marked


def test_a_model_that_can_answer_nothing_is_an_error_and_not_a_million_rows_of_them(
    vit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_soups.models.classifier import Classifier

    def broken(self: Classifier, values: Any) -> Any:
        raise TypeError("no such argument")

    monkeypatch.setattr(Classifier, "answer", broken)
    with pytest.raises(HfSoupsError, match=r"none of 8 rows can be answered \(TypeError: no such argument\)"):
        predict_rows(vit, data=str(photos), out=tmp_path / "out", batch_size=8, progress=False)


def test_texts_and_pairs_of_a_table_are_answered_with_their_own_ids(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert", id2label={0: "no", 1: "yes"})
    sentences = tiny_sentences(9)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "one", "two"])
        writer.writerows([[f"r{i}", s, "" if i == 5 else sentences[-i]] for i, s in enumerate(sentences)])
    how = {"data": str(tmp_path / "rows.csv"), "id_column": "name", "batch_size": 4, "progress": False}
    predict_rows(bert, out=tmp_path / "single", text=["one"], **how)
    predict_rows(bert, out=tmp_path / "pairs", text=["one", "two"], **how)
    single, pairs = table(tmp_path / "single"), table(tmp_path / "pairs")
    assert single["row_id"] == pairs["row_id"] == [f"r{i}" for i in range(9)]
    assert set(single["error"]) == {None}
    assert [i for i, error in enumerate(pairs["error"]) if error] == [5]
    assert "column 'two' holds None, not text" in pairs["error"][5]
    assert single["top_scores"] != pairs["top_scores"]
    np.testing.assert_allclose([sum(s) for s in single["top_scores"]], 1, atol=1e-6)


def test_a_zero_shot_model_answers_with_the_classes_it_is_asked_about(photos: Path, tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "clip")
    how = {"data": str(photos), "out": tmp_path / "out", "progress": False}
    with pytest.raises(InputError, match="needs the names of the classes"):
        predict_rows(clip, **how)
    predict_rows(clip, label_names=["cat", "dog"], **how)
    assert set(table(tmp_path / "out")["label"]) <= {"cat", "dog"}


def test_an_empty_folder_and_other_peoples_files_are_told(vit: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no images there \(files that end in .jpg"):
        predict_rows(vit, data=str(tmp_path / "empty"), out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"mine: there are other files, and no _answers.json"):
        predict_rows(vit, data=str(photos), out=tmp_path / "mine", progress=False)


def test_a_table_beside_images_does_not_hide_them_but_a_folder_of_tables_is_a_data_set(
    vit: Path, tmp_path: Path
) -> None:
    from hf_soups.pool.rows import DataSet, ImageFolder, RowsWanted, find_rows

    write_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "notes.csv").write_text("a,b\n1,2\n")
    assert isinstance(find_rows(RowsWanted(str(tmp_path / "photos"))), ImageFolder)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").write_text("text,label\ngood,1\nbad,0\n")
    found = find_rows(RowsWanted(str(tmp_path / "texts")))
    assert isinstance(found, DataSet)
    assert (found.kind, found.values(0, 2)) == ("text", [("good", None), ("bad", None)])


def test_answers_of_other_rows_models_or_settings_are_not_mixed(vit: Path, photos: Path, tmp_path: Path) -> None:
    how = {"data": str(photos), "out": tmp_path / "out", "progress": False}
    predict_rows(vit, **how)
    with pytest.raises(InputError, match=r"it holds answers with top_k 5, not 2\. Choose another folder"):
        predict_rows(vit, top_k=2, **how)
    with pytest.raises(InputError, match="it holds answers with model"):
        predict_rows(tiny_vit(tmp_path / "other", seed=1), **how)
    with pytest.raises(InputError, match="it holds answers with limit None, not 9"):
        predict_rows(vit, limit=9, **how)


def test_a_second_call_answers_nothing_again_and_only_what_is_missing(
    vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"data": str(photos), "out": tmp_path / "out", "shard_rows": 5, "progress": False}
    predict_rows(vit, **how)
    before = table(tmp_path / "out")
    assert predict_rows(vit, **how).answered == 0
    (tmp_path / "out" / "part-000002.parquet").unlink()
    result = predict_rows(vit, **how)
    assert result.answered == 5
    assert table(tmp_path / "out") == before
    print_result(result)
    assert "23 rows in" in capsys.readouterr().out


SCRIPT = """
import sys, time
from hf_soups.batch_predict import predict_rows
from hf_soups.models.classifier import Classifier
answer = Classifier.answer
def slow(self, values):
    time.sleep(0.05)
    return answer(self, values)
Classifier.answer = slow
done = predict_rows(sys.argv[1], data=sys.argv[2], out=sys.argv[3], shard_rows=2, batch_size=2, progress=False)
sys.stdout.write(f"answered: {done.answered}\\n")  # one write: lines of two processes stay whole
"""


def launched(*command: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_call_is_gone_on_with_and_two_processes_write_what_one_does(
    vit: Path, photos: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    how = {"data": str(photos), "shard_rows": 2, "batch_size": 2, "progress": False}
    predict_rows(vit, out=tmp_path / "whole", **how)
    whole = table(tmp_path / "whole")

    process = launched(str(script), str(vit), str(photos), str(tmp_path / "killed"))
    parts = AnswerFiles(tmp_path / "killed", ROWS, 2)
    while process.poll() is None and len(parts.missing()) > 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(parts.missing()) < len(parts)
    result = predict_rows(vit, out=tmp_path / "killed", **how)
    assert 0 < result.answered < ROWS
    assert table(tmp_path / "killed") == whole

    both = launched(
        "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script), str(vit), str(photos),
        str(tmp_path / "both"),
    )  # fmt: skip
    said, told = both.communicate(timeout=PATIENCE)
    assert both.returncode == 0, told.decode()
    assert sorted(re.findall(rb"answered: (\d+)", said)) == [b"11", b"12"]  # no row twice
    assert table(tmp_path / "both") == whole


def answered(model: Path, data: Path, out: Path, **how: object) -> RowsResult:
    return predict_rows(model, data=str(data), out=out, shard_rows=5, progress=False, **how)  # type: ignore[arg-type]


def fresh(model: Path, data: Path, tmp_path: Path, **how: object) -> dict[str, list[object]]:
    answered(model, data, tmp_path / "fresh", **how)
    return table(tmp_path / "fresh")


def replaced_keeping_size_and_time(path: Path, other: Path) -> None:
    """Other bytes of the same number under the same name, with the time of the earlier file."""
    before, data = path.stat(), other.read_bytes()
    path.write_bytes(data[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_replaced_image_of_equal_size_and_time_is_answered_again_and_nothing_else(
    vit: Path, photos: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    answered(vit, folder, tmp_path / "out")
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg"))
    replaced_keeping_size_and_time(files[7], files[0])
    result = answered(vit, folder, tmp_path / "out")
    assert (result.answered, result.stale) == (5, ("answering part 1 again: its rows changed",))
    assert table(tmp_path / "out") == fresh(vit, folder, tmp_path)
    assert answered(vit, folder, tmp_path / "out").answered == 0


def test_files_that_were_only_touched_are_not_answered_again(vit: Path, photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    answered(vit, folder, tmp_path / "out")
    for path in folder.rglob("*.png"):
        path.touch()
    assert answered(vit, folder, tmp_path / "out").answered == 0


def write_reviews(path: Path, rows: int, **changes: str) -> Path:
    texts = [changes.get(f"row_{i}", f"review number {i}") for i in range(rows)]
    pq.write_table(pa.table({"text": texts}), path)
    return path


def test_changed_added_and_removed_rows_of_a_table_are_followed(tmp_path: Path) -> None:
    """The row that changes is none of 64 that a sample would look at."""
    model, data, out = tiny_bert(tmp_path / "bert"), tmp_path / "reviews.parquet", tmp_path / "out"
    answered(model, write_reviews(data, 203), out)
    result = answered(model, write_reviews(data, 203, row_101="quite another review"), out)
    assert result.stale == ("answering part 20 again: its rows changed",)
    grown = answered(model, write_reviews(data, 207, row_101="quite another review"), out)
    assert (grown.answered, grown.stale) == (7, ("answering part 40 again: its rows changed",))
    less = answered(model, write_reviews(data, 202, row_101="quite another review"), out)
    assert (less.rows, less.answered) == (202, 2)
    assert "answering part 41 again: there is no such row any more" in less.stale
    assert table(out) == fresh(model, data, tmp_path)


def test_replaced_weights_or_processor_of_a_model_make_all_its_answers_stale(
    vit: Path, photos: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(vit, tmp_path / "vit"))
    answered(model, photos, tmp_path / "out")
    before = table(tmp_path / "out")
    shutil.copy(tiny_vit(tmp_path / "other", seed=1) / "model.safetensors", model / "model.safetensors")
    result = answered(model, photos, tmp_path / "out")
    why = "answering parts 0, 1, 2, 3, 4 again: the model's weights, config or processor changed"
    assert (result.answered, result.stale) == (ROWS, (why,))
    assert table(tmp_path / "out") == fresh(model, photos, tmp_path) != before
    path = model / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.25"))
    assert answered(model, photos, tmp_path / "out").stale == (why,)


@pytest.mark.parametrize("change", [{"max_length": 9}, {"dtype": "bfloat16"}, {"text": ("other",)}, {"limit": 3}])
def test_every_setting_that_decides_an_answer_is_kept(tmp_path: Path, change: dict[str, object]) -> None:
    model, data, out = tiny_bert(tmp_path / "bert"), tmp_path / "reviews.parquet", tmp_path / "out"
    pq.write_table(pa.table({"text": ["a", "b"], "other": ["c", "d"]}), data)
    answered(model, data, out, text=("text",))
    with pytest.raises(InputError, match=r"it holds answers with .*Choose another folder"):
        answered(model, data, out, **{"text": ("text",), **change})


def test_answers_data_and_model_can_be_moved_together(vit: Path, photos: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    model, data = Path(shutil.copytree(vit, project / "vit")), Path(shutil.copytree(photos, project / "photos"))
    answered(model, data, project / "out")
    moved = project.rename(tmp_path / "moved")
    shutil.copy(sorted(moved.glob("photos/**/*.png"))[0], sorted(moved.glob("photos/**/*.png"))[1])
    result = answered(moved / "vit", moved / "photos", moved / "out")
    assert len(result.stale) == 1


def test_another_model_or_other_data_do_not_take_the_place_of_answers(vit: Path, photos: Path, tmp_path: Path) -> None:
    answered(vit, photos, tmp_path / "out")
    other = Path(shutil.copytree(photos, tmp_path / "others"))
    assert answered(vit, other, tmp_path / "out").answered == 0  # the same rows, in another place
    shutil.copy(sorted(other.rglob("*.png"))[0], sorted(other.rglob("*.png"))[1])
    third = Path(shutil.copytree(other, tmp_path / "third"))
    before = table(tmp_path / "out")
    with pytest.raises(InputError, match="it holds answers with data"):
        answered(vit, third, tmp_path / "out")
    with pytest.raises(InputError, match="it holds answers with model"):
        answered(tiny_vit(tmp_path / "vit", seed=1), photos, tmp_path / "out")
    assert table(tmp_path / "out") == before


def test_a_file_name_that_is_not_utf8_is_named(vit: Path, photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    first = next(folder.glob("*.png"))
    first.rename(os.fsdecode(os.fsencode(folder) + b"/p\xff.png"))
    with pytest.raises(DataError, match=r"photos: the file name 'p\\\\xff\.png' is not UTF-8.*Rename it"):
        answered(vit, folder, tmp_path / "out")
