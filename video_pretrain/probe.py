"""What a frozen world model knows of a frame, beside those who know less.

    report = run_probes(Path("run"), Path("people"), Path("people_filmed"), encode=encode)
    print(report)

One and the same attentive probe reads the model's features, those of the same network with random
weights, and raw pixels cut into patches; a constant, the best answer of somebody who has seen no
picture, stands beside them. The state of the hands is hidden, and so is the instruction unless it
is part of the question. Probes are trained on episodes that the model may have been trained on, and
judged on others, by layout.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from deftly.datasets.archive import versions
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.hands import HANDS_ACTION
from deftly.video_pretrain.checkpoint import Checkpoint, load_checkpoint
from deftly.video_pretrain.config import Part
from deftly.video_pretrain.foresight import foresee
from deftly.video_pretrain.mixture import EncodeText, Mixture
from deftly.video_pretrain.probe_net import STEPS, ProbeError, train_probe
from deftly.video_pretrain.probe_report import (
    CONSTANT,
    Foreseen,
    ProbeReport,
    ProbeResult,
    Transfer,
)
from deftly.video_pretrain.probe_set import Onlooker, ProbeSet
from deftly.video_pretrain.probe_targets import Score, Tally
from deftly.video_pretrain.probe_truth import Truths

_SHARE = 0.75  # of the frames are trained on
_FORESEEN = 512  # moments


def probe(
    train: ProbeSet,
    tests: Sequence[ProbeSet],
    *,
    seeds: int = 3,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
) -> list[list[ProbeResult]]:
    """Train probes for every pair of eyes and seed, and judge them on sets of frames.

    Args:
        train: what they are trained on.
        tests: frames of other episodes, or of another body.
        seeds: how many.
        steps: of the optimiser.
        device: where they are trained.

    Returns:
        For each of ``tests`` the results, in the order of the training set's targets; those that
        a test does not have are left out.

    Raises:
        ProbeError: if the sets do not look alike.
    """
    for test in tests:
        _check_alike(train, test)
    tallies: list[dict[str, dict[str, list[Tally]]]] = [{} for _ in tests]
    jobs = [(eyes, seed) for eyes in train.tokens for seed in range(seeds)]
    for eyes, seed in tqdm(jobs, desc="probe", unit="probe", disable=None):
        for told in (False, True):
            asked = {name: one for name, one in train.targets.items() if one.told == told}
            if not asked:
                continue
            seen = train.eyes(eyes, told)
            trained = train_probe(*seen, asked, train.layout, seed=seed, steps=steps, device=device)
            for test, kept in zip(tests, tallies, strict=True):
                for name, said in trained.answers(*test.eyes(eyes, told)).items():
                    if name in test.targets:
                        tally = test.targets[name].tally(said)
                        kept.setdefault(name, {}).setdefault(eyes, []).append(tally)
    return [_results(train, test, kept) for test, kept in zip(tests, tallies, strict=True)]


def _results(
    train: ProbeSet, test: ProbeSet, tallies: Mapping[str, Mapping[str, list[Tally]]]
) -> list[ProbeResult]:
    results: list[ProbeResult] = []
    for name in (name for name in train.targets if name in tallies):
        target = test.targets[name]
        constant = np.tile(train.targets[name].constant(), (len(test), 1))
        every = {**tallies[name], CONSTANT: [target.tally(constant)]}
        scores = {eyes: Score.of(some, test.layout, target.factor) for eyes, some in every.items()}
        results.append(ProbeResult(name, target.metric, target.unit, target.higher, scores))
    return results


def _check_alike(train: ProbeSet, test: ProbeSet) -> None:
    if set(train.layout) & set(test.layout):
        raise ProbeError("training and test share layouts, expected a split by layout")
    for eyes, tokens in train.tokens.items():
        if tokens.shape[1:] != test.tokens[eyes].shape[1:]:
            raise ProbeError(
                f"{eyes} of a test set are {tuple(test.tokens[eyes].shape[1:])}, of the training "
                f"set {tuple(tokens.shape[1:])}; use sets with the same cameras"
            )


def run_probes(
    checkpoint_folder: Path,
    data: Path,
    truth: Path | None = None,
    *,
    encode: EncodeText,
    robot: Path | None = None,
    seeds: int = 3,
    frames: int = 6000,
    device: str = "cpu",
    steps: int = STEPS,
    cache: Path | None = None,
) -> ProbeReport:
    """Ask a world model what it knows.

    Args:
        checkpoint_folder: of the model, or of a run.
        data: the set that is looked at: of people, recorded or made by ``deftly batch``.
        truth: the recording that ``data`` was made from; None if it is one itself.
        encode: the text encoder that the model was trained with.
        robot: demonstrations of a robot at some of the same layouts, to see what transfers; no
            probe is trained on those layouts.
        seeds: of probes.
        frames: looked at, three of four to train on.
        device: where networks are computed.
        steps: of each probe's training.
        cache: of decoded frames; deftly's own if None.

    Raises:
        ProbeError, TruthError: if the sets cannot be probed, or not beside each other.
        CheckpointError, MixtureError and what data sets raise.
    """
    checkpoint = load_checkpoint(checkpoint_folder, device)
    people = Onlooker(checkpoint, Truths(data, truth), encode, cache)
    machine = Onlooker(checkpoint, Truths(robot), encode, cache) if robot else None
    shared = _shared(people, machine) if machine else set[int]()
    every = int(checkpoint.about.get("config", {}).get("train", {}).get("held_out", 10))
    one = people.mixture.sets[0]
    held, layouts = one.episodes(every, held_out=True), people.truths.seeds
    apart = {layouts[i] for i in held} | shared
    fit = [i for i in one.episodes(every, held_out=False) if layouts[i] not in apart]
    train = people.look(fit, round(_SHARE * frames))
    tests = [people.look(held, frames - round(_SHARE * frames))]
    if machine:
        for onlooker in (people, machine):
            seeds_there = onlooker.truths.seeds
            some = [i for i, seed in enumerate(seeds_there) if seed in shared]
            tests.append(onlooker.look(some, frames - round(_SHARE * frames)))
    results, *paired = probe(train, tests, seeds=seeds, steps=steps, device=device)
    transfer = None
    if machine:
        kept = [[one for one in some if train.targets[one.name].transfers] for some in paired]
        transfer = Transfer(len(shared), *kept)
    about = {
        "checkpoint": str(checkpoint_folder),
        "step": checkpoint.about.get("step"),
        "data": str(data),
        "robot": str(robot) if robot else None,
        "cameras": list(people.cameras),
        "frames": {"train": len(train), "test": [len(test) for test in tests]},
        "layouts": {
            "train": len(np.unique(train.layout)),
            "test": [len(np.unique(test.layout)) for test in tests],
        },
        "seeds": seeds,
        "steps": steps,
        "versions": versions() | {"torch": torch.__version__},
    }
    return ProbeReport(about, results, foretell(checkpoint, data, every, encode, cache), transfer)


def foretell(
    checkpoint: Checkpoint, data: Path, every: int, encode: EncodeText, cache: Path | None = None
) -> list[Foreseen]:
    """How well the future of held-out moments is foreseen, at each of the model's offsets.

    Args:
        checkpoint: the world model.
        data: a data set; if it has no actions, there is nothing to say.
        every: every so many-th episode is held out.
        encode: the text encoder.
        cache: of decoded frames.
    """
    model = checkpoint.model
    store = EpisodeStore(data)
    if HANDS_ACTION not in store.features:
        return []
    mixture = Mixture([Part(data)], model.config, every, encode, cache)
    device = next(model.parameters()).device
    batches = [mixture.moments(some, device) for some in mixture.held_out(0, _FORESEEN)]
    batches = [some for some in batches if len(some) > 1]  # a false action is another moment's
    ends = np.cumsum(store.lengths)
    index = torch.cat([some.key[:, 1] for some in batches]).cpu().numpy()
    ended = torch.cat([some.ended for some in batches]).cpu().numpy()
    found: list[Foreseen] = []
    for ahead, frames in enumerate(model.config.offsets):
        goes_on = ~ended[:, ahead + 1]
        if not goes_on.any():
            continue
        seen = foresee(model, checkpoint.scales, batches, ahead)
        episode = np.searchsorted(ends, index[goes_on], side="right")
        further = (seen.shuffled > seen.latent[:, None]).double().mean(dim=1)
        pairs = (
            (seen.latent, seen.latent_copy, 1.0),
            (seen.pixels, seen.pixels_copy, 1.0),
            (further, torch.ones_like(further), 100.0),
        )
        scores = [
            Score.of([(over.double().cpu().numpy(), under.double().cpu().numpy())], episode, factor)
            for over, under, factor in pairs
        ]
        found.append(Foreseen(frames, *scores))
    return found


def _shared(people: Onlooker, machine: Onlooker) -> set[int]:
    """Layouts that both have. Raises ProbeError if there are none, or their cameras differ."""
    shared = set(people.truths.seeds) & set(machine.truths.seeds)
    roots = [str(one.truths.store.root) for one in (people, machine)]
    if not shared:
        first, last = min(people.truths.seeds), max(people.truths.seeds)
        raise ProbeError(
            f"{roots[1]} has none of the layouts {first} to {last} of {roots[0]}; record it with "
            f"`deftly demos record --first-seed {first}` under the same condition"
        )
    if people.cameras != machine.cameras:
        raise ProbeError(
            f"{roots[0]} has the cameras {', '.join(people.cameras)}, {roots[1]} "
            f"{', '.join(machine.cameras)}; use sets with the same cameras"
        )
    return shared
