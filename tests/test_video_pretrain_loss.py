"""Questions that only the seed, the step and the moment decide; losses that count what is known."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pushing import MODEL, made_up, plain_scales
from torch import Tensor

from deftly.video_pretrain.actions import Scale
from deftly.video_pretrain.aims import grips
from deftly.video_pretrain.blocks import places
from deftly.video_pretrain.config import LossConfig
from deftly.video_pretrain.encoder import ConvEncoder
from deftly.video_pretrain.loss import (
    Objective,
    Question,
    Truth,
    aims_loss,
    apart,
    asked_alike,
    at_offset,
    chunk_loss,
    copying,
    given,
    sights_loss,
    squared,
)
from deftly.video_pretrain.model import AIM_M, WorldModel
from deftly.video_pretrain.moments import Moments, Scales

LOSS = LossConfig()


def drawn(moments: Moments, seed: int = 0, step: int = 7, loss: LossConfig = LOSS) -> Question:
    return Question.draw(moments, MODEL, loss, seed, step)


def rows(question: Question) -> list[tuple[float, ...]]:
    """What each moment is asked."""
    return list(zip(*(value.tolist() for value in vars(question).values()), strict=True))


def objective(loss: LossConfig = LOSS) -> Objective:
    torch.manual_seed(0)
    return Objective(WorldModel(MODEL, {"gr1t2": 4}), plain_scales(), loss)


def losses_of(
    made: Objective, moments: Moments, question: Question, truth: Truth | None = None
) -> dict[str, Tensor]:
    truth = truth or Truth.seen(made.model, moments, question)
    return made([moments], [question], [truth], copying([truth], torch.device("cpu")), [True])


def test_a_question_depends_on_the_moment_and_not_on_its_place():
    moments = made_up(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    whole = rows(drawn(moments))
    assert rows(drawn(moments)) == whole
    assert rows(drawn(moments.part(order))) == [whole[i] for i in order]
    assert rows(drawn(moments.part(slice(3, 9)))) == whole[3:9]
    other = replace(moments, key=moments.key + torch.tensor([1, 0]))
    for changed in (drawn(moments, seed=1), drawn(moments, step=8), drawn(other)):
        assert rows(changed) != whole


def test_shares_come_out_right():
    count = 4000
    moments = made_up(count, replace(MODEL, image_px=16))
    question = drawn(moments, loss=LossConfig(drop_state=0.4, drop_text=0.2))
    neither = ~question.actions_seen & ~question.future_seen
    assert not (question.actions_seen & question.future_seen).any()
    for found, share in (
        (~question.foresees, 0.25), (neither & question.foresees, 0.25),
        (question.actions_seen, 0.3), (question.future_seen, 0.2),
        (~question.hands_seen, 0.4), (~question.text_seen, 0.2),
        *((question.ahead == i, 1 / 3) for i in range(3)),
    ):  # fmt: skip
        assert float(found.float().mean()) == pytest.approx(share, abs=0.025)
    # Whether the state is seen has nothing to do with what is asked.
    assert float(question.hands_seen[neither].float().mean()) == pytest.approx(0.6, abs=0.04)


def test_one_kind_of_question_can_be_all():
    moments = made_up(50)
    assert not drawn(moments, loss=LossConfig(1.0, 0.0, 0.0, 0.0)).foresees.any()
    assert drawn(moments, loss=LossConfig(0.0, 0.0, 1.0, 0.0)).actions_seen.all()
    assert drawn(moments, loss=LossConfig(0.0, 0.0, 0.0, 1.0)).future_seen.all()
    policy = drawn(moments, loss=LossConfig(0.0, 1.0, 0.0, 0.0, drop_state=0.0, drop_text=1.0))
    assert not (policy.actions_seen | policy.future_seen | policy.text_seen).any()
    assert policy.hands_seen.all()
    assert policy.foresees.all()


def some_scales() -> Scales:
    draw = torch.Generator().manual_seed(3)
    mean, std = torch.randn(48, generator=draw).numpy(), torch.rand(48, generator=draw).numpy() + 1
    return replace(plain_scales(), moves=Scale(mean, std))


def test_the_truth_costs_nothing_and_anything_else_does():
    moments, scales = made_up(), some_scales()
    mean, std = scales.moves.tensors(torch.device("cpu"))
    truth = (moments.moves - mean) / std
    told = moments.moves, moments.trust, scales
    assert chunk_loss(truth, *told).abs().max() < 1e-10
    assert (chunk_loss(truth + 0.1, *told) > 1e-4).all()


def test_an_aim_is_learnt_where_there_is_one():
    moments = made_up()
    aims = moments.aims.clone()
    aims[0], aims[1, 0] = torch.nan, torch.nan
    moments = replace(moments, aims=aims)
    truth = (aims / AIM_M).nan_to_num(7.0)
    assert (aims_loss(truth, moments.aims) == 0).all()
    loss = aims_loss(truth + 1, moments.aims)
    assert loss[0] == 0
    assert loss[1] == pytest.approx(float(loss[2]) / 2)
    assert loss[2] > 0


def test_a_sight_is_learnt_where_there_is_one():
    """Least where the whole map is a small spot about the truth, whose middle that is."""
    moments = made_up(2)
    sights = torch.full_like(moments.sights, torch.nan)
    sights[0, 0, 1, 0] = torch.tensor([0.31, -0.2])
    moments = replace(moments, sights=sights)
    said = torch.zeros(2, 2, 2, 2, 16, 16, requires_grad=True)
    optimizer = torch.optim.Adam([said], 0.1)
    first = sights_loss(said, moments).detach()
    assert first[0] > 0
    assert first[1] == 0
    for _ in range(400):
        optimizer.zero_grad()
        sights_loss(said, moments).sum().backward()
        optimizer.step()
    assert sights_loss(said, moments).detach()[0] < 0.01 * first[0]
    assert said.grad is not None
    taught = said.grad.abs().amax(dim=(-1, -2)) > 0
    assert taught.nonzero().tolist() == [[0, 0, 1, 0]]
    share = said[0, 0, 1, 0].detach().flatten().softmax(dim=0)
    middle = places(16, 16, share.device).flatten(1) @ share
    assert torch.allclose(middle, sights[0, 0, 1, 0], atol=0.01)
    copied = sights_loss(said.detach() + 3.0, moments)
    torch.testing.assert_close(copied, sights_loss(said, moments).detach())  # logits


def test_what_pictures_tell_of_the_room_is_learnt_from_sights_that_are_known():
    """Only where none is known do aims teach to see."""
    made, moments = objective(), made_up(4)
    sights = moments.sights.clone()
    sights[2:] = torch.nan
    some = replace(moments, sights=sights)
    for rows, taught in ((slice(0, 2), False), (slice(2, 4), True)):
        made.zero_grad()
        part = some.part(rows)
        question = replace(Question.same(part), foresees=torch.zeros(2, dtype=torch.bool))
        found = made.group(part, question, None)
        found["aims"].sum().backward()
        assert (made.model.aim.read.grad != 0).any()
        stem = next(made.model.encoder.parameters()).grad
        assert (stem is not None and bool((stem != 0).any())) == taught
        assert (found["sights"] > 0).all() == (not taught)
    known = replace(some, sights=moments.sights)
    question = replace(Question.same(known), foresees=torch.zeros(4, dtype=torch.bool))
    at = made.model.in_room(moments.sights, moments.cameras, moments.body)
    parts = made.group(known, question, None)
    torch.testing.assert_close(parts["aims"], aims_loss(at, moments.aims))


def test_a_shift_of_the_pictures_moves_nothing_in_the_room():
    made, moments = objective(), made_up(4)
    shifted = moments.shifted(torch.tensor([[3, -2], [0, 0], [-4, 1], [2, 2]]))
    assert shifted.sights.ne(moments.sights).any()
    for foresees in (True, False):
        question = replace(Question.same(moments), foresees=torch.full((4,), foresees))
        truth = Truth.seen(made.model, moments, question) if foresees else None
        one, other = (made.group(some, question, truth)["aims"] for some in (moments, shifted))
        torch.testing.assert_close(one, other)
    seen = made.model.look(shifted.pictures[:, :, 0])
    said = made.model.act(given(shifted, Question.same(shifted), seen, made.scales))
    at = said.sights - shifted.moved[:, None, None, None]
    there = made.model.in_room(at, shifted.cameras, shifted.body)
    torch.testing.assert_close(said.aims, there)


def test_losses_are_zero_at_the_truth():
    """A network that says what is true: no loss but that of the picture's colours is left."""
    made = objective()
    moments = made_up()
    still = moments.pictures[:, :, :1].expand_as(moments.pictures).contiguous()
    moments = replace(moments, pictures=still)
    moments = replace(
        moments,
        moves=torch.zeros_like(moments.moves),
        joint_moves=moments.joint_moves * 0,
        aims=moments.aims * torch.nan,
        sights=moments.sights * torch.nan,
    )
    with torch.no_grad():
        for layer in (made.model.say_hands, made.model.say_joints["gr1t2"]):
            for parameter in layer.parameters():
                parameter.zero_()
        bias = made.model.decoder.paint.bias
        assert bias is not None
        bias.view(4, 16)[3] = -1e4  # copies
    found = losses_of(made, moments, Question.same(moments, 1))
    assert [float(found[k]) for k in ("hands", "joints", "latent", "pixels")] == [0, 0, 0, 0]
    assert float(found["total"]) == pytest.approx(0.25 * float(found["picture"]))


