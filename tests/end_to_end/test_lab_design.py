"""A design from the command line: its hours, its runs in processes of their own, its page; again, it does nothing twice."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_a_design_is_planned_run_and_reported(vitreg, tmp_path):
    out = tmp_path / "out"
    planned = vitreg("lab", "run", "tiny", "--dry-run", "--out", out)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("0 registers: seed 0, ")
    assert "2 runs: about " in planned.stdout
    assert "hours of a core" in planned.stdout
    assert not out.exists()
    done = vitreg("lab", "run", "tiny", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs ended" in done.stderr
    assert done.stdout.rstrip().endswith(f"Open {out / 'report.html'}")
    rows = {path.name: path.stat().st_mtime_ns for path in (out / "jobs").glob("*.json")}
    assert len(rows) == 2
    again = vitreg("lab", "run", "tiny", "--out", out)
    assert again.returncode == 0, again.stderr
    assert "All 2 runs ended before." in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (out / "jobs").glob("*.json")} == rows
    (out / "report.html").unlink()
    assert vitreg("lab", "report", out).returncode == 0
    assert json.loads((out / "result.json").read_text())["asked"] == 2
    assert (out / "report.html").is_file()
