"""The import rule: a module imports from its own folder or from a lower floor, never sideways."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "multiebm"
CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
# folder -> floor, 0 at the bottom; `|` separates siblings of one floor, brackets hold a folder that may not be there
FLOOR = {name.strip(" ()"): i for i, row in enumerate(reversed(CONTRACT["layers"])) for name in row.split("|")}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported_folders(path: Path) -> list[tuple[int, str]]:
    """Line and folder of every import of this package, wherever in the file it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it in full"
            names = [node.module or ""] if node.module != "multiebm" else [f"multiebm.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("multiebm.")]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_its_own_folder_or_a_lower_floor(path: Path):
    own = path.relative_to(PACKAGE).parts[0]
    for line, folder in imported_folders(path):
        allowed = folder == own or (folder in FLOOR and FLOOR[folder] < FLOOR[own])
        assert allowed, f"{path}:{line}: {own} (floor {FLOOR[own]}) imports {folder}"


def test_every_folder_has_a_floor():
    folders = {path.relative_to(PACKAGE).parts[0] for path in MODULES}
    assert folders <= FLOOR.keys()


def test_the_rule_sees_what_it_must_refuse(tmp_path: Path):
    late = tmp_path / "late.py"
    late.write_text("def f():\n    from multiebm.models.model import MultimodalModel\n    import multiebm.nn.blocks\n")
    assert imported_folders(late) == [(2, "models"), (3, "nn")]
    assert FLOOR["core"] == 0
    assert FLOOR["nn"] == FLOOR["mcmc"] == FLOOR["distributions"] == 1
