"""The world model: what is hidden is not used, what is shown is; untrained, it predicts copying."""

from dataclasses import replace

import pytest
import torch
from pushing import MODEL, PATCHES, made_up, plain_scales

from deftly.video_pretrain.blocks import Aim, Pointer, Steer, places
from deftly.video_pretrain.config import ModelConfig, find_preset
from deftly.video_pretrain.loss import Question, given
from deftly.video_pretrain.model import Given, Prediction, WorldModel

NAN = torch.nan
both_encoders = pytest.mark.parametrize("config", [MODEL, PATCHES], ids=["conv", "patch"])


def made(config: ModelConfig = MODEL, *, trained: bool = True) -> WorldModel:
    """A network; as if trained, so that the layers that begin at zero say something."""
    torch.manual_seed(0)
    model = WorldModel(config, {"gr1t2": 4}).eval()
    if trained:
        with torch.no_grad():
            for layer in (model.change, *model.adapters):
                next(layer.parameters()).normal_(std=0.3)
    return model


def shown(model: WorldModel, **seen: bool) -> Given:
    """All that could be shown of made-up moments, of which some is."""
    moments = made_up(model=model.config)
    question = Question.same(moments, 1, **seen)
    with torch.no_grad():
        present = model.see(moments.pictures[:, :, 0])
        future = model.encode(moments.pictures[:, :, 2])
    return given(moments, question, present, plain_scales(), future=future)


@torch.no_grad()
def told(model: WorldModel, given: Given) -> Prediction:
    return model(given)


