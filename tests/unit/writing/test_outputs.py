"""What vitreg did not write survives byte for byte; what it wrote is replaced as one set, the record last."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from vitreg.errors import UserError
from vitreg.writing import ledger, outputs
from vitreg.writing.ledger import LEDGER, note_written, read_ledger
from vitreg.writing.outputs import Outputs, Stage

NAMES = ("result.json", "report.html", "figures/")


def first(place, *, record="1", pictures=("a.png", "b.png")):
    (place / "result.json").write_text(record)
    (place / "report.html").write_text("page " + record)
    (place / "figures").mkdir(exist_ok=True)
    for name in pictures:
        (place / "figures" / name).write_text(name + record)


def scan_into(folder, **kwargs):
    out = Outputs(folder, "scan", NAMES)
    out.check()
    out.publish(lambda place: first(place, **kwargs))


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LEDGER
    }


def test_a_second_run_replaces_the_first_and_leaves_nothing_of_it(tmp_path):
    scan_into(tmp_path)
    assert set(contents(tmp_path)) == {"result.json", "report.html", "figures/a.png", "figures/b.png"}
    scan_into(tmp_path, record="2", pictures=("b.png",))
    assert contents(tmp_path) == {"result.json": b"2", "report.html": b"page 2", "figures/b.png": b"b.png2"}
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.parametrize("name", ["result.json", "report.html", "figures/a.png", "figures/mine.jpg", "figures"])
def test_a_name_that_is_taken_is_refused_before_and_after_the_work_and_the_file_stays(tmp_path, name):
    folder = tmp_path / "out"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"mine")
    out = Outputs(folder, "scan", NAMES)
    with pytest.raises(UserError, match=f"{Path(name).name}.*out"):
        out.check()
    with pytest.raises(UserError, match=r"the result lies in .*out-2 instead"):
        out.publish(first)
    assert contents(folder) == {name: b"mine"}
    assert contents(tmp_path / "out-2")["result.json"] == b"1"


@pytest.mark.parametrize("name", ["result.json", "report.html", "figures/a.png"])
def test_what_was_changed_since_is_the_users(tmp_path, name):
    scan_into(tmp_path)
    (tmp_path / name).write_bytes(b"m" * (tmp_path / name).stat().st_size)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="was changed since vitreg wrote it"):
        scan_into(tmp_path)
    assert contents(tmp_path) == before


def test_a_file_of_another_verb_is_refused(tmp_path):
    scan_into(tmp_path)
    with pytest.raises(UserError, match=r"report.html was written by vitreg scan"):
        Outputs(tmp_path, "curves", ["report.html"]).check()


def test_files_beside_are_no_matter(tmp_path):
    mine = {"tokens-mine.parquet": b"1", "notes.txt": b"2", "pictures/x.png": b"3", "figures/.DS_Store": b"4"}
    for name, data in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    scan_into(tmp_path)
    scan_into(tmp_path, pictures=())
    assert mine.items() <= contents(tmp_path).items()


def test_links_of_the_user_are_neither_followed_nor_replaced(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    folder.mkdir()
    (mine / "a.png").write_bytes(b"a.png1")
    (folder / "figures").symlink_to(mine)
    with pytest.raises(UserError, match="figures is in the way"):
        scan_into(folder)
    (folder / "figures").unlink()
    scan_into(folder)
    shutil.rmtree(folder / "figures")
    (folder / "figures").symlink_to(mine)  # the same bytes, but reached through a link
    with pytest.raises(UserError, match="figures is in the way"):
        scan_into(folder)
    assert (mine / "a.png").read_bytes() == b"a.png1"


def test_a_name_in_another_case_is_the_same_name_where_the_file_system_says_so(tmp_path, monkeypatch):
    """A hard link stands for a file system that ignores case: both spellings lead to one file."""
    (tmp_path / "Report.HTML").write_bytes(b"mine")
    os.link(tmp_path / "Report.HTML", tmp_path / "report.html")
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [name for name in listdir(path) if name != "report.html"])
    with pytest.raises(UserError, match=r"Report\.HTML exists, and no \.vitreg\.json"):
        Outputs(tmp_path, "scan", NAMES).check()


def test_an_input_among_what_is_replaced_is_refused(tmp_path):
    scan_into(tmp_path / "X")
    for given in ("X/figures", "X/figures/a.png", "X/figures/*.png", "X/report.html", "other/../X/figures"):
        (tmp_path / "other").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is read and"):
            Outputs(tmp_path / "X", "scan", NAMES, inputs=[str(tmp_path / given)]).check()
    Outputs(tmp_path / "X", "scan", NAMES, inputs=[str(tmp_path / "X"), str(tmp_path / "X" / "*.png")]).check()


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    folder, tries = tmp_path / "a" / "out", []

    def write(place):
        tries.append(place)
        if len(tries) == 1:
            shutil.rmtree(tmp_path / "a")
        first(place)

    Outputs(folder, "scan", NAMES).publish(write)
    assert contents(folder)["result.json"] == b"1"
    assert len(tries) == 2


def test_a_folder_that_became_a_file_gets_a_neighbour(tmp_path):
    out = Outputs(tmp_path / "out", "scan", NAMES)
    out.check()
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"the result lies in .*out-2 instead"):
        out.publish(first)
    assert contents(tmp_path)["out"] == b"mine"
    assert contents(tmp_path / "out-2")["report.html"] == b"page 1"


def test_what_waited_in_the_stage_goes_with_the_result_to_its_neighbour(tmp_path):
    folder = tmp_path / "out"
    out = Outputs(folder, "scan", NAMES)
    with out.stage() as stage:
        (stage.path / "tokens.parquet").write_bytes(b"tokens")
        (folder / "tokens.parquet").write_bytes(b"mine")
        with pytest.raises(UserError, match=r"tokens\.parquet exists, .*out-2 instead"):
            out.publish(first, stage=stage)
    assert contents(folder) == {"tokens.parquet": b"mine"}
    assert contents(tmp_path / "out-2")["tokens.parquet"] == b"tokens"


def test_a_result_without_a_list_of_files_is_left_alone(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"schema": "vitreg.scan/1"}))
    with pytest.raises(UserError, match=r"result.json exists, and no \.vitreg\.json .*an earlier vitreg.*; move it"):
        Outputs(tmp_path, "scan", NAMES).check()


def test_a_list_that_is_not_vitregs_is_refused(tmp_path):
    (tmp_path / LEDGER).write_text("mine")
    with pytest.raises(UserError, match=r"damaged, .*move the folder away.*out"):
        Outputs(tmp_path, "scan", NAMES).check()
    assert (tmp_path / LEDGER).read_text() == "mine"


def test_a_list_speaks_of_nothing_outside_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"mine")
    note_written(tmp_path, ["secret"], "scan")
    text = (tmp_path / LEDGER).read_text()
    (tmp_path / "in" / LEDGER).write_text(text.replace('"secret"', '"../secret"'))
    assert not read_ledger(tmp_path / "in").files
    scan_into(tmp_path / "in")
    assert (tmp_path / "secret").read_bytes() == b"mine"


def test_only_files_of_a_result_go_with_it_whatever_else_the_list_names(tmp_path):
    """A list that was edited, or came with a folder, calls a photograph what a scan wrote."""
    scan_into(tmp_path)
    for name in ("photo.png", "photos/a.png", "tokens.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    note_written(tmp_path, ["photo.png", "photos/a.png", "tokens.parquet"], "scan")
    out = Outputs(tmp_path, "scan", NAMES, earlier=lambda name: name == "tokens.parquet")
    out.publish(lambda place: first(place, record="2", pictures=("a.png",)))
    assert sorted(contents(tmp_path)) == ["figures/a.png", "photo.png", "photos/a.png", "report.html", "result.json"]


def test_an_earlier_file_that_would_go_is_refused_as_input(tmp_path):
    (tmp_path / "heads-1.png").write_text("sheet")
    note_written(tmp_path, ["heads-1.png"], "maps")
    given = [tmp_path / "heads-1.png"]
    Outputs(tmp_path, "maps", ["norm.png"], given).check()
    with pytest.raises(UserError, match=r"heads-1.png, which vitreg maps would replace"):
        Outputs(tmp_path, "maps", [], given, lambda name: name.startswith("heads")).check()


def test_a_copied_folder_is_still_vitregs_also_where_files_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "LARGE", 0)  # every file is large
    scan_into(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b" / "report.html", ns=(1, 1))
    scan_into(tmp_path / "b", record="2")
    (tmp_path / "b" / "report.html").write_bytes(b"PAGE 2")
    os.utime(tmp_path / "b" / "report.html", ns=(2, 2))
    with pytest.raises(UserError, match="was changed"):
        scan_into(tmp_path / "b")


def test_what_is_added_leaves_the_rest_and_its_failure_too(tmp_path):
    out = Outputs(tmp_path, "scan", NAMES)
    out.publish(lambda place: (place / "result.json").write_text("1"))
    with out.adding() as place:
        (place / "report.html").write_text("page")
    assert set(contents(tmp_path)) == {"result.json", "report.html"}

    def broken():
        with out.adding() as place:
            (place / "report.html").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device; what was written before is complete"):
        broken()
    assert contents(tmp_path) == {"result.json": b"1", "report.html": b"page"}
    out.publish(lambda place: (place / "result.json").write_text("2"))
    assert contents(tmp_path) == {"result.json": b"2"}, "drawings of the earlier record are not left beside another"


KILLED = """
import os, signal, sys
from pathlib import Path
from vitreg.writing import outputs
folder, moves = Path(sys.argv[1]), int(sys.argv[2])
def write(place):
    for name in ("result.json", "tokens.parquet", "report.html"):
        (place / name).write_text("new")
    if moves < 0:
        os.kill(os.getpid(), signal.SIGKILL)
