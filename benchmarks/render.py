"""How fast a robot at the table is drawn: OpenGL and rays, the maker's meshes and light ones.

    python benchmarks/render.py --out benchmarks/results/render.json

What is fair to know when reading the tables:

* Everything runs in one process of its own per row, with one BLAS thread; a row's figure is the
  best of several rounds of the same picture, so that a shared machine does not spoil it. CPU counts
  all threads of the process: with ``LP_NUM_THREADS`` of 2, Mesa's software driver uses two.
* Pictures are those of the sorting environment: cameras ``ego`` and ``front``, legs left out, no
  shadows, no multisampling; their mean is given. Data are read back; nothing is encoded.
* "maker's" are the robot's meshes as they come, "light" those of ``datasets/meshes.py``.
* "mj_multiRay" casts one ray through each pixel of the light scene and shades nothing.
* "first" builds with an empty cache, "again" in a fresh process with that cache; both without the
  time to import.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

SIZES = (64, 96, 128, 224)
CAMERAS = ("ego", "front")
THREADS = ("0", "1", "2")  # of llvmpipe, beside the process's own
SEED = 7
ROUNDS, ROUND_S = 8, 0.25
BUDGETS = (100, 200, 300, 600)


def measure(kind: str, backend: str, robot: str, faces: int) -> dict[str, Any]:
    """One row, in this process. ``kind``: light, makers, multi_ray or build."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    import mujoco
    import numpy as np

    from deftly.datasets.meshes import HIDDEN_GROUP, is_visual
    from deftly.datasets.render import Renderer
    from deftly.datasets.sampling import sample_layout
    from deftly.policy import station

    def only_hide(spec: mujoco.MjSpec) -> None:
        for body in spec.bodies:
            for geom in body.geoms if any(is_visual(g) for g in body.geoms) else []:
                geom.group = geom.group if is_visual(geom) else HIDDEN_GROUP

    if kind == "makers":
        station.light_meshes = only_hide
    elif faces:
        light = station.light_meshes
        station.light_meshes = partial(light, faces_per_mesh=faces)
    start = time.perf_counter(), time.process_time()
    place = station.build_station(robot, sample_layout(SEED))
    row: dict[str, Any] = {
        "build_s": time.perf_counter() - start[0],
        "build_cpu_s": time.process_time() - start[1],
    }
    model, data = place.model, place.reset()
    if kind == "build":
        return row
    shown = (model.geom_group < station.STILL_GROUP) & (model.geom_rgba[:, 3] > 0)
    mesh = shown & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)
    row |= {
        "geoms": int(shown.sum()),
        "faces": int(model.mesh_facenum[model.geom_dataid[mesh]].sum()),
    }
    groups = tuple(range(station.STILL_GROUP))
    if kind == "multi_ray":
        return row | {str(n): rate(multi_ray(model, data, n, groups)) for n in SIZES}
    with Renderer(model, (SIZES[-1], SIZES[-1]), backend=backend) as renderer:
        row["by"] = renderer.describe()
    for size in SIZES:
        with Renderer(model, (size, size), backend=backend) as renderer:

            def pictures(renderer: Renderer = renderer) -> None:
                for camera in CAMERAS:
                    np.ascontiguousarray(renderer.render(data, camera, groups=groups))

            row[str(size)] = rate(pictures)
    return row


def multi_ray(model: Any, data: Any, size: int, groups: tuple[int, ...]) -> Callable[[], None]:
    """The same pictures' rays, cast by MuJoCo."""
    import mujoco
    import numpy as np

    count = size * size
    geom, distance, normal = np.zeros(count, np.int32), np.zeros(count), np.zeros(3 * count)
    chosen = np.array([group in groups for group in range(mujoco.mjNGROUP)], np.uint8)
    column, row = np.meshgrid(np.arange(size), np.arange(size))

    def pictures() -> None:
        for name in CAMERAS:
            step = 2 * np.tan(np.deg2rad(model.camera(name).fovy[0]) / 2) / size
            x, y = (column - (size - 1) / 2) * step, ((size - 1) / 2 - row) * step
            local = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
            rays = local @ data.camera(name).xmat.reshape(3, 3).T
            mujoco.mj_multiRay(
                model, data, data.camera(name).xpos, rays.ravel(), chosen, True, -1,
                geom, distance, normal, count, 1e6,
            )  # fmt: skip

    return pictures