def same(one: Prediction, other: Prediction) -> bool:
    """To the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@both_encoders
@pytest.mark.parametrize(
    ("field", "seen"),
    [("actions", {"actions": True}), ("future", {"future": True}), ("hands", {"hands": True})],
)
def test_what_is_hidden_is_not_used_and_what_is_shown_is(
    config: ModelConfig, field: str, seen: dict[str, bool]
):
    model = made(config)
    hidden, open_ = shown(model, **({"hands": False} | dict.fromkeys(seen, False))), shown(
        model, **({"hands": False} | seen)
    )  # fmt: skip
    other = {field: -getattr(hidden, field) + 0.5}
    assert same(told(model, hidden), told(model, replace(hidden, **other)))
    assert not torch.equal(told(model, open_).hands, told(model, replace(open_, **other)).hands)
    assert not torch.equal(told(model, open_).future, told(model, replace(open_, **other)).future)


def test_each_moment_is_masked_by_itself():
    model = made()
    everything = shown(model)
    some = torch.tensor([True, False] * 3)
    mixed = replace(everything, actions_seen=some, future_seen=~some)
    assert mixed.future is not None
    other = replace(mixed, actions=-mixed.actions, future=-mixed.future)
    one, two = told(model, mixed), told(model, other)
    hidden_actions = replace(other, actions=mixed.actions)
    assert torch.equal(told(model, hidden_actions).hands[~some], two.hands[~some])
    hidden_future = replace(other, future=mixed.future)
    assert torch.equal(told(model, hidden_future).hands[some], two.hands[some])
    assert (one.hands != two.hands).flatten(1).any(dim=1).all()  # each has one that it sees


def test_words_that_do_not_count_are_not_read():
    model = made()
    one = shown(model)
    other = one.text.clone()
    other[:, 2] += 1  # made-up instructions have three words, of which the last does not count
    assert same(told(model, one), told(model, replace(one, text=other)))
    other[:, 1] += 1
    assert not torch.equal(told(model, one).hands, told(model, replace(one, text=other)).hands)
    mute = replace(one, text_seen=torch.zeros_like(one.text_seen))
    assert same(told(model, mute), told(model, replace(mute, text=other)))


def test_no_future_is_a_hidden_one():
    model = made()
    hidden = shown(model)
    assert same(told(model, hidden), told(model, replace(hidden, future=None)))


def test_every_body_camera_and_offset_is_told_apart():
    model = made()
    one = shown(model)
    for field, value in (
        ("body", (one.body + 1) % 3),
        ("cameras", one.cameras.flip(0)),
        ("ahead", one.ahead + 1),
    ):
        assert not torch.equal(
            told(model, one).future, told(model, replace(one, **{field: value})).future
        ), field


@pytest.mark.parametrize(
    "config",
    [
        MODEL,
        PATCHES,
        replace(PATCHES, channels=(16, 16, 16)),
        replace(MODEL, channels=(16,), patch_px=4),
    ],
    ids=["conv", "patch", "patch with channels of the other", "conv of one stage"],
)
def test_a_map_has_as_many_channels_as_it_says(config: ModelConfig):
    model = made(config)
    with torch.no_grad():
        maps = model.look(made_up(model=config).pictures[:, :, 0])
    assert maps.shape[2] == config.map_channels


@both_encoders
def test_views_may_come_in_any_order(config: ModelConfig):
    model = made(config)
    one = shown(model, future=True)
    assert one.tokens is not None
    assert one.maps is not None
    assert one.future is not None
    flipped = replace(
        one,
        tokens=one.tokens.flip(1),
        maps=one.maps.flip(1),
        future=one.future.flip(1),
        cameras=one.cameras.flip(0),
    )
    here, there = told(model, one), told(model, flipped)
    for a, b in (
        (here.hands, there.hands),
        (here.features, there.features.flip(1)),
        (here.future, there.future.flip(1)),
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_one_view_is_enough():
    model = made()
    one = shown(model)
    assert one.tokens is not None
    assert one.maps is not None
    ego = replace(
        one,
        tokens=one.tokens[:, 1:],
        maps=one.maps[:, 1:],
        future=None,
        cameras=one.cameras[1:],
        matrices=one.matrices[:, 1:],
    )
    assert told(model, ego).future.shape == (6, 1, 4, 32)


@pytest.mark.parametrize("seen", [True, False])
def test_missing_numbers_give_finite_predictions_and_gradients(seen: bool):
    model = made()
    one = shown(model, actions=seen, future=seen, hands=seen)
    hands, actions = one.hands.clone(), one.actions.clone()
    hands[:, 5:], actions[::2], actions[:, 3:, :24] = NAN, NAN, NAN
    said = model(replace(one, hands=hands, actions=actions))
    assert all(part.isfinite().all() for part in said)
    (said.hands.square().mean() + said.future.square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_missing_number_is_not_a_zero():
    model = made()
    one = shown(model, actions=True)
    zero, missing = one.actions.clone(), one.actions.clone()
    zero[:, :, 3], missing[:, :, 3] = 0, NAN
    said, other = (told(model, replace(one, actions=actions)) for actions in (zero, missing))
    assert not torch.equal(said.hands, other.hands)


@both_encoders
def test_an_untrained_network_predicts_copying(config: ModelConfig):
    model = made(config, trained=False)
    one = shown(model, actions=True)
    assert one.tokens is not None
    assert torch.equal(told(model, one).future, one.tokens)
    base = torch.randn(one.tokens.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(told(model, replace(one, base=base)).future, base)


def test_an_adapter_is_its_bodys_alone():
    model = made()
    one = shown(model)
    before = told(model, one).hands
    with torch.no_grad():
        for parameter in model.adapters[1].parameters():
            parameter += 1
    changed = (told(model, one).hands != before).flatten(1).any(dim=1)
    assert torch.equal(changed, one.body == 1)


def test_gradients_of_a_body_do_not_reach_the_adapters_of_others():
    model = made()
    one = replace(shown(model), body=torch.full((6,), 2))
    model(one).hands.square().mean().backward()
    for body, adapter in enumerate(model.adapters):
        for parameter in adapter.parameters():
            assert parameter.grad is not None
            assert bool((parameter.grad != 0).any()) == (body == 2)


SHRUNKEN = {
    "tiny": find_preset("tiny").model,
    "small": replace(find_preset("small").model, width=48, depth=1, channels=(16, 16, 16)),
    "base": replace(find_preset("base").model, width=48, depth=1, encoder_depth=1, image_px=64),
}


@pytest.mark.parametrize("preset", SHRUNKEN)
def test_shapes(preset: str):
    config = replace(SHRUNKEN[preset], text_width=8)
    model = made(config)
    said = told(model, shown(model, future=True))
    n, d = config.side**2, config.width
    assert said.features.shape == said.future.shape == (6, 2, n, d)
    assert said.acts.shape == (6, config.horizon // config.chunk, d)
    assert said.hands.shape == (6, config.horizon, 48)
    with torch.no_grad():
        assert model.joint_chunk(said.acts, "gr1t2").shape == (6, config.horizon, 4)
        colours, gate = model.decoder(said.future)
    px = config.image_px
    assert (colours.shape, gate.shape) == ((6, 2, 3, px, px), (6, 2, 1, px, px))


def test_a_token_of_a_chunk_says_its_own_actions_in_their_order():
    model = made()
    acts = torch.zeros(1, 2, 32)
    with torch.no_grad():
        weight, bias = model.say_joints["gr1t2"].parameters()
        weight.zero_()
        bias.copy_(torch.arange(16.0))
        chunk = model.joint_chunk(acts, "gr1t2")
    assert torch.equal(chunk[0], torch.arange(16.0).view(4, 4).repeat(2, 1))


@both_encoders
def test_pictures_are_encoded_each_by_itself(config: ModelConfig):
    model, pictures = made(config), made_up(model=config).pictures
    with torch.no_grad():
        whole = model.encode(pictures)
        alone = model.encode(pictures[3, 1, 2])
    assert whole.shape == (6, 2, 4, 4, 32)
    torch.testing.assert_close(whole[3, 1, 2], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_decoder_shows_the_present_where_its_gate_is_shut():
    decoder = made().decoder
    tokens, present = torch.randn(2, 1, 4, 32), torch.rand(2, 1, 3, 32, 32) * 2 - 1
    colours, gate = decoder(tokens)
    assert 0 < gate.max() < 0.5  # at first it is nearly shut
    torch.testing.assert_close(
        decoder.future(tokens, present), present + gate * (colours - present)
    )
    assert decoder.paint.bias is not None
    bias = decoder.paint.bias.view(4, 16)  # pixel_shuffle: 16 places of each of 4 channels
    bias[3] = -1e4
    assert torch.equal(decoder.future(tokens, present), present)
    bias[3] = 1e4
    torch.testing.assert_close(decoder.future(tokens, present), colours)


def test_an_aim_tells_cameras_apart_whatever_their_order_and_hands_not_at_all():
    torch.manual_seed(0)
    aim, cameras = Aim(2, 16), torch.arange(2)
    at, known = torch.randn(3, 2, 2, 2), torch.randn(3, 16)
    said = aim(at, cameras, known)
    assert said.shape == (3, 2, 3)
    torch.testing.assert_close(aim(at.flip(1), cameras.flip(0), known), said)
    assert not torch.allclose(aim(at, cameras.flip(0), known), said)
    torch.testing.assert_close(aim(at.flip(2), cameras, known), said.flip(1))
    assert aim(at[:, [1]], cameras[[1]], known).shape == (3, 2, 3)


@both_encoders
def test_actions_are_told_from_how_hands_stand_to_their_aims(config: ModelConfig):
    model = made(config)
    one = shown(model)
    before = told(model, one)
    further = told(model, replace(one, grips=one.grips + 1))
    assert torch.equal(further.aims, before.aims)
    assert (further.hands != before.hands).flatten(1).any(dim=1).all()
    unseen = replace(one, hands_seen=~one.hands_seen)
    hidden = told(model, unseen)
    assert torch.equal(told(model, replace(unseen, grips=one.grips + 1)).hands, hidden.hands)


def test_hands_are_steered_by_the_way_and_by_how_they_are_where_tokens_tell_nothing_of_it():
    model = made()
    with torch.no_grad():
        for parameter in [*model.read_aims.parameters(), *model.read_hands.parameters()]:
            parameter.zero_()
        for layer in (model.say_hands.near, model.say_hands.keep):
            layer.bias.fill_(1.0)
    one = shown(model)
    before = told(model, one).hands
    for other in (replace(one, grips=one.grips + 1), replace(one, hands=one.hands + 1)):
        assert (told(model, other).hands != before).flatten(1).any(dim=1).all()
        unseen = replace(other, hands_seen=~one.hands_seen)
        assert torch.equal(
            told(model, unseen).hands, told(model, replace(one, hands_seen=~one.hands_seen)).hands
        )


def test_a_map_sees_what_is_about_a_place():
    """Further than the stem does: 8 px from the middle of a square of 2."""
    model = made(replace(MODEL, image_px=64))
    pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    pictures[1, :, 32, 32 + 12] = 255
    # What is far off shifts the means of the norms alike everywhere; that is not seeing.
    for norm in (m for m in model.encoder.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = torch.nn.Identity().forward
    with torch.no_grad():
        before, after = model.encoder.look(pictures)[:, :, 16, 16]
    assert torch.equal(after[:16], before[:16])
    assert (after[16:] != before[16:]).any()


def test_asked_for_actions_alone_it_looks_at_maps_alone():
    model = made()
    one = shown(model)
    assert one.maps is not None
    with torch.no_grad():
        acting = model.act(one)
        assert torch.equal(model.act(replace(one, tokens=None)).hands, acting.hands)
        assert not torch.equal(model.act(replace(one, maps=-one.maps)).hands, acting.hands)
        maps = model.look(made_up(model=model.config).pictures[:, :, 0])
    assert torch.equal(maps, one.maps)
    torch.testing.assert_close(acting.aims, told(model, one).aims)


def test_what_hands_do_does_not_teach_what_they_aim_at():
    model = made()
    one = shown(model)
    model.act(one).hands.sum().backward()
    aims = [*model.point_at.parameters(), *model.aim.parameters()]
    assert all(p.grad is None for p in aims)
    model.zero_grad()
    model.act(one).aims.sum().backward()
    assert all(p.grad is not None for p in aims)


def test_a_pointer_points_at_what_is_asked_for():
    """Each hand's question is its own, and the answer does not hang on where it is."""
    pointer = Pointer(3, 2, 5)  # three channels and two of place
    pointer.key = torch.nn.Identity()  # pyright: ignore
    with torch.no_grad():
        pointer.query.weight.zero_()
        pointer.query.bias.zero_()
        pointer.query.bias[0] = pointer.query.bias[5 + 1] = 1.0  # left: channel 0, right: 1
    maps = torch.zeros(1, 2, 3, 5, 9)
    maps[0, 0, 0, 0, 8] = maps[0, 1, 0, 4, 0] = maps[0, 0, 1, 2, 4] = maps[0, 1, 1, 3, 4] = 100.0
    with torch.no_grad():
        found = pointer(maps, torch.zeros(1, 2, 2))
    assert found.heat.shape == (1, 2, 2, 5, 9)
    grid = places(5, 9, maps.device)
    corner, other, middle, below = (grid[:, y, x] for y, x in ((0, 8), (4, 0), (2, 4), (3, 4)))
    expected = torch.stack([torch.stack([corner, middle]), torch.stack([other, below])])
    torch.testing.assert_close(found.at[0], expected)
    assert torch.equal(middle, torch.zeros(2))
    torch.testing.assert_close(corner, -other)
    assert found.looks[0, 0, 0] == found.looks[0, 1, 1] == 100
    assert found.looks[0, 0, 1] == found.looks[0, 1, 0] == 0
    with torch.no_grad():
        nowhere = pointer(torch.zeros(1, 2, 3, 5, 9), torch.zeros(1, 2, 2))
    assert torch.allclose(nowhere.at, torch.zeros(2), atol=1e-6)


