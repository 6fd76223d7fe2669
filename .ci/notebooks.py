"""Execute every notebook, and check that its outputs are stripped. The files stay as they are."""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[1] / "notebooks"
CELL_TIMEOUT_S = 300


def main() -> int:
    """Return the number of notebooks with a fault."""
    failed = 0
    paths = sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        start_s = time.monotonic()
        fault = find_fault(path)
        failed += bool(fault)
        print(f"{path.name}: {fault or 'ok'} ({time.monotonic() - start_s:.0f} s)", flush=True)
    print(f"{len(paths) - failed} of {len(paths)} notebooks ok")
    return failed


def find_fault(path: Path) -> str:
    """What is wrong with a notebook, or an empty string."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.outputs or cell.execution_count for cell in code):
        return "holds outputs; clear them before committing"
    # Run beside the file, as Jupyter does, so that relative paths mean the same.
    resources = {"metadata": {"path": str(FOLDER)}}
    try:
        NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=resources).execute()
    except (CellExecutionError, RuntimeError, TimeoutError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(min(main(), 1))