class Counted:
    def __getattr__(self, name):
        return getattr(os, name)
    left = moves
    def replace(self, source, target):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        os.replace(source, target)
outputs.os = Counted()
outputs.Outputs(folder, "scan", ("result.json", "report.html")).publish(write)
"""


@pytest.mark.parametrize("moves", [-1, 0, 1, 2, 3, 4, 5])
def test_a_kill_at_any_moment_never_leaves_a_record_beside_parts_of_another(tmp_path, moves):
    """The moves: the plan, the report, the tokens, the record, the list of files."""

    def old(place):
        for name in ("result.json", "tokens.parquet", "report.html"):
            (place / name).write_text("old")

    Outputs(tmp_path, "scan", ()).publish(old)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(moves)], check=False, timeout=PATIENCE)
    assert done.returncode == (0 if moves == 5 else -signal.SIGKILL)
    found = contents(tmp_path)
    if "result.json" in found:
        parts = {name: data for name, data in found.items() if not name.startswith(".part")}
        assert len(set(parts.values())) == 1
        assert len(parts) == 3
    Outputs(tmp_path, "scan", ("result.json", "report.html")).check()  # what the next run begins with
    expected = b"old" if moves <= 0 else b"new"
    assert contents(tmp_path) == dict.fromkeys(["report.html", "result.json", "tokens.parquet"], expected)
    assert not list(tmp_path.glob(".part-*"))


def test_only_abandoned_stages_of_vitreg_are_swept(tmp_path):
    (tmp_path / ".part-mine").mkdir()
    (tmp_path / ".part-mine" / "thesis.txt").write_text("mine")
    (tmp_path / ".part-marked").mkdir()
    (tmp_path / ".part-marked" / outputs.MARK).write_text("mine")
    alive = Stage(tmp_path)
    (alive.path / "result.json").write_text("being written")
    dead = Stage(tmp_path)
    dead._mark.close()
    Outputs(tmp_path, "scan", NAMES).check()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".part-mine", ".part-marked", alive.home.name}
    alive.close()
    assert not alive.home.exists()


def left_by_a_kill(folder, files, stale=()):
    """What a run leaves that dies while it moves files into place, or somebody made to look like it."""
    home = folder / ".part-left"
    (home / outputs.NEW).mkdir(parents=True)
    (home / outputs.MARK).write_text('{"schema": "vitreg.part/1"}')
    plan = {"files": {name: ledger.Written(**known).model_dump() for name, known in files.items()}, "stale": [*stale]}
    (home / outputs.PLAN).write_text(json.dumps(plan))
    return home


def known_of(path):
    return ledger.written(path, "scan").model_dump()


@pytest.mark.parametrize("forged", ["a name", "a link of the files", "a link of one file", "what is removed", "drafts"])
def test_a_plan_that_comes_with_a_folder_moves_and_removes_nothing_outside(tmp_path, forged):
    folder, mine = tmp_path / "in", tmp_path / "mine"
    mine.mkdir()
    (mine / "x").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    scan_into(folder)
    name = {"a name": "../taken/x", "what is removed": "y"}.get(forged, "x")
    home = left_by_a_kill(folder, {name: known_of(mine / "x")}, ["../empty/x"] if forged == "what is removed" else [])
    source = home / outputs.NEW / name
    if forged == "a link of the files":
        source.parent.rmdir()
        source.parent.symlink_to(mine)
    elif forged == "a link of one file":
        source.symlink_to(mine / "x")
    else:
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(b"mine")
    if forged == "drafts":
        for draft in (f"{outputs.PLAN}.part", LEDGER):
            (home / draft).symlink_to(mine / "x")
    Outputs(folder, "scan", NAMES).check()
    assert (mine / "x").read_bytes() == b"mine"
    assert (tmp_path / "empty").is_dir()
    assert not (tmp_path / "taken").exists()
    assert (folder / name).exists() == (forged == "drafts")
    assert (folder / "result.json").read_bytes() == b"1"


def test_a_stage_of_a_failed_write_goes(tmp_path):
    def broken(place):
        (place / "result.json").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Outputs(tmp_path, "scan", NAMES).publish(broken)
    assert not list(tmp_path.iterdir())


def test_nothing_is_added_beside_the_record_of_another_process(tmp_path):
    ours = Outputs(tmp_path, "scan", NAMES)
    ours.publish(lambda place: (place / "result.json").write_text("1"))
    scan_into(tmp_path, record="2")
    with (
        pytest.raises(UserError, match="another process replaced or removed the result") as refused,
        ours.adding() as place,
    ):
        (place / "report.html").write_text("page 1")
    assert "is complete" not in str(refused.value)
    assert (contents(tmp_path)["result.json"], contents(tmp_path)["report.html"]) == (b"2", b"page 2")


@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_added_to_a_folder_that_is_deleted_meanwhile_is_no_success(tmp_path, recorded):
    out = Outputs(tmp_path / "out", "scan", NAMES)
    if recorded:
        out.publish(lambda place: (place / "result.json").write_text("1"))

    def add():
        with out.adding() as place:
            (place / "report.html").write_text("page")
            shutil.rmtree(tmp_path / "out")

    with pytest.raises(UserError, match=r"cannot write to .*out: it was deleted meanwhile") as refused:
        add()
    assert "is complete" not in str(refused.value)


def test_two_verbs_share_a_folder_and_its_list(tmp_path):
    scan_into(tmp_path)
    maps = Outputs(tmp_path, "maps", ["attention.png"])
    maps.publish(lambda place: (place / "attention.png").write_text("map"))
    scan_into(tmp_path, pictures=())
    assert set(contents(tmp_path)) == {"result.json", "report.html", "attention.png"}
    maps.check()


def test_lists_of_files_have_the_schema_of_0_1(tmp_path):
    """A name that moves with a module would make every older folder a foreign one."""
    Outputs(tmp_path, "scan", ()).publish(lambda place: (place / "result.json").write_text("{}"))
    assert '"vitreg.files/1"' in (tmp_path / ".vitreg.json").read_text()