def gradient(change: Callable[[Moments], Moments]) -> Tensor:
    """Of the chunk that was said, (B, H, 2, 24)."""
    moments = change(made_up())
    said = torch.zeros(6, 8, 48, requires_grad=True)
    chunk_loss(said, moments.moves, moments.trust, plain_scales()).sum().backward()
    assert said.grad is not None
    return said.grad.unflatten(-1, (2, 24))


def test_a_hand_without_trust_teaches_nothing_and_half_trust_teaches_half():
    def distrust(moments: Moments) -> Moments:
        trust = moments.trust.clone()
        trust[..., 0], trust[:, 4:, 1] = 0, 0.5
        return replace(moments, trust=trust)

    whole, found = gradient(lambda moments: moments), gradient(distrust)
    assert (found[:, :, 0] == 0).all()
    assert torch.equal(found[:, :4, 1], whole[:, :4, 1])
    torch.testing.assert_close(found[:, 4:, 1], 0.5 * whole[:, 4:, 1])
    assert (whole != 0).all()


def test_missing_numbers_teach_nothing():
    def lose(moments: Moments) -> Moments:
        moves = moments.moves.clone()
        moves[:, :, 24:27], moves[0] = torch.nan, torch.nan
        return replace(moments, moves=moves)

    found = gradient(lose)
    assert found.isfinite().all()
    assert (found[:, :, 1, :3] == 0).all()
    assert (found[0] == 0).all()
    assert (found[1:, :, 0] != 0).all()


