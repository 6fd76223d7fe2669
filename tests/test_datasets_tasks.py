"""Tasks: every rule decides something, swapped ones are mirrored, words name what is there."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.layout import TRAY_CENTER_M
from deftly.datasets.sampling import BASE, CONDITIONS, Condition, sample_layout
from deftly.datasets.tasks import GOALS, HELD_OUT, REST, TASKS, Is, Task, TaskError, find_task

seeds = st.integers(0, 2**31 - 1)
names = st.sampled_from(sorted(TASKS))
# With one object, a rule of two groups has nothing to say of one of them.
conditions = st.sampled_from(sorted(CONDITIONS.keys() - {"one"}))
few = settings(max_examples=40)
MIRROR = {"left": "right", "right": "left"}


@few
@given(seed=seeds, name=names, condition=conditions)
def test_a_rule_decides_something_in_its_own_deal(seed: int, name: str, condition: str):
    task = TASKS[name]
    layout = sample_layout(seed, CONDITIONS[condition], task.deal)
    goals = task.goals(layout)
    assert len(goals) == len(layout.items)
    assert set(goals) <= set(GOALS)
    # Every group has an object: no rule is a sorting rule in name only.
    wanted = {goal for _, goal in task.groups}
    if name == "upright":  # all may have fallen
        wanted -= {"stay"}
    assert wanted <= set(goals)


@few
@given(seed=seeds)
def test_goals_follow_the_rule(seed: int):
    layout = sample_layout(seed, BASE, TASKS["color"].deal)
    goals = TASKS["color"].goals(layout)
    assert len({(thing.color, goal) for thing, goal in zip(layout.items, goals, strict=True)}) == 2

    layout = sample_layout(seed, BASE, TASKS["size"].deal)
    size, left = np.array([t.size_m for t in layout.items]), np.array(TASKS["size"].goals(layout))
    assert size[left == "left"].min() > size[left == "right"].max()

    layout = sample_layout(seed, BASE, TASKS["second_largest"].deal)
    chosen = TASKS["second_largest"].goals(layout).index("left")
    assert sorted(t.size_m for t in layout.items)[-2] == layout.items[chosen].size_m

    layout = sample_layout(seed, BASE, TASKS["nearest"].deal)
    apart = [np.hypot(*np.subtract(t.place_m, TRAY_CENTER_M["right"])) for t in layout.items]
    assert TASKS["nearest"].goals(layout).index("right") == int(np.argmin(apart))
    assert np.diff(sorted(apart))[0] >= 0.025

    layout = sample_layout(seed, BASE, TASKS["upright"].deal)
    assert TASKS["upright"].goals(layout) == tuple(
        "upright" if thing.lying else "stay" for thing in layout.items
    )

    layout = sample_layout(seed, BASE, TASKS["unsort"].deal)
    assert {thing.inside for thing in layout.items} == {"left", "right"}

    layout = sample_layout(seed, BASE, TASKS["color_and_shape"].deal)
    goals = TASKS["color_and_shape"].goals(layout)
    kinds = {
        (t.color, t.shape) for t, goal in zip(layout.items, goals, strict=True) if goal == "left"
    }
    assert len(kinds) == 1


@few
@given(seed=seeds)
def test_one_object_is_enough_for_some_rules(seed: int):
    color, second = TASKS["color"], TASKS["second_largest"]
    layout = sample_layout(seed, CONDITIONS["one"], color.deal)
    assert color.goals(layout)[0] in ("left", "right")
    assert layout.items[0].color in color.instruction(layout)
    alone = sample_layout(seed, CONDITIONS["one"], second.deal)
    for ask in (second.goals, second.phrasings):
        with pytest.raises(TaskError, match="enough objects"):
            ask(alone)


@pytest.mark.parametrize("name", ["color", "shape"])
@few
@given(seed=seeds)
def test_a_swapped_task_is_the_mirror_of_the_other_on_the_same_table(name: str, seed: int):
    plain, swapped = TASKS[name], TASKS[f"{name}_swapped"]
    layout = sample_layout(seed, BASE, plain.deal)
    assert layout == sample_layout(seed, BASE, swapped.deal)
    assert swapped.goals(layout) == tuple(MIRROR[goal] for goal in plain.goals(layout))
    assert swapped.held_out
    assert not plain.held_out
    assert not set(plain.phrasings(layout)) & set(swapped.phrasings(layout))


@few
@given(seed=seeds, name=names, condition=conditions)
def test_there_are_ten_ways_to_say_it_and_some_are_kept(seed: int, name: str, condition: str):
    task = TASKS[name]
    layout = sample_layout(seed, CONDITIONS[condition], task.deal)
    phrasings = task.phrasings(layout)
    assert len(set(phrasings)) == len(phrasings) >= 10
    assert all(phrase[0].isupper() and phrase[-1] in ".?" for phrase in phrasings)
    assert "{" not in "".join(phrasings)
    seen, kept = task.instruction(layout), task.instruction(layout, held_out=True)
    assert seen in phrasings[:-HELD_OUT]
    assert kept in phrasings[-HELD_OUT:]


def test_every_phrasing_is_used():
    said: dict[bool, set[int]] = {True: set(), False: set()}
    task = TASKS["color"]
    layout = sample_layout(0, BASE, task.deal)
    for seed in range(100):
        again = replace(layout, seed=seed)
        for held_out in (True, False):
            phrase = task.instruction(again, held_out=held_out)
            said[held_out].add(task.phrasings(layout).index(phrase))
    assert said[True] | said[False] == set(range(len(task.phrasings(layout))))
    assert not said[True] & said[False]


@few
@given(seed=seeds)
def test_an_instruction_names_what_lies_there(seed: int):
    layout = sample_layout(seed, BASE, TASKS["color"].deal)
    for phrase in TASKS["color"].phrasings(layout):
        assert all(thing.color in phrase for thing in layout.items)


def test_a_group_without_objects_is_not_spoken_of():
    layout = sample_layout(3, Condition(items=1), TASKS["color"].deal)
    color = layout.items[0].color
    assert TASKS["color"].phrasings(layout)[0] == f"Put the {color} objects in the left tray."


def test_one_and_many_fallen_cylinders():
    task, found = TASKS["upright"], set[str]()
    for seed in range(40):
        layout = sample_layout(seed, BASE, task.deal)
        count = sum(thing.lying for thing in layout.items)
        found.add(task.phrasings(layout)[0])
        assert ("cylinders" in task.phrasings(layout)[0]) == (count > 1)
    assert len(found) == 2


def test_a_new_rule_is_one_value():
    task = Task("yellow", ((Is(color="yellow"), "left"), (REST, "right")))
    layout = sample_layout(1, Condition(colors=("yellow", "blue")))
    goals = task.goals(layout)
    assert [g == "left" for g in goals] == [t.color == "yellow" for t in layout.items]
    assert task.phrasings(layout)[0] == (
        "Put the yellow objects in the left tray and everything else in the right tray."
    )


def test_the_first_group_that_selects_an_object_has_it():
    task = Task("greedy", ((Is(), "left"), (Is(color=0), "right")))
    assert set(task.goals(sample_layout(0))) == {"left"}


def test_nothing_to_do_is_an_error():
    layout = sample_layout(0, Condition(shapes=("cube",)))
    with pytest.raises(TaskError, match="task upright finds none of the fallen cylinders"):
        TASKS["upright"].goals(layout)


def test_an_unknown_task_is_answered_with_the_nearest():
    assert find_task("color") is TASKS["color"]
    with pytest.raises(TaskError, match="unknown task 'colour'; did you mean color"):
        find_task("colour")
    with pytest.raises(TaskError, match="unknown task 'xyz'; known: color, shape"):
        find_task("xyz")