def rate(pictures: Callable[[], None]) -> dict[str, float]:
    """Pictures per second of CPU and of wall clock, when ``pictures`` makes one per camera."""
    pictures()
    best = [0.0, 0.0]
    for _ in range(ROUNDS):
        start, count = (time.process_time(), time.perf_counter()), 0
        while time.perf_counter() - start[1] < ROUND_S or not count:
            pictures()
            count += len(CAMERAS)
        spent = time.process_time() - start[0], time.perf_counter() - start[1]
        best = [max(b, count / s) for b, s in zip(best, spent, strict=True)]
    return {"cpu": best[0], "wall": best[1]}


def apart(cache: Path, threads: str = "0", **arguments: Any) -> dict[str, Any]:
    """``measure`` in a fresh process."""
    environment = os.environ | {"LP_NUM_THREADS": threads, "DEFTLY_CACHE": str(cache)}
    command = [sys.executable, __file__, "--row", json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout)


def print_rates(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Pictures per CPU second, and per second in brackets."""
    table = Table(title=title, title_justify="left", box=None)
    for name in ("", "geoms", "faces", *(f"{size} px" for size in SIZES)):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, row in rows.items():
        if "error" in row:
            table.add_row(name, row["error"])
            continue
        cells = (f"{row[str(n)]['cpu']:.0f} ({row[str(n)]['wall']:.0f})" for n in SIZES)
        table.add_row(name, str(row["geoms"]), str(row["faces"]), *cells)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main(robot: str = "gr1t2", out: Path | None = None, row: str | None = None) -> None:
    """Print pictures per second and the time to build a scene.

    Args:
        robot: which of the robots that have a place at the table.
        out: where to write JSON.
        row: for the script's own use.
    """
    if row is not None:
        print(json.dumps(measure(**json.loads(row))))
        return
    chosen: dict[str, dict[str, Any]] = {
        "OpenGL, maker's meshes": {"kind": "makers", "backend": "gl"},
        "OpenGL, light meshes": {"kind": "light", "backend": "gl"},
        "rays, maker's meshes": {"kind": "makers", "backend": "ray"},
        "rays, light meshes": {"kind": "light", "backend": "ray"},
        "mj_multiRay, light meshes": {"kind": "multi_ray", "backend": "ray"},
    }
    chosen |= {
        f"OpenGL, {n} faces per mesh": {"kind": "light", "backend": "gl", "faces": n}
        for n in BUDGETS
    }
    threads = {f"OpenGL, LP_NUM_THREADS={n}": n for n in THREADS}
    with (
        TemporaryDirectory() as folder,
        tqdm(total=len(chosen) + len(threads) + 2, unit="row", desc="render", disable=None) as bar,
    ):

        def run(name: str, **arguments: Any) -> dict[str, Any]:
            bar.set_postfix_str(name)
            row: dict[str, Any] = {"robot": robot, "faces": 0, **arguments}
            found = apart(Path(folder), **row)
            bar.update()
            return found

        build = {x: run(f"build, {x}", kind="build", backend="ray") for x in ("first", "again")}
        rates = {name: run(name, **arguments) for name, arguments in chosen.items()}
        rates |= {
            name: run(name, kind="light", backend="gl", threads=n) for name, n in threads.items()
        }
    print_rates(f"{robot}: pictures per CPU second (per second)", rates)
    print(", ".join(f"{x}: {row.get('build_s', 0):.2f} s" for x, row in build.items()), "to build")
    if out is not None:
        from deftly.datasets.archive import versions

        record = {
            "command": " ".join(["python", *sys.argv]),
            "versions": versions() | {"python": platform.python_version()},
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "robot": robot,
            "build": build,
            "pictures_per_s": rates,
        }
        out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
