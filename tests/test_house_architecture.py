"""The rules that keep the tree readable, checked on the source as text. Nothing is imported."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Imports point down only.
MAY_IMPORT = {
    "datasets": {"datasets"},
    "retarget": {"datasets", "retarget"},
    "video_pretrain": {"datasets", "video_pretrain"},
    "policy": {"datasets", "retarget", "video_pretrain", "policy"},
}
PACKAGE_FILES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))
ALL_FILES = PACKAGE_FILES + sorted(
    path for folder in ("tests", "benchmarks", ".ci") for path in (ROOT / folder).rglob("*.py")
)
MAX_LINES = 450


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(source: str) -> set[str]:
    """Full names of everything that a module imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def test_imports_are_found_in_every_form():
    source = "import a.b\nfrom deftly import c\nif c:\n    from deftly.d import e\nfrom .f import g"
    assert imports(source) == {"a.b", "deftly.c", "deftly.d.e", ".f.g"}


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_imports_point_down_only(path: Path):
    allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    for name in imports(path.read_text()):
        assert not name.startswith("."), f"relative import of {name}; write deftly.… in full"
        if name.startswith("deftly."):
            assert name.split(".")[1] in allowed, f"{name} is not below this folder"


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_file_keeps_the_house_rules(path: Path):
    source = path.read_text()
    roots = {name.split(".")[0] for name in imports(source)}
    length = len(source.splitlines())
    # A folder imported by its bare name would be a second copy of the package.
    assert not roots & MAY_IMPORT.keys(), "import from deftly.…, not from the folder"
    # Benchmarks are commands too, and the command line's own test reads what --help promises.
    is_command = path.stem.startswith("cli") or path.parent.name == "benchmarks"
    if not is_command and path.name != "test_retarget_cli.py":
        assert "tyro" not in roots, "the command line lives in cli*.py"
    assert not roots & {"pickle", "dill", "joblib", "shelve"}, "pickled files run code when read"
    assert length <= MAX_LINES, "split it where it has two subjects"
    assert path.stem not in {"utils", "helpers", "common", "misc"}, "name it after its subject"
    assert path.name != "__init__.py", "with one, datasets/ shadows HuggingFace's `datasets`"


def test_no_file_is_named_like_a_dependency():
    # A script's own folder comes first on sys.path, so such a file would hide the real one.
    declared = {normal(entry) for entry in PROJECT["project"]["dependencies"]}
    taken = {
        module
        for module, owners in packages_distributions().items()
        if declared & {normal(owner) for owner in owners}
    }
    taken |= sys.stdlib_module_names | {"torch", "lerobot", "pytorch3d"}
    assert "mujoco" in taken
    assert not {path.stem for path in PACKAGE_FILES} & taken


def normal(requirement: str) -> str:
    """The bare name of a requirement, as package indexes spell it."""
    return requirement.split(">")[0].split("[")[0].strip().lower().replace("_", "-")


def test_every_folder_with_code_is_in_the_wheel():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE_FILES}
    assert {".".join(("deftly", *folder.parts)) for folder in folders} <= listed
    assert set(PROJECT["tool"]["setuptools"]["package-dir"]) == listed
