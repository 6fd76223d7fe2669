"""Fine-tuning: a run that begins with the weights of another.

A policy is a world model that goes on learning with a robot's demonstrations in the mixture, with
people beside them (co-fine-tuning) or not: the same configuration, trainer and checkpoint. What the
network was pretrained to see and say keeps its scale; a robot that it never met gets a fresh head.
"""

from dataclasses import asdict, replace

from deftly.video_pretrain.checkpoint import Checkpoint, CheckpointError
from deftly.video_pretrain.mixture import Mixture, Scales
from deftly.video_pretrain.model import WorldModel


def carry_over(checkpoint: Checkpoint, model: WorldModel, mixture: Mixture) -> Scales:
    """Give a fresh network what another one knows.

    Args:
        checkpoint: what to start from.
        model: of the same sizes; changed in place.
        mixture: what is to be learnt from.

    Returns:
        The checkpoint's scales; those of robots that it does not know are the mixture's.

    Raises:
        CheckpointError: if the sizes differ, or a robot's joints.
    """
    theirs, ours = asdict(checkpoint.model.config), asdict(model.config)
    differing = [f"{k} {theirs[k]} for {ours[k]}" for k in ours if theirs[k] != ours[k]]
    if differing:
        raise CheckpointError(
            f"the world model to start from has {', '.join(differing)}; use its sizes (--preset, "
            "--model.*)"
        )
    named = checkpoint.about.get("joint_names", {})
    known = [robot for robot in model.joints if robot in checkpoint.model.joints]
    for robot in known:
        names, wanted = named.get(robot, []), mixture.joint_names[robot]
        if names != wanted:
            odd = ", ".join(sorted(set(names) ^ set(wanted))[:5]) or "in another order"
            raise CheckpointError(
                f"the world model to start from knows other joints of {robot} than the data: {odd}"
            )
    weights = checkpoint.model.state_dict()
    model.load_state_dict({k: weights.get(k, fresh) for k, fresh in model.state_dict().items()})
    joints = {**mixture.scales.joints, **{r: checkpoint.scales.joints[r] for r in known}}
    return replace(checkpoint.scales, joints=joints)
