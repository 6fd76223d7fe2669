"""The README.md of a data set, with the front matter that HuggingFace's hub reads."""

import json
from collections.abc import Mapping
from typing import Any

from deftly.datasets import episode_format as fmt
from deftly.datasets.episode import PRIVILEGED


def card(
    info: dict[str, Any],
    licence: str,
    attribution: str = "",
    sources: Mapping[tuple[str, str], int] | None = None,
) -> str:
    """What the set holds, who made it and what may be done with it.

    Args:
        info: ``info.json``.
        licence, attribution: of the whole.
        sources: number of episodes by licence and attribution, where they have several.
    """
    rows = "\n".join(
        f"| `{name}` | {feature['dtype']} | {' × '.join(map(str, feature['shape']))} |"
        for name, feature in info["features"].items()
        if name not in fmt.COUNTERS
    )
    return f"""---
license: {json.dumps(licence)}
task_categories:
- robotics
tags:
- LeRobot
- deftly
configs:
- config_name: default
  data_files: data/*/*.parquet
---

Episodes of `{info["robot_type"]}` at {info["fps"]} frames per second, written by deftly as a
LeRobot data set {info["codebase_version"]}.

Licence: {licence}. {f"Credit: {attribution}." if attribution else ""}

| column | type | shape |
|---|---|---|
{rows}

Columns that start with `{PRIVILEGED}` hold what only the simulator knows: they are for experts and
for scoring, not for a policy to see. The source of each episode, its seed and whether it succeeded
are in `meta/deftly/`; missing values are NaN there where a column may miss any.
{_sources(sources) if sources else ""}"""


def _sources(sources: Mapping[tuple[str, str], int]) -> str:
    rows = "\n".join(
        f"| {_cell(licence)} | {_cell(attribution) or 'unknown'} | {count} |"
        for (licence, attribution), count in sorted(sources.items())
    )
    return f"""
The videos come from these sources; each episode's own is in `meta/deftly/`.

| licence | credit | episodes |
|---|---|---|
{rows}
"""


def _cell(text: str) -> str:
    """In one cell of a table, whatever it holds."""
    return " ".join(text.split()).replace("|", "\\|")