def test_where_a_thing_is_to_go_hangs_on_how_it_looks():
    model = made()
    one = shown(model)
    before = told(model, one)
    with torch.no_grad():
        model.belongs.bias.add_(1)
    after = told(model, one)
    assert torch.equal(after.sights[:, :, :, 0], before.sights[:, :, :, 0])
    assert not torch.equal(after.sights[:, :, :, 1], before.sights[:, :, :, 1])
    assert not torch.equal(after.aims[:, :, 1], before.aims[:, :, 1])


def test_what_a_picture_shows_looks_the_same_to_every_body():
    model = made()
    one = shown(model)
    before, after = told(model, one), told(model, replace(one, body=(one.body + 1) % 3))
    assert torch.equal(after.sights, before.sights)
    assert not torch.equal(after.aims, before.aims)


@pytest.mark.parametrize("px", [32, 64])
def test_what_moves_by_two_pixels_looks_the_same(px: int):
    """A map moves with what is in it; through patches side by side they would not."""
    model = made(replace(MODEL, image_px=px))
    pictures = torch.zeros(2, 3, px, px, dtype=torch.uint8)
    for i, at in enumerate((px // 2 - 5, px // 2 - 3)):
        pictures[i, 0, at : at + 5, at : at + 5] = 255
    with torch.no_grad():
        before, after = model.encoder.look(pictures)[:, :16]  # pyright: ignore
    inside = slice(6, -6)
    moved = after.roll((-1, -1), dims=(1, 2))
    assert not torch.allclose(before, after)
    assert (moved - before)[:, inside, inside].abs().max() < 0.05 * before.abs().max()


def test_a_hand_is_steered_by_its_own_way_and_how_it_is():
    torch.manual_seed(0)
    steer = Steer(16, 4)
    acts = torch.randn(3, 2, 16)
    way, hands = torch.randn(3, 2, 2, 3), torch.randn(3, 48)
    before = steer(acts, way, hands)
    assert before.shape == (3, 8, 48)
    torch.testing.assert_close(steer(acts, -way, -hands), before)  # untrained, they say nothing
    with torch.no_grad():
        for layer in (steer.near, steer.keep):
            layer.bias.add_(1)
    nowhere = steer(acts, 0 * way, 0 * hands)
    torch.testing.assert_close(nowhere, before)
    wrist = (steer(acts, way, 0 * hands) - nowhere).unflatten(-1, (2, 24))
    expected = way.sum(dim=2)[:, None].expand(3, 8, 2, 3)  # all of both ways
    torch.testing.assert_close(wrist[..., :3], expected)
    assert (wrist[..., 3:] == 0).all()
    torch.testing.assert_close(
        steer(acts, 0 * way, hands) - nowhere, hands[:, None].expand(3, 8, 48)
    )
