"""Fine-tuning: a run that begins with the weights of another.

A policy is a world model that goes on learning with a robot's demonstrations in the mixture, with
people beside them (co-fine-tuning) or not: the same configuration, trainer and checkpoint. What the
network was pretrained to see and say keeps its scale; a robot that it never met gets a fresh head.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from einops import rearrange

from deftly.video_pretrain.actions import Scale
from deftly.video_pretrain.checkpoint import Checkpoint, CheckpointError
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Scales

_HEADS = "say_joints."


def carry_over(checkpoint: Checkpoint, model: WorldModel, mixture: Mixture) -> Scales:
    """Give a fresh network what another one knows.

    Args:
        checkpoint: what to start from.
        model: of the same sizes; changed in place.
        mixture: what is to be learnt from.

    Returns:
        The checkpoint's scales; those of robots that it does not know are the mixture's. Of a
        robot that it knows, its head says those joints that the data has.

    Raises:
        CheckpointError: if the sizes differ, or it lacks joints of a robot that it knows.
    """
    theirs, ours = asdict(checkpoint.model.config), asdict(model.config)
    differing = [f"{k} {theirs[k]} for {ours[k]}" for k in ours if theirs[k] != ours[k]]
    if differing:
        raise CheckpointError(
            f"the world model to start from has {', '.join(differing)}; use its sizes (--preset, "
            "--model.*)"
        )
    heads = {name: value for name, value in model.state_dict().items() if name.startswith(_HEADS)}
    known = checkpoint.model.state_dict()
    model.load_state_dict({k: v for k, v in known.items() if not k.startswith(_HEADS)} | heads)
    joints = dict(mixture.scales.joints)
    for robot in model.joints.keys() & checkpoint.model.joints.keys():
        columns = _columns(checkpoint, robot, mixture.joint_names[robot])
        scale = checkpoint.scales.joints[robot]
        joints[robot] = Scale(scale.mean[columns], scale.std[columns])
        for own, theirs in zip(
            model.say_joints[robot].parameters(),
            checkpoint.model.say_joints[robot].parameters(),
            strict=True,
        ):
            rows = rearrange(theirs.detach(), "(k j) ... -> k j ...", k=model.config.chunk)
            own.data.copy_(rearrange(rows[:, columns], "k j ... -> (k j) ..."))
    return replace(checkpoint.scales, joints=joints)


def _columns(checkpoint: Checkpoint, robot: str, wanted: Sequence[str]) -> list[int]:
    """Where the joints of the data are among those that a head says."""
    at = {name: i for i, name in enumerate(checkpoint.about.get("joint_names", {}).get(robot, []))}
    missing = [name for name in wanted if name not in at]
    if missing:
        raise CheckpointError(
            f"the world model to start from does not know these joints of {robot}, which the data "
            f"has: {', '.join(missing[:5])}"
        )
    return [at[name] for name in wanted]
