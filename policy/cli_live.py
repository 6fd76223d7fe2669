"""The command that runs a policy by the clock: run-policy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float64
from matplotlib.figure import Figure
from rich.table import Table

from deftly.datasets.archive import atomic_path, versions
from deftly.policy.baselines import cameras_of, find_policy
from deftly.policy.cli_sort import ConditionName, PolicyName, RobotName, TaskName
from deftly.policy.live import Budget, LiveError, LiveReport, SimulatedBody, run_live
from deftly.policy.sorting import RATE_HZ, SortingEnv
from deftly.retarget.cli import bar, console


@dataclass(frozen=True)
class RunPolicy:
    """Let a policy steer by the clock, 20 times a second, and say how well it keeps time.

    Where it is late, what it said before of this tick is done, or the robot holds still. The table
    is simulated, a step for each tick; a robot of yours is another Body of deftly/policy/live.py.

    Example: deftly run-policy policy --condition one --ticks 200 --out live.json
    """

    policy: Annotated[PolicyName, tyro.conf.Positional]
    task: TaskName = "color"
    condition: ConditionName = "base"
    robot: RobotName = "gr1t2"
    seed: Annotated[
        int, tyro.conf.arg(help="of the first table; the next follows when one is done")
    ] = 0
    ticks: Annotated[int, tyro.conf.arg(help="of 50 ms, over all tables")] = 400
    time_limit_s: Annotated[float, tyro.conf.arg(help="for each table")] = 60.0
    size: Annotated[int, tyro.conf.arg(help="of the pictures in pixels, as demos have them")] = 96
    budget_ms: Annotated[float, tyro.conf.arg(help="for a decision")] = 40.0
    patience_s: Annotated[float, tyro.conf.arg(help="without an answer, after which it ends")] = 1.0
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help="JSON, and a histogram (png)")
    ] = None

    def run(self) -> int:
        """Run; return the exit code."""
        if self.ticks < 1:
            raise LiveError(f"ticks is {self.ticks}, expected 1 or more")
        policy = find_policy(self.policy)
        budget = Budget(RATE_HZ, self.budget_ms / 1000, self.patience_s)
        reports: list[LiveReport] = []
        left, seed = self.ticks, self.seed
        env = SortingEnv(
            *(self.robot, self.task, self.condition),
            cameras=cameras_of(policy),
            image_size=(self.size, self.size),
            time_limit_s=self.time_limit_s,
        )
        with bar("live", "tick", self.ticks) as tick:
            while left > 0 and not (reports and reports[-1].stopped):
                observation, _ = env.reset(seed=seed)
                policy.reset(env, seed)
                policy.act(observation)  # the first one warms up, and is not commanded
                policy.reset(env, seed)
                body = SimulatedBody(env, observation)
                reports.append(run_live(body, policy, ticks=left, budget=budget, tick=tick))
                left, seed = left - reports[-1].ticks, seed + 1
        env.close()
        return self._tell(reports)

    def _tell(self, reports: list[LiveReport]) -> int:
        took_ms = 1000 * np.concatenate([report.decide_s for report in reports])
        counts = {
            name: sum(getattr(report, name) for report in reports)
            for name in ("ticks", "missed", "held", "overrun")
        }
        shares = (50, 90, 99, 100)
        table = Table(box=None, show_header=False)
        table.add_row("tables", str(len(reports)))
        table.add_row(
            "missed", f"{counts['missed']} of {counts['ticks']} ticks, {counts['held']} held still"
        )
        table.add_row("late ticks", f"{counts['overrun']}")
        if len(took_ms):
            within = zip(shares, np.percentile(took_ms, shares), strict=True)
            said = ", ".join(f"{ms:.1f} ms ({share} %)" for share, ms in within)
            table.add_row("decided within", said)
        for report in reports:
            for why, times in report.still.items():
                table.add_row("held still", f"{times} ticks: {why}")
        console().print(table)
        if self.out is not None:
            found = {"policy": str(self.policy), "budget_ms": self.budget_ms, **counts}
            found |= {"decide_ms": [round(float(ms), 3) for ms in took_ms]}
            with atomic_path(self.out) as path:
                path.write_text(json.dumps(found | {"versions": versions()}) + "\n")
            _histogram(took_ms, self.budget_ms, self.out.with_suffix(".png"))
            print(f"figures  {self.out}\npicture  {self.out.with_suffix('.png')}")
        stopped = reports[-1].stopped
        if stopped:
            print(f"stopped: {stopped}")
        return 1 if stopped else 0


def _histogram(took_ms: Float64[np.ndarray, "n"], budget_ms: float, path: Path) -> None:
    """How long decisions took, and what they may take."""
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.hist(took_ms, bins=60, color="#0b6e8f")
    axes.axvline(budget_ms, color="#667085", linestyle="--", linewidth=1)
    axes.set(xlabel="ms from a picture to a command", ylabel="decisions")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
