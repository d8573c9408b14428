"""A kind of modality that another package adds in one file trains, imputes, scores, is shown and is written.

It is installed as packages are, by an entry point, and seen by a process of its own: tables are looked up once.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
INSTALLED = HERE / "package"  # a folder of its own: the tests' folders are on the path of every other test
PACKAGE = HERE.parents[1] / "src" / "multiebm"


def test_an_angle_on_the_circle():
    path = os.pathsep.join([str(INSTALLED), *sys.path])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "angle_checks.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_in_the_package_names_it():
    assert not [path for path in PACKAGE.rglob("*.py") if "von mises" in path.read_text().casefold()]
    assert not [path for path in PACKAGE.rglob("*.py") if '"angle"' in path.read_text()]
