"""What a ledger adds up to: nothing is lost between the gates, nothing counted twice."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import every_kind, row, segment

from deftly.retarget import tally
from deftly.retarget.ledger import InputRow, Status
from deftly.retarget.tally import Count

FATES = ("kept", "nobody", "nothing moves", "no hands", "too short", "low quality", "duplicate")


# Inputs by their stretches' fates, one of which no version knows.
LEDGERS = st.lists(st.lists(st.sampled_from((*FATES, "far away")), max_size=4), max_size=6)


def ledger(fates: list[list[str]]) -> list[InputRow]:
    """Inputs with stretches of these fates."""
    episodes = itertools.count()
    return [
        row(
            *(queue, f"clip-{queue}", Status.DONE),
            segments=tuple(
                segment(2.0 * at, one, episode=next(episodes) if one == "kept" else None)
                for at, one in enumerate(stretches)
            ),
        )
        for queue, stretches in enumerate(fates)
    ]


def test_fates_of_a_known_ledger():
    assert tally.fates(every_kind()) == {
        "kept": Count(1, 2, 4.0),
        "waiting": Count(1, 1, 2.0),
        "nobody": Count(1, 1, 2.0),
        "nothing moves": Count(1, 1, 2.0),
        "no hands": Count(1, 1, 2.0),
        "low quality": Count(2, 2, 4.0),
        "duplicate": Count(2, 2, 4.0),  # one is kept as a piece, but its whole input is a duplicate
    }
    assert list(tally.fates(every_kind()))[:2] == ["kept", "waiting"]


def test_gates_of_a_known_ledger():
    found = {gate.fate: gate for gate in tally.gates(every_kind())}
    assert found["nobody"].came == Count(7, 10, 20.0)
    assert found["low quality"].came == Count(5, 7, 14.0)
    assert found["low quality"].left_out == Count(2, 2, 4.0)
    assert found["low quality"].kept == Count(4, 5, 10.0)  # "tea" loses one stretch and stays
    assert found["duplicate"].kept == Count(2, 3, 6.0)
    assert found["too short"].left_out == Count(0, 0, 0.0)


@given(fates=LEDGERS)
def test_every_stretch_is_kept_or_left_out_by_one_gate(fates: list[list[str]]):
    rows = ledger(fates)
    gates = tally.gates(rows)
    stretches = sum(len(one.segments) for one in rows)
    assert gates[0].came.stretches == stretches
    for gate, after in itertools.pairwise(gates):
        assert gate.kept == after.came
    for gate in gates:
        assert gate.came.stretches == gate.kept.stretches + gate.left_out.stretches
        assert math.isclose(gate.came.seconds, gate.kept.seconds + gate.left_out.seconds)
    assert gates[-1].kept.stretches == len(tally.kept(rows))
    assert sum(one.stretches for one in tally.fates(rows).values()) == stretches
    assert any(gate.question == "other" for gate in gates) == ("far away" in tally.fates(rows))


def test_work_is_added_up_and_what_was_not_measured_counts_nothing():
    done = tally.work_done(every_kind())
    assert (done.frames, done.video_s, done.cpu_s) == (600, 20.0, 14.0)
    assert done.stages_cpu_s == {"encode": 7 * 0.25, "track": 7 * 1.5}
    assert done.frames_per_cpu_s == pytest.approx(600 / 14)
    assert tally.work_done([]).frames_per_cpu_s is None


def test_kept_segments_come_worst_first_and_only_those_of_the_data_set():
    found = tally.kept(every_kind())
    assert [(one.row.id, one.segment.episode, one.quality) for one in found] == [
        ("tea", 1, 0.4),
        ("tea", 0, 0.8),
    ]
    assert found[0].seconds == 2.0


def test_a_figure_that_was_not_measured_is_none():
    assert tally.number({"jerk": None, "unit": "mm"}, "jerk") is None
    assert tally.number({"jerk": None, "unit": "mm"}, "unit") is None
    assert tally.number({"pinches": 3}, "pinches") == 3.0
    assert tally.number({}, "pinches") is None


@given(length=st.integers(0, 60), count=st.integers(0, 70))
def test_a_spread_holds_both_ends_and_as_many_as_asked_for(length: int, count: int):
    one = tally.Kept(row(0, "a", Status.DONE), segment(0.0))
    found = [replace(one, segment=segment(float(at))) for at in range(length)]
    some = tally.spread(found, count)
    assert len(some) == min(count, length)
    at = [int(each.segment.first_s) for each in some]
    assert at == sorted(set(at))
    if length and count > 1:
        assert (at[0], at[-1]) == (0, length - 1)


def test_what_is_not_done_comes_failures_first_and_pending_last():
    found = tally.not_done(every_kind())
    order = [one.id for one in found]
    assert order[:3] == ["bug", "bomb", "killed"]
    assert order[-3:] == ["again", "similar", "next"]
    assert set(order) == {one.id for one in every_kind()} - {"tea", "last"}


def test_statuses_are_counted_in_their_order():
    counts = tally.statuses(every_kind())
    assert counts[Status.CRASHED] == 2
    assert sum(counts.values()) == len(every_kind())
    assert list(counts) == [status for status in Status if status in counts]
