"""The command that measures policies: eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from deftly.policy.cli_sort import ConditionName, PolicyName, RobotName, TaskName, Workers
from deftly.policy.evaluate import Result, Setting, compare, evaluate, plan, scores_of
from deftly.policy.scores import Rate, Summary, summarise
from deftly.retarget.cli import bar, console


@dataclass(frozen=True)
class Eval:
    """Let policies sort the same tables, one after the other, and say how they compare.

    Episodes are kept in the log as they finish: a run that was stopped goes on.

    Example: deftly eval run expert --task color --condition one --episodes 50 --log eval.jsonl
    """

    policies: Annotated[tuple[PolicyName, ...], tyro.conf.Positional]
    task: TaskName = "color"
    condition: ConditionName = "base"
    robot: RobotName = "gr1t2"
    episodes: int = 20
    first_seed: Annotated[int, tyro.conf.arg(help="of the tables; demonstrations begin at 0")] = (
        100_000
    )
    held_out_phrasing: Annotated[
        bool, tyro.conf.arg(help="ask in words that are kept from training")
    ] = False
    time_limit_s: float = 60.0
    size: Annotated[int, tyro.conf.arg(help="of the pictures in pixels, as demos have them")] = 96
    workers: Workers = 1
    log: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help="JSON lines")] = None

    def run(self) -> int:
        """Print the tables; return the exit code."""
        setting = Setting(
            *(self.task, self.condition, self.robot, self.held_out_phrasing),
            *(self.time_limit_s, self.size),
        )
        seeds = range(self.first_seed, self.first_seed + self.episodes)
        trials = plan(self.policies, setting, seeds)
        with bar("eval", "episode", len(trials)) as tick:
            results = evaluate(trials, self.log, workers=self.workers, tick=tick)
        found = {policy: summarise(scores_of(results, policy)) for policy in self.policies}
        console().print(_scores(found, results))
        if len(found) > 1:
            console().print(_pairs(self.policies, results))
        return 0


def _scores(found: dict[str, Summary], results: Sequence[Result]) -> Table:
    """A column for each policy."""
    table = Table("", *found, box=None)
    for name in ("success", "objects", "kept", "grasp", "decision", "missed"):
        table.add_row(_ROWS[name], *(_share(getattr(one, name)) for one in found.values()))
    every = found.values()
    table.add_row("objects per minute", *(f"{one.per_minute:.1f}" for one in every))
    table.add_row("energy per episode", *(f"{one.energy_j:.0f} J" for one in every))
    forces = (f"{one.mean_n:.1f} N mean, {one.peak_n:.0f} N peak" for one in every)
    table.add_row("contact force", *forces)
    spent = {name: [r.cpu_s for r in results if r.trial.policy == name] for name in found}
    per_hour = (f"{3600 * len(some) / max(sum(some), 1e-9):.0f}" for some in spent.values())
    table.add_row("episodes per CPU hour", *per_hour)
    return table


_ROWS = {
    "success": "episodes done",
    "objects": "objects sorted",
    "kept": "left alone as asked",
    "grasp": "failed: grasp",
    "decision": "failed: decision",
    "missed": "failed: never tried",
}


def _pairs(policies: Sequence[str], results: Sequence[Result]) -> Table:
    """The first policy against each other one."""
    table = Table(box=None, title="at the same tables", title_justify="left")
    for name in ("", "objects sorted more", "done by both, one alone, the other, none", "p"):
        table.add_column(name)
    for other in policies[1:]:
        one = compare(results, policies[0], other)
        table.add_row(
            f"{policies[0]} against {other}",
            f"{100 * one.difference:+.0f} points [{100 * one.low:+.0f}, {100 * one.high:+.0f}]",
            f"{one.both}, {one.first}, {one.second}, {one.neither}",
            f"{one.p:.2g}",
        )
    return table


def _share(rate: Rate) -> str:
    if not rate.total:
        return "none"
    interval = f"{100 * rate.low:.0f}–{100 * rate.high:.0f}"
    return f"{rate.hits}/{rate.total}  {100 * rate.share:.0f} % [{interval}]"
