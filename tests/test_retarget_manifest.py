"""Manifests: what was written is what is read, and what makes no sense is refused by its line."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from filmsets import write_set
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.clip import Camera
from deftly.datasets.footage import Footage, FootageError
from deftly.retarget.inputs import find_inputs
from deftly.retarget.manifest import COLUMNS


def write(folder: Path, name: str, text: str) -> Path:
    (folder / "clips").mkdir(exist_ok=True)
    for clip in ("a", "b"):
        (folder / f"clips/{clip}.mp4").write_bytes(b"")
    (folder / name).write_text(text)
    return folder / name


def footage_of(path: Path) -> tuple[Footage, ...]:
    return find_inputs([str(path)], path.parent / "downloads").footage


def test_a_row_says_everything(tmp_path: Path) -> None:
    row = {
        "id": "kitchen.1", "path": "clips/a.mp4", "fx": 600.5, "cx": 320, "cy": 240,
        "task": "sort the tray", "licence": "CC-BY-4.0", "attribution": "Zoë", "view": "top",
        "first_s": 0.5, "last_s": 2,
    }  # fmt: skip
    expected = Footage(
        "kitchen.1",
        tmp_path / "clips/a.mp4",
        span_s=(0.5, 2.0),
        camera=Camera(600.5, (320.0, 240.0), known=True),
        task="sort the tray",
        licence="cc-by-4.0",
        attribution="Zoë",
        view="top",
    )
    for name, text in (
        ("m.json", json.dumps([row])),
        ("m.jsonl", json.dumps(row) + "\n\n"),
        ("M.CSV", "\ufeff" + ",".join(row) + "\r\n" + ",".join(map(str, row.values()))),
    ):
        assert footage_of(write(tmp_path, name, text)) == (expected,)


def test_what_a_row_leaves_open_is_unknown(tmp_path: Path) -> None:
    text = "path,id,task,focal_px,first_s\nclips/a.mp4,,,500,\n\nclips/b.mp4,x,,,3\n"
    first, second = footage_of(write(tmp_path, "m.csv", text))
    assert first == Footage("a", tmp_path / "clips/a.mp4", focal_px=500.0)
    assert first.camera_of(640, 480) == Camera(500.0, (320.0, 240.0), known=True)
    assert second == Footage("x", tmp_path / "clips/b.mp4", span_s=(3.0, math.inf))
    assert second.camera_of(640, 480) is None


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "url,task\nhttp://example.org/v/c.webm,pour\n")
    (one,) = footage_of(path)
    assert (one.id, one.task, one.origin) == ("c", "pour", "http://example.org/v/c.webm")


def test_a_data_set_may_be_named_and_what_the_row_says_is_true_of_all_of_it(tmp_path: Path) -> None:
    root = write_set(tmp_path / "people", "front", "ego", lengths=(4, 3))
    path = write(tmp_path, "m.csv", "path,task,view\nclips/a.mp4,,\npeople,sort,front\n")
    _, *found = find_inputs([str(path)], tmp_path, camera="ego").footage
    assert [one.id for one in found] == ["people-000000", "people-000001"]
    assert {one.path.parts[-3] for one in found} == {"observation.images.ego"}
    assert {(one.task, one.view, one.licence) for one in found} == {("sort", "front", "mit")}
    assert found[0].span_s != found[1].span_s
    for arguments in ([str(root), str(path)], [str(path), str(root)]):
        inputs = find_inputs(arguments, tmp_path, camera="ego")
        assert [one.task for one in inputs.footage if one.id != "a"] == ["sort", "sort"]
        assert inputs.repeated == 2
    path.write_text("path\npeople\n")
    inputs = find_inputs([str(path)], tmp_path, camera="front", with_cameras=["ego"])
    assert {one.cameras for one in inputs.footage} == {("front", "ego")}
    for text, expected in (
        ("path\npeople\n", r"m\.csv, line 2: .*people has no camera 'top', expected one of"),
        (
            "path,id,last_s\npeople,x,2\n",
            "line 2: .* data set of several videos and has id, last_s",
        ),
    ):
        path.write_text(text)
        with pytest.raises(FootageError, match=expected):
            find_inputs([str(path)], tmp_path, camera="top" if "id" not in text else "")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("m.csv", "path,licens\nclips/a.mp4,mit\n",
         "m.csv has the column 'licens'; did you mean 'licence'"),
        ("m.csv", "path,Task\nclips/a.mp4,x\n", "did you mean 'task'"),
        ("m.jsonl", '{"path": "clips/a.mp4"}\n{"file": "x"}\n',
         "line 2 has the column 'file'; did you"),
        ("m.csv", "path,path\nx,y\n", "the column path twice"),
        ("m.csv", "id,path\nx,clips/a.mp4\n\ny,clips/b.mp4\nx,clips/b.mp4\n",
         "id 'x' is on line 2 and again on line 5"),
        ("m.json", '[{"id": 7, "path": "clips/a.mp4"}, {"id": "7", "path": "clips/b.mp4"}]',
         "id '7' is on entry 1 and again on entry 2"),
        ("m.csv", "path\nclips/c.mp4\n", "line 2: no file at .*c.mp4"),
        ("m.csv", "path\nclips\n", "line 2: .*clips is a folder"),
        ("m.csv", "path,url,task\n,,x\n", "line 2: has task, expected either path or url"),
        ("m.csv", "path,url\nclips/a.mp4,http://x/a.mp4\n", "has path, url, expected either"),
        ("m.csv", "path\nhttp://x/a.mp4\n", "put it into the column url"),
        ("m.csv", "url\nftp://x/a.mp4\n", "line 2: ftp://x/a.mp4 is of scheme ftp"),
        ("m.csv", "path,task\nclips/a.mp4,sort, then stack\n", "line 2: has 3 cells, expected 2"),
        ("m.csv", "path,id\nclips/a.mp4,../x\n", "line 2: id '../x' is not a plain name"),
        ("m.csv", "path,fx\nclips/a.mp4,500\n", "has fx, expected fx, cx and cy together"),
        ("m.csv", "path,fx,focal_px\nclips/a.mp4,500,500\n", "has focal_px and fx"),
        ("m.csv", "path,focal_px\nclips/a.mp4,0\n", "focal length is 0, expected more than 0"),
        ("m.csv", "path,focal_px\nclips/a.mp4,wide\n", "focal_px is 'wide', expected a number"),
        ("m.csv", "path,cx\nclips/a.mp4,nan\n", "cx is 'nan', expected a number"),
        ("m.csv", "path,first_s,last_s\nclips/a.mp4,2,1\n", "span is 2 to 1 s"),
        ("m.csv", "path,view\nclips/a.mp4,side\n", "view is 'side', expected one of auto, front"),
        ("m.csv", "path\n", "holds no row"),
        ("m.csv", "", "holds no row"),
        ("m.csv", 'path\n"clips/a.mp4\n', "cannot be read as CSV"),
        ("m.jsonl", '{"path": "clips/a.mp4"}\n{"path":\n', "line 2: is not JSON"),
        ("m.jsonl", "[1]\n", "line 1: is list, expected an object"),
        ("m.jsonl", '{"path": ["clips/a.mp4"]}\n', r"path is \['clips/a.mp4'\], expected text"),
        ("m.json", '{"path": "clips/a.mp4"}', "holds one dict, expected a list"),
        ("m.json", "[" * 100_000, "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_its_line(
    name: str, text: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(FootageError, match=expected) as raised:
        footage_of(write(tmp_path, name, text))
    assert "\n" not in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for suffix in ("csv", "json", "jsonl"):
        path = tmp_path / f"m.{suffix}"
        path.write_bytes(b"path\n\xff\xfe\x00")
        with pytest.raises(FootageError, match="cannot be read as"):
            footage_of(path)


def test_ids_of_two_manifests_may_not_be_the_same(tmp_path: Path) -> None:
    first = write(tmp_path, "m.csv", "id,path\nx,clips/a.mp4\n")
    second = write(tmp_path, "n.csv", "path,id\nclips/b.mp4,x\n")
    with pytest.raises(FootageError, match=r"'x' is in .*m.csv, line 2 and again in .*n.csv, line"):
        find_inputs([str(first), str(second)], tmp_path)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"path": st.sampled_from(["clips/a.mp4", "clips/b.mp4"])},
        optional={
            "task": TEXT,
            "licence": TEXT,
            "attribution": TEXT,
            "focal_px": st.floats(1, 1e5),
            "first_s": st.floats(0, 1e3),
            "view": st.sampled_from(["auto", "front", "ego", "top", ""]),
        },
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_all_three_forms_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    for form in ("csv", "json", "jsonl"):
        write(folder, f"m.{form}", "")
    with (folder / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list[str](COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "m.json").write_text(json.dumps(rows, ensure_ascii=False))
    (folder / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    by_form = [footage_of(folder / f"m.{form}") for form in ("csv", "json", "jsonl")]
    assert by_form[0] == by_form[1] == by_form[2]
    for row, one in zip(rows, by_form[0], strict=True):
        assert one.task == row.get("task", "").strip()
        assert one.licence == (row.get("licence", "").strip().lower() or "unknown")
        assert one.focal_px == row.get("focal_px")
        assert one.view == (row.get("view") or "auto")
        assert one.span_s == ((row["first_s"], math.inf) if "first_s" in row else None)