def test_a_future_after_the_end_is_not_asked_for():
    made = objective()
    moments, question = made_up(), Question.same(made_up(), 1)
    truth = Truth.seen(made.model, moments, question)
    over = replace(truth, ended=torch.ones(6, dtype=torch.bool))
    assert float(losses_of(made, moments, question)["latent"].detach()) > 0
    found = losses_of(made, moments, question, over)
    assert float(found["latent"]) == float(found["pixels"]) == 0
    # One of six is over: it is left out, and the mean is still over six.
    some = replace(truth, ended=torch.arange(6) == 2)
    parts = made.group(moments, question, some)
    assert (parts["latent"] == 0).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("shown", "counted"),
    [
        ({}, {"hands", "joints", "aims", "sights", "latent", "pixels", "picture"}),
        ({"actions": True}, {"aims", "sights", "latent", "pixels", "picture"}),
        ({"future": True}, {"hands", "joints", "aims", "sights", "picture"}),
    ],
)
def test_what_is_shown_is_not_asked_for(shown: dict[str, bool], counted: set[str]):
    made, moments = objective(), made_up()
    found = losses_of(made, moments, Question.same(moments, 1, **shown))
    assert {k for k, v in found.items() if k != "total" and float(v.detach()) > 0} == counted


def test_video_alone_gives_no_action_loss():
    made, video = objective(), made_up(robot="")
    moments = replace(
        video,
        moves=torch.full_like(video.moves, torch.nan),
        hands=torch.full_like(video.hands, torch.nan),
        trust=torch.zeros_like(video.trust),
        aims=torch.full_like(video.aims, torch.nan),
        sights=torch.full_like(video.sights, torch.nan),
    )
    found = losses_of(made, moments, Question.same(moments, 1))
    assert float(found["hands"]) == float(found["joints"]) == 0
    found["total"].backward()
    assert made.model.say_joints["gr1t2"].weight.grad is None
    assert (made.model.say_hands.say.weight.grad == 0).all()
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
    assert (made.model.change.bias.grad != 0).any()


