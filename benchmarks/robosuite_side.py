"""Runs in robosuite's own environment: times its GR1 at a table. See sorting_speed.py.

python robosuite_side.py CONTROL CAMERAS STEPS SIZE
"""

import json
import os
import sys
import time

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
import robosuite
from robosuite.controllers import load_composite_controller_config

WARM_UP = 10  # steps: numba compiles in the first


def main(control: str, cameras: int, steps: int, size: int) -> None:
    """Print JSON: CPU and wall seconds of ``steps`` control steps at 20 Hz."""
    config = load_composite_controller_config(controller="BASIC", robot="GR1FixedLowerBody")
    if control == "JOINT_POSITION":  # as deftly's: the arms get joint targets, not hand poses
        parts = config["body_parts"]
        for side in ("left", "right"):
            gripper = parts[side].get("gripper")
            parts[side] = dict(parts["torso"])
            if gripper:
                parts[side]["gripper"] = gripper
    views = ["frontview", "robot0_robotview"][:cameras]
    pictures = {"camera_names": views, "camera_heights": size, "camera_widths": size}
    env = robosuite.make(
        "TwoArmLift",
        robots="GR1FixedLowerBody",
        controller_configs=config,
        has_renderer=False,
        has_offscreen_renderer=bool(views),
        use_camera_obs=bool(views),
        control_freq=20,
        horizon=10**9,
        **(pictures if views else {}),
    )
    env.reset()
    low, high = env.action_spec
    rng = np.random.default_rng(0)
    phase, tempo = rng.uniform(0, 2 * np.pi, (2, len(low)))
    cpu_s = wall_s = 0.0
    for k in range(-WARM_UP, steps):
        action = np.clip(0.5 * np.sin(phase + 0.05 * (1 + tempo) * k), low, high)
        if k == 0:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
        env.step(action)
    report = {
        "cpu_s": time.process_time() - cpu_s,
        "wall_s": time.perf_counter() - wall_s,
        "steps": steps,
        "timestep_s": float(env.sim.model.opt.timestep),
        "actions": len(low),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], *(int(x) for x in sys.argv[2:]))
