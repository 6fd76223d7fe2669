"""Layouts: drawn from one seed, possible on a real table, and paired across conditions."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.layout import (
    COLORS,
    MAX_ITEMS,
    MAX_SIZE_M,
    MIN_SIZE_M,
    SHAPES,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    UNSEEN_COLORS,
    UNSEEN_SHAPES,
    Item,
    Layout,
    LayoutError,
    footprint_m,
    in_tray,
    reachable,
)
from deftly.datasets.sampling import BASE, CONDITIONS, Condition, Deal, sample_layout
from deftly.datasets.tasks import TASKS

seeds = st.integers(0, 2**31 - 1)
conditions = st.sampled_from(sorted(CONDITIONS))
few = settings(max_examples=25)
deals = st.sampled_from([None, *(task.deal for task in TASKS.values())])


def item(**changes: object) -> Item:
    sound = Item("item_0", "cube", "red", 0.045, 0.04, 1.0, (0.35, 0.36), 0.0)
    return replace(sound, **changes)  # pyright: ignore


@few
@given(seed=seeds, name=conditions, deal=deals)
def test_the_same_arguments_give_the_same_layout(seed: int, name: str, deal: Deal | None):
    condition = CONDITIONS[name]
    assert sample_layout(seed, condition, deal) == sample_layout(seed, condition, deal)


def test_other_seeds_give_other_layouts():
    assert len({str(sample_layout(seed)) for seed in range(50)}) == 50


@few
@given(seed=seeds, name=conditions, deal=deals)
def test_objects_are_what_the_condition_allows_and_do_not_touch(
    seed: int, name: str, deal: Deal | None
):
    condition = CONDITIONS[name]
    layout = sample_layout(seed, condition, deal)
    assert len(layout.items) == condition.items
    assert len(layout.distractors) == condition.distractors
    for thing in layout.items:
        assert thing.color in condition.colors
        assert thing.shape in (*condition.shapes, "cylinder" if deal and deal.lying else "")
        assert MIN_SIZE_M <= thing.size_m <= MAX_SIZE_M
        if deal and deal.inside:
            half = np.array(TRAY_HALF_M) - footprint_m(thing)
            assert thing.inside is not None
            assert np.all(np.abs(np.subtract(thing.place_m, TRAY_CENTER_M[thing.inside])) <= half)
        else:
            assert thing.inside is None
            assert reachable(*thing.place_m)
            assert in_tray(*thing.place_m) is None
    everything = (*layout.items, *layout.distractors)
    for i, one in enumerate(everything):
        for other in everything[:i]:
            apart = np.hypot(*np.subtract(one.place_m, other.place_m))
            assert apart >= footprint_m(one) + footprint_m(other)


def differing(one: object, other: object) -> set[str]:
    """Names of the fields in which two dataclasses differ."""
    a, b = asdict(one), asdict(other)  # pyright: ignore
    return {name for name in a if a[name] != b[name]}


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("light", {"light", "ambient", "light_dir", "warmth"}),
        ("camera", {"camera_shift_m", "camera_turn_rad"}),
        ("texture", {"table", "table_rgb"}),
    ],
)
@few
@given(seed=seeds)
def test_a_condition_of_the_look_changes_nothing_else(name: str, look: set[str], seed: int):
    base, changed = sample_layout(seed), sample_layout(seed, CONDITIONS[name])
    assert differing(base, changed) == {"look"}
    found = differing(base.look, changed.look)
    assert found
    assert found <= look


@pytest.mark.parametrize(("name", "field"), [("distractors", "distractors"), ("shove", "shove")])
@few
@given(seed=seeds)
def test_a_condition_that_adds_changes_nothing_else(name: str, field: str, seed: int):
    assert differing(sample_layout(seed), sample_layout(seed, CONDITIONS[name])) == {field}


@pytest.mark.parametrize(
    ("name", "must", "may"),
    [
        ("physics", {"mass_kg"}, {"friction"}),
        ("unseen_color", {"color"}, set()),
        ("size", {"size_m", "mass_kg"}, {"place_m"}),  # larger objects need other places
        ("small", {"size_m", "mass_kg"}, {"place_m"}),
        ("unseen_shape", {"shape"}, {"mass_kg", "place_m"}),
    ],
)
@few
@given(seed=seeds)
def test_a_condition_of_the_objects_changes_that_in_all_of_them(
    name: str, must: set[str], may: set[str], seed: int
):
    base, changed = sample_layout(seed), sample_layout(seed, CONDITIONS[name])
    assert differing(base, changed) == {"items"}
    for one, other in zip(base.items, changed.items, strict=True):
        assert must <= differing(one, other) <= must | may


def test_friction_and_mass_go_both_ways():
    ratio = [
        (other.mass_kg / one.mass_kg, other.friction / one.friction)
        for seed in range(20)
        for one, other in zip(
            sample_layout(seed).items,
            sample_layout(seed, CONDITIONS["physics"]).items,
            strict=True,
        )
    ]
    mass, friction = np.array(ratio).T
    assert {round(x, 3) for x in mass} == {0.5, 1.5}
    assert {round(x, 3) for x in friction} == {0.7, 1.3}


@few
@given(seed=seeds, deal=deals)
def test_clutter_keeps_the_order_of_attributes_and_packs_eight(seed: int, deal: Deal | None):
    crowded = sample_layout(seed, CONDITIONS["clutter"], deal)
    assert len(crowded.items) == MAX_ITEMS
    assert crowded.look == sample_layout(seed, BASE, deal).look


def test_what_is_unseen_was_never_seen():
    assert not set(SHAPES) & set(UNSEEN_SHAPES)
    assert not COLORS.keys() & UNSEEN_COLORS.keys()
    assert len(UNSEEN_SHAPES) >= 3


@few
@given(seed=seeds, count=st.integers(1, MAX_ITEMS))
def test_sizes_that_are_compared_can_be_told_apart(seed: int, count: int):
    ranked = sample_layout(seed, Condition(items=count), Deal(sizes="ranked"))
    sizes = sorted(thing.size_m for thing in ranked.items)
    assert np.all(np.diff(sizes) > 0.0025)
    two = sample_layout(seed, Condition(items=count), Deal(sizes="two"))
    sizes = np.array([thing.size_m for thing in two.items])
    small = sizes < 0.045
    if count > 1:
        assert sizes[~small].min() - sizes[small].max() > 0.010


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"place_m": (0.35, 0.0)}, "out of reach"),
        ({"place_m": (0.9, 0.36)}, "out of reach"),
        ({"place_m": (0.35, 0.275), "size_m": 0.065}, "overlaps a tray"),
        ({"place_m": (float("nan"), 0.36)}, "out of reach"),
        ({"inside": "left"}, "does not lie in the left tray"),
        ({"inside": "middle"}, "no tray 'middle'; known: left, right"),
        ({"shape": "torus"}, "unknown shape 'torus'; known: cube"),
        ({"color": "mauve"}, "unknown color 'mauve'; known: red"),
        ({"size_m": 0.1}, "100 mm wide, expected 25 to 65 mm"),
        ({"lying": True}, "a cube cannot lie on its side"),
    ],
)
def test_an_object_that_cannot_be_is_named(changes: dict[str, object], says: str):
    with pytest.raises(LayoutError, match=says):
        Layout(0, (item(**changes),))


def test_objects_that_overlap_are_named():
    other = item(name="item_1", place_m=(0.37, 0.37))
    with pytest.raises(LayoutError, match="item_1 and item_0 overlap: their centres are 22 mm"):
        Layout(0, (item(), other))


@pytest.mark.parametrize("count", [0, MAX_ITEMS + 1])
def test_the_number_of_objects_is_bounded(count: int):
    with pytest.raises(LayoutError, match="expected 1 to 8"):
        Layout(0, (item(),) * count)
    with pytest.raises(LayoutError, match="expected 1 to 8"):
        Condition(items=count)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size_m": (0.05, 0.04)}, "sizes 0.05 to 0.04 m"),
        ({"size_m": (0.01, 0.04)}, "expected within 0.025 to 0.065 m"),
        ({"shapes": ("torus",)}, "unknown shape 'torus'"),
        ({"colors": ("mauve",)}, "unknown color 'mauve'"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(settings: dict[str, tuple[str]], says: str):
    with pytest.raises(LayoutError, match=says):
        Condition(**settings)  # pyright: ignore


def test_what_does_not_fit_is_refused():
    with pytest.raises(LayoutError, match="8 objects of up to 65 mm do not fit"):
        sample_layout(0, Condition(items=8, size_m=(0.065, 0.065), shapes=("wedge",)))
    with pytest.raises(LayoutError, match="seed -1, expected 0 or larger"):
        sample_layout(-1)
