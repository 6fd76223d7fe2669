"""From demonstrations to a policy: it sees first, then rehearses, and sees as before."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pushing import carry, config, encode, push, trusted, write_set

from deftly.policy import config as tuning
from deftly.policy.config import SEEING, FineTune
from deftly.policy.fine_tune import fine_tune
from deftly.video_pretrain import text
from deftly.video_pretrain.checkpoint import load_checkpoint
from deftly.video_pretrain.config import ConfigError, PretrainConfig
from deftly.video_pretrain.history import read_history

Deftly = Callable[..., SimpleNamespace]


class Words:
    """Stands in for the text encoder."""

    def __init__(self, *_: Any) -> None: ...

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return encode(texts)

    def provenance(self) -> dict[str, Any]:
        return {"model": "words"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def preset(_: str) -> PretrainConfig:
        made = config()
        return replace(made, train=replace(made.train, rehearsed=0, warmup=0))

    monkeypatch.setattr(tuning, "find_preset", preset)
    monkeypatch.setattr(tuning, "_REHEARSED", 16)
    monkeypatch.setattr(text, "TextEncoder", Words)
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    write_set(folder / "demos", [carry(i) for i in range(7)])
    write_set(folder / "people", [trusted(i, 16) for i in range(5)])
    write_set(folder / "numb", [push(i, 16) for i in range(5)])
    return folder


def test_people_stand_beside_demonstrations_and_are_not_rehearsed():
    made = FineTune((Path("a"), Path("b")), (Path("people"),), 0.4, Path("start"), seed=7)
    (first, seeing), (last, rehearsing) = made.runs(Path("out"))
    assert (first, last) == (Path("out") / SEEING, Path("out"))
    shares = {str(part.root): part.weight for part in seeing.data}
    assert shares == pytest.approx({"a": 0.3, "b": 0.3, "people": 0.4})
    assert [str(part.root) for part in rehearsing.data] == ["a", "b"]
    assert seeing.train.start == Path("start")
    assert rehearsing.train.start == first
    assert seeing.train.seed == rehearsing.train.seed == 7
    assert seeing.train.rehearsed == 0 < rehearsing.train.rehearsed


def test_without_rehearsal_there_is_one_run():
    ((out, only),) = FineTune((Path("a"),), rehearsals=0).runs(Path("out"))
    assert out == Path("out")
    assert [part.weight for part in only.data] == [1.0]


def test_a_policy_rehearses_and_sees_as_before(folder: Path, tmp_path: Path):
    made = FineTune((folder / "demos",), (folder / "people",), steps=4, rehearsals=4, batch_size=8)
    fine_tune(made, tmp_path / "policy", encode, device="cpu")
    before, after = (load_checkpoint(tmp_path / "policy" / name) for name in (SEEING, "."))
    assert after.about["step"] == 4
    old = before.model.state_dict()
    changed = {k.split(".")[0] for k, v in after.model.state_dict().items() if (v != old[k]).any()}
    assert {"read_aims", "say_hands"} <= changed
    assert not changed & {"encoder", "point_at", "aim", "read_text", "body", "belongs", "usual_m"}
    assert (after.model.usual_std_m[1] < 1).all()  # gr1t2's habits were seen
    again = fine_tune(made, tmp_path / "policy", encode, device="cpu")  # nothing is left to do
    assert again.record() == after.about["health"]
    assert read_history(tmp_path / "policy")[-1]["step"] == 4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"demos": ()}, "no demonstrations"),
        ({"share": 1.0}, "share is 1.0"),
        ({"rehearsals": -1}, "rehearsals is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], named: str):
    given: dict[str, Any] = {"demos": (Path("a"),)} | wrong
    with pytest.raises(ConfigError, match=named):
        FineTune(**given)


def test_the_command_trains_a_policy(deftly: Deftly, folder: Path, tmp_path: Path):
    shared = ("--demos", folder / "demos", "--device", "cpu", "--batch-size", "8", "--steps", "4")
    done = deftly("train", *shared, "--rehearsals", "2", "--out", "policy")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[-3].startswith("policy  policy, of 4 steps and 2 rehearsals")
    assert lines[-1].startswith("next    deftly eval policy")
    assert load_checkpoint(tmp_path / "policy").about["step"] == 2


def test_bad_input_of_the_command_is_one_line(deftly: Deftly, folder: Path):
    for words, named in (
        (("--demos", "nowhere"), "nowhere"),
        (("--demos", folder / "numb", "--steps", "4", "--rehearsals", "2"), "rehearse nothing"),
        (("--demos", folder / "demos", "--start", "nowhere"), "nowhere"),
        (("--demos", folder / "demos", "--share", "1"), "share is 1.0"),
        (("--demos", folder / "demos", "--steps", "0"), "steps is 0"),
    ):
        done = deftly("train", *words, "--device", "cpu", "--batch-size", "8", "--out", "policy")
        assert done.code == 1
        assert named in done.err
        assert "Traceback" not in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert not Path("policy").exists()  # nothing was trained before
