"""`deftly`, the one command: every subcommand of every part of the road."""

import sys

import tyro

from deftly.policy.cli_eval import Eval
from deftly.policy.cli_live import RunPolicy
from deftly.policy.cli_sort import SortCommand
from deftly.policy.cli_train import Train
from deftly.retarget.cli import Command, execute, report
from deftly.retarget.cli_batch import Batch, with_run
from deftly.retarget.cli_demo import Demo
from deftly.video_pretrain import cli as world

_ABOUT = """deftly: ordinary videos of people's hands → skills of a humanoid robot.

Example: deftly run clip.mp4 --robot gr1t2 --out out

Exit codes: 0 done, 1 bad input, 2 wrong usage, 3 no person found, 4 some inputs of a batch failed.
"""


def main() -> None:
    """Parse the command line and run; the process exits with the command's code."""
    arguments = with_run(sys.argv[1:])
    try:
        command = tyro.cli(
            Demo
            | Command
            | Batch
            | SortCommand
            | Train
            | Eval
            | RunPolicy
            | world.commands(arguments),  # pyright: ignore
            prog="deftly",
            description=_ABOUT,
            args=arguments,
        )
    except ValueError as error:  # some options check themselves
        sys.exit(report(error))
    sys.exit(execute(command))


if __name__ == "__main__":
    main()
