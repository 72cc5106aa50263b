"""The wheel, installed into an empty environment, runs the demo from an empty folder without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="a wheel is built by hatchling; install 'vitreg[dev]'.")

ROOT = Path(__file__).parents[2]
MOST = 40 * 2**20  # bytes
OFFLINE = '''
"""Imported at the start of this environment's Python: it refuses the network, and writes down who asked for it."""
import os
import sys


def refuse(event, given):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(given[1], tuple)):
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {given}\\n")
        raise OSError("there is no network here")


sys.addaudithook(refuse)
'''


def run(words: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing of this process's environment that leads Python or models elsewhere."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VITREG", "HF_", "XDG_"))
    }
    own = {"HOME": str(folder), "ASKED": str(folder.parent / "asked"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*map(str, words)], cwd=folder, env=kept | own, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT]
    built = run([sys.executable, "-m", "pip", *words], folder)
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel. What vitreg needs is read where these tests find it, but not vitreg itself."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    installed = run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], place
    )
    assert installed.returncode == 0, installed.stderr
    (packages,) = place.glob("lib/python*/site-packages")
    # A folder that a .pth file names is searched, but its own .pth files, as that of an editable vitreg, are not read.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "sitecustomize.py").write_text(OFFLINE)
    return place / "bin"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST
    with zipfile.ZipFile(wheel) as held:
        names = {name for name in held.namelist() if name.startswith("vitreg/")}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:  # no checkout, no list
        assert names == {name.removeprefix("src/") for name in listed.stdout.splitlines()}


@pytest.mark.slow
def test_the_demo_of_the_wheel_runs_from_an_empty_folder_without_a_network(environment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    # What refuses the network does so, or this test says nothing.
    asks = "import socket; socket.create_connection(('127.0.0.1', 9))"
    assert "there is no network here" in run([environment / "python", "-c", asks], folder).stderr
    (tmp_path / "asked").unlink()
    shown = run([environment / "vitreg", "demo"], folder)
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()
    (page,) = folder.glob("*/index.html")
    assert re.findall(r"Act (\d): <strong>(\w+)</strong>", page.read_text()) == [
        ("1", "born"), ("2", "natural"), ("3", "planted"),
    ]  # fmt: skip
    for name in ("born", "born-reg4", "planted", "clean"):
        assert (page.parent / name / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_shipped_pair_loads_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    words = """
import vitreg
print(vitreg.__file__)
for spec in ("vitreg:born", "vitreg:born-reg4"):
    model = vitreg.load(spec, device="cpu")
    print(len(model.layout((32, 32)).registers), model.depth)
"""
    folder = tmp_path / "empty"
    folder.mkdir()
    told = run([environment / "python", "-c", words], folder)
    assert told.returncode == 0, told.stderr
    where, *loaded = told.stdout.splitlines()
    assert Path(where).is_relative_to(environment.parent)
    assert loaded == ["0 4", "4 4"]