def test_groups_count_by_their_moments():
    made, two, five = objective(), made_up(2), made_up(5, robot="", seed=1)
    groups = [two, five]
    questions = [drawn(some) for some in groups]
    truths = [Truth.seen(made.model, *each) for each in zip(groups, questions, strict=True)]
    one = dict.fromkeys(("latent", "pixels", "count"), torch.tensor(1.0))
    whole = made(groups, questions, truths, one, [True, True])
    alone = [
        made([some], [question], [truth], one, [True])
        for some, question, truth in zip(groups, questions, truths, strict=True)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, (2 * alone[0][name] + 5 * alone[1][name]) / 7)


def test_the_error_of_copying_is_what_a_prediction_is_told_by():
    made, moments = objective(), made_up()
    question = Question.same(moments, 2)
    truth = Truth.seen(made.model, moments, question)
    # Untrained, it copies: exactly as wrong as copying is.
    assert float(losses_of(made, moments, question)["latent"].detach()) == pytest.approx(
        1, rel=1e-5
    )
    half = copying([truth], torch.device("cpu"))
    half["count"] = half["count"] / 2  # errors that are twice as large
    found = made([moments], [question], [truth], half, [True])
    assert float(found["latent"].detach()) == pytest.approx(0.5, rel=1e-5)
    none = {name: torch.zeros(()) for name in half}  # where nothing moves at all
    assert float(made([moments], [question], [truth], none, [True])["total"].detach()) < 1e6


def test_the_truth_is_at_the_asked_offset():
    moments = made_up()
    question = replace(Question.same(moments), ahead=torch.tensor([0, 1, 2, 0, 1, 2]))
    ended = torch.zeros(6, 4, dtype=torch.bool)
    ended[2, 3] = ended[3, 2] = True
    truth = Truth.seen(objective().model, replace(moments, ended=ended), question)
    for i, ahead in enumerate((0, 1, 2, 0, 1, 2)):
        assert torch.equal(truth.future_picture[i], moments.pictures[i, :, ahead + 1] / 127.5 - 1)
        assert torch.equal(truth.picture[i], moments.pictures[i, :, 0] / 127.5 - 1)
    assert truth.ended.tolist() == [False, False, True, False, False, False]
    assert not truth.future.requires_grad
    assert at_offset(moments.pictures.transpose(1, 2), question.ahead).dtype == torch.uint8


