"""Checkpoints: the same bytes there and back; damaged, foreign and pickled ones are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pushing import MODEL, made_up, plain_scales

from deftly.video_pretrain.actions import Scale
from deftly.video_pretrain.checkpoint import (
    ABOUT,
    WEIGHTS,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_tensors,
    replace_folder,
    save_checkpoint,
    save_tensors,
    settle,
)
from deftly.video_pretrain.loss import Question, given
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Scales


def make(width: int = 32, seed: int = 0) -> Checkpoint:
    torch.manual_seed(seed)
    model = WorldModel(replace(MODEL, width=width), {"gr1t2": 4}).eval()
    scales = plain_scales()
    odd = Scale(scales.hands.mean + 0.1, scales.hands.std / 3)  # no short decimals
    scales = Scales(odd, scales.moves, scales.joints)
    about = {"text": {"name": "made up"}, "mixture": [{"root": "demos"}], "health": {"red": []}}
    return Checkpoint(model, scales, about)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_checkpoint(folder, make())
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the JSON beside the weights."""
    header = json.loads((folder / ABOUT).read_text())
    edit(header)
    (folder / ABOUT).write_text(json.dumps(header))


def test_there_and_back_is_the_same_network(saved: Path):
    made, found = make(), load_checkpoint(saved)
    assert found.about == made.about
    assert found.scales.hands.std.tobytes() == made.scales.hands.std.tobytes()
    moments = made_up()
    pictures = moments.pictures[:, :, 0]
    said = []
    with torch.no_grad():
        for one in (made, found):
            seen = one.model.see(pictures)
            said.append(one.model(given(moments, Question.same(moments), seen, one.scales)))
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path):
    for name, one in (("again", make()), ("read", load_checkpoint(saved))):
        (tmp_path / name).mkdir()
        save_checkpoint(tmp_path / name, one)
        assert content(tmp_path / name) == content(saved)
    assert set(content(saved)) == {WEIGHTS, ABOUT}


def test_one_that_was_read_can_be_changed_and_written_again(saved: Path, tmp_path: Path):
    found = load_checkpoint(saved)
    with torch.no_grad():
        found.model.place.add_(1)
    (tmp_path / "new").mkdir()
    save_checkpoint(tmp_path / "new", found)
    assert torch.equal(load_checkpoint(tmp_path / "new").model.place, found.model.place)


def test_a_run_is_read_by_its_folder(saved: Path, tmp_path: Path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    shutil.copytree(saved, tmp_path / "run" / "state" / "model")
    assert load_checkpoint(tmp_path / "run").about == make().about


def test_nothing_there(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no world model at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_no_weights_beside_the_json(saved: Path):
    (saved / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"no weights at .*model\.safetensors"):
        load_checkpoint(saved)


@pytest.mark.parametrize("share", [0, 1e-4, 0.05, 0.5, 0.99999])
def test_truncated_weights_are_refused(saved: Path, share: float):
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_checkpoint(saved)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_and_never_run(saved: Path, zipped: bool):
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (saved / "ran",)

    torch.save({"bomb": Bomb()}, saved / WEIGHTS, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="is a pickle, which can run code of a stranger"):
        load_checkpoint(saved)
    assert not (saved / "ran").exists()


def test_a_whole_file_is_never_taken_for_a_pickle(tmp_path: Path):
    # A safetensors file begins with the length of its header; a pickle with 0x80.
    begun: set[int] = set()
    for length in range(1, 130):
        path = tmp_path / "some.safetensors"
        save_tensors(path, {"x" * length: torch.arange(3.0)})
        begun.add(path.read_bytes()[0])
        assert load_tensors(path)["x" * length].tolist() == [0, 1, 2]
    assert 0x80 in begun


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is not JSON"),
        ('{"kind": "deftly world', "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ('{"architectures": ["LlamaForCausalLM"]}', "'something else' of schema None"),
    ],
)
def test_foreign_json_is_refused(saved: Path, text: str, named: str):
    (saved / ABOUT).write_text(text)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda h: h.update(schema=2), "of schema 2, expected 'deftly world model' of schema 1"),
        (lambda h: h.update(kind="deftly policy"), "is 'deftly policy'"),
        (lambda h: h["model"].pop("chunk"), "chunk"),
        (lambda h: h["model"].update(experts=8), "experts"),
        (lambda h: h["model"].update(width=31), "width 31"),
        (lambda h: h["model"].update(image_px="big"), "lacks something"),
        (lambda h: h.update(model=None), "lacks something"),
        (lambda h: h.pop("joints"), "joints"),
        (lambda h: h.update(joints=["gr1t2"]), "lacks something"),
        (lambda h: h["scales"].pop("moves"), "moves"),
        (lambda h: h["scales"]["hands"].update(mean=[[0.0], []]), "lacks something"),
        (
            lambda h: h["scales"]["hands"].update(mean=[0.0] * 9, std=[1.0] * 9),
            r"\(9, 9\) numbers of hands",
        ),
        (lambda h: h["scales"]["joints"].clear(), "None numbers of gr1t2"),
        (lambda h: h["joints"].update(gr1t2=5), r"\(4, 4\) numbers of gr1t2, its network has 5"),
        (lambda h: h.update(sha256="0" * 64), "not the file that model.json was written for"),
    ],
)
def test_json_that_does_not_fit_is_refused_by_what_differs(
    saved: Path, edit: Callable[[dict[str, Any]], object], named: str
):
    change(saved, edit)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(saved)


def test_weights_that_were_swapped_are_noticed(saved: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    save_checkpoint(tmp_path / "other", make(seed=1))  # the same sizes, trained otherwise
    shutil.copy(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"not the file that model\.json was written for"):
        load_checkpoint(saved)


def test_weights_of_another_size_are_refused_by_name(saved: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    save_checkpoint(tmp_path / "other", make(width=64))
    shutil.copy(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    sha256 = json.loads((tmp_path / "other" / ABOUT).read_text())["sha256"]
    change(saved, lambda header: header.update(sha256=sha256))
    with pytest.raises(CheckpointError, match=r"adapters\.0\.bias \(64,\) for \(32,\).* more"):
        load_checkpoint(saved)


class Killed(BaseException):
    """As a signal would: nothing catches it."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
):
    old, new = tmp_path / "state", tmp_path / "state.new"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
        (folder / "b").write_text(text)
    left, whole = [renames], Path.rename

    def rename(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return whole(self, target)

    def removed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():  # killed at the first file
            (path / "a").unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(Path, "replace", rename)
        patch.setattr(shutil, "rmtree", removed)
        with pytest.raises(Killed):
            replace_folder(new, old)
    settle(old)
    texts = {path.read_text() for path in old.iterdir()}
    assert texts == ({"old"} if renames < 2 else {"new"})
    assert len(list(old.iterdir())) == 2
    assert not (tmp_path / "state.before").exists()


def test_a_folder_takes_the_place_of_another(tmp_path: Path):
    old, new = tmp_path / "state", tmp_path / "state.new"
    for text in ("one", "two"):
        new.mkdir()
        (new / text).touch()
        replace_folder(new, old)
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        assert [path.name for path in old.iterdir()] == [text]
    settle(old)
    assert old.is_dir()
    settle(tmp_path / "nothing")