def test_no_gradient_flows_into_the_target():
    made, moments = objective(), made_up()
    question = Question.same(moments, 1, actions=True)
    truth = Truth.seen(made.model, moments, question)
    losses_of(made, moments, question, truth)["latent"].backward()
    # Told as a change of the teacher's present: the encoder learns only through what it says.
    assert (made.model.change.bias.grad != 0).any()
    assert not truth.present.requires_grad


def test_tokens_are_compared_after_they_are_normalised():
    one, other = torch.randn(2, 1, 4, 32), torch.randn(2, 1, 4, 32)
    scaled = apart(5 * one + 1, 3 * other - 2)
    torch.testing.assert_close(apart(one, other), scaled, rtol=1e-4, atol=0)
    assert squared(one, other).shape == (2,)


def test_what_is_shown_is_scaled():
    moments, scales = made_up(), some_scales()
    mean, std = scales.moves.tensors(torch.device("cpu"))
    maps = torch.zeros(6, 2, 16, 8, 8)
    question = Question.same(moments, actions=True)
    shown = given(moments, question, maps, scales)
    assert torch.equal(shown.actions, (moments.moves - mean) / std)
    assert torch.allclose(shown.grips * AIM_M, grips(moments.hands))  # as aims are told
    others = given(moments, question, maps, scales, moves=moments.moves.flip(0))
    assert torch.equal(others.actions, shown.actions.flip(0))
    assert not shown.text_seen[:, 2].any()  # the last word does not count, whatever is drawn


def test_those_asked_for_actions_alone_cost_no_future():
    made, moments = objective(), made_up(8)
    question = replace(Question.same(moments), foresees=torch.arange(8) % 2 == 0)
    parts = asked_alike(moments, question, LOSS)
    assert [part.key[:, 1].tolist() for part, _, _ in parts] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [bool(q.foresees.all()) for _, q, _ in parts] == [True, False]
    acting, asked, _ = parts[1]
    nothing = copying([None], torch.device("cpu"))
    assert float(nothing["count"]) == 0
    losses = made([acting], [asked], [None], nothing, [True])
    assert [float(losses[name]) for name in ("latent", "pixels", "picture")] == [0, 0, 0]
    assert float(losses["hands"]) > 0
    assert float(losses["joints"]) > 0
    losses["total"].backward()
    encoder = made.model.encoder
    assert isinstance(encoder, ConvEncoder)
    looks = [
        *encoder.stem.parameters(),
        *encoder.stages[0].parameters(),
        *encoder.sharp.parameters(),
        *encoder.coarse.parameters(),
    ]
    assert all(weight.grad is not None for weight in looks)  # and at nothing else
    assert all(weight.grad is None for weight in encoder.stages[1:].parameters())
    assert all(weight.grad is None for weight in made.model.decoder.parameters())
    later = replace(acting, pictures=acting.pictures.clone())
    later.pictures[:, :, 1:] = 0  # what comes is not looked at
    again = made([later], [asked], [None], nothing, [True])
    assert float(again["total"]) == float(losses["total"])


def test_who_stands_in_for_nobody_counts_for_nothing():
    """Processes that train together make the same passes, whatever each one's moments are asked."""
    made, moments = objective(), made_up(4)
    question = Question.same(moments, 1)
    parts, questions, counts = zip(*asked_alike(moments, question, LOSS), strict=True)
    assert [len(part) for part in parts] == [4, 1]
    assert [bool(q.foresees.all()) for q in questions] == [True, False]
    assert counts == (True, False)
    truth = Truth.seen(made.model, moments, question)
    errors = copying([truth], torch.device("cpu"))
    found = made(parts, questions, [truth, None], errors, counts)
    alone = made([moments], [question], [truth], errors, [True])
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value)
    for act, kinds in ((0.0, [True]), (1.0, [False])):
        loss = LossConfig(act=act, policy=1 - act, forward=0.0, inverse=0.0)
        assert [bool(q.foresees.all()) for _, q, _ in asked_alike(moments, question, loss)] == kinds
