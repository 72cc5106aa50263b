"""What `vitreg draw` makes of records is what the verb drew, byte for byte and pixel for pixel, and nothing else changes."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import one_sentence
from tests.end_to_end.made import QUICK, SMALL

pytestmark = pytest.mark.usefixtures("few_resamples", "coarse_figures")

CASES = {
    "scan": ("{model}", "{photographs}", "--limit", "3", "--out", "{out}", *SMALL, *QUICK),
    "maps": ("{model}", "{photographs}", "--limit", "2", "--out", "{out}", *SMALL),
    "discover": ("{model}", "voc2012:{voc}@val", "--limit", "2", "--out", "{out}", *SMALL),
    "curves": ("{run}", "--out", "{out}"),
    "eval": ("{model}", "segmentation", "{dense}", "--steps", "2", "--out", "{out}", *SMALL),
    "repairs": ("{model}", "{photographs}", "--limit", "5", "--methods", "none", "--force", "--out", "{out}", *SMALL),
    "zoo": ("-m", "{model}", "-m", "timm:nope", "{photographs}", "--limit", "2", "--out", "{out}", *SMALL, *QUICK),
    "reproduce": (
        "fig2", "fig3", "fig6", "fig11", "-m", "{model}", "--images", "{photographs}", "--limit", "3", "--out", "{out}", *SMALL,
    ),
    "compare": ("{scanned}", "{scanned}", "--out", "{out}/page.html"),
}  # fmt: skip
DRAWN = (".html", ".png", ".csv", ".svg", ".pdf", ".tex")


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shown(folder):
    """Pages as bytes, pictures as pixels: a PNG may be packed otherwise by another version of its library."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".png":
            with Image.open(path) as image:
                found[path.relative_to(folder).as_posix()] = np.asarray(image.convert("RGBA")).tobytes()
        elif path.suffix in DRAWN:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def others(folder):
    return {name: held for name, held in files(folder).items() if not name.endswith(DRAWN) and name != ".vitreg.json"}


@pytest.fixture(scope="module")
def folders(vitreg, made, tmp_path_factory):
    """The folder of a verb, made once."""
    done = {}

    def folder(verb):
        if verb not in done:
            out = tmp_path_factory.mktemp(verb) / "out"
            words = [word.format(**made, out=out) for word in CASES[verb]]
            first = vitreg(verb, *words)
            assert first.returncode == 0, first.stderr
            done[verb] = out
        return done[verb]

    return folder


@pytest.mark.parametrize("verb", CASES)
def test_a_folder_is_drawn_as_it_was(vitreg, folders, verb):
    out = folders(verb)
    before, records = shown(out), others(out)
    assert before
    own = [
        path for path in out.rglob("*") if path.suffix in DRAWN and "runs" not in path.parts
    ]  # not those of its jobs
    drawn_at = {path: path.stat().st_mtime_ns for path in own}
    done = vitreg("draw", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().rpartition("\n")[2].startswith(f"Open {out}")
    assert shown(out) == before
    assert others(out) == records
    assert all(path.stat().st_mtime_ns > at for path, at in drawn_at.items()), "nothing was drawn"


def test_the_picture_of_complexity_is_drawn_from_the_record(vitreg, tmp_path):
    words = ("planted:clean", "complexity", "--registers", "0", "4", "--out", tmp_path)
    assert vitreg("eval", *words).returncode == 0
    before = shown(tmp_path)
    assert set(before) == {"report.html", "complexity.png"}
    assert vitreg("draw", tmp_path).returncode == 0
    assert shown(tmp_path) == before


@pytest.mark.slow
def test_a_table_is_drawn_as_it_was(vitreg, made, tmp_path):
    """Of several models and tasks, one of which is none."""
    words = ("-m", made["model"], "-m", "planted:clean", "-m", "timm:nope", "complexity,position", made["photographs"])
    first = vitreg("eval", *words, "--limit", "3", *SMALL, "--out", tmp_path)
    assert first.returncode == 2
    assert "2 of 6 evaluations failed" in first.stderr
    assert first.stdout.rstrip().endswith(f"Open {tmp_path / 'report.html'}")
    before = shown(tmp_path)
    assert {"report.html", "table.csv", "planted-clean/complexity/report.html"} <= set(before)
    assert vitreg("draw", tmp_path).returncode == 0
    assert shown(tmp_path) == before
    again = vitreg("eval", *words, "--limit", "3", *SMALL, "--out", tmp_path)
    assert again.stdout.count("  kept") == 4


def test_the_page_of_a_run_is_drawn_as_it_was(vitreg, made):
    before = (made["run"] / "report.html").read_bytes()
    assert vitreg("draw", made["run"]).returncode == 0
    assert (made["run"] / "report.html").read_bytes() == before


def test_a_verb_goes_over_what_was_drawn_again(vitreg, made, folders):
    out = folders("scan")
    assert vitreg("draw", out).returncode == 0
    again = vitreg("scan", *[word.format(**made, out=out) for word in CASES["scan"]])
    assert again.returncode == 0, again.stderr


def test_without_torch(folders):
    """In a process that cannot import it, which draws them all."""
    code = """if True:
    import sys
    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            assert name.partition(".")[0] not in ("torch", "timm"), name
    sys.meta_path.insert(0, NoTorch())
    from vitreg.__main__ import main
    for folder in sys.argv[1:]:
        sys.argv = ["vitreg", "draw", folder]
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, folder"""
    command = [sys.executable, "-c", code, *(str(folders(verb)) for verb in CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Open ") == len(CASES)


def test_elsewhere_the_folder_stays_as_it_is(vitreg, folders, tmp_path):
    out = folders("maps")
    before = files(out)
    assert vitreg("draw", out, "--out", tmp_path / "drawn").returncode == 0
    assert files(out) == before
    assert shown(tmp_path / "drawn") == shown(out)


def test_other_folders_are_refused(vitreg, tmp_path):
    assert "no folder" in one_sentence(vitreg("draw", tmp_path / "nowhere"))
    assert "holds nothing to draw" in one_sentence(vitreg("draw", tmp_path))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "result.json").touch()
    assert one_sentence(vitreg("draw", tmp_path)).endswith(f"Try {tmp_path / 'inside'}.")
    shutil.rmtree(tmp_path / "inside")
    for text, words in (
        ("{", "no record of vitreg"),
        ('{"schema": "vitreg.bench/1"}', "of the schema vitreg.bench/1"),
        ('{"schema": "vitreg.scan/1"}', "damaged or of another version"),
    ):
        (tmp_path / "result.json").write_text(text)
        assert words in one_sentence(vitreg("draw", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", ["report.html", "figures/mine.png"])
def test_what_is_not_proven_ours_is_not_drawn_over(vitreg, folders, tmp_path, name):
    out = tmp_path / "out"
    shutil.copytree(folders("scan"), out)
    (out / name).write_bytes(b"mine")
    before = files(out)
    assert name.partition("/")[0] in one_sentence(vitreg("draw", out))
    assert files(out) == before


@pytest.mark.parametrize(
    ("verb", "kept"),
    [("scan", "examples.npz"), ("maps", "norm.npz"), ("discover", "pictures/sheets.npz"), ("eval", "sheets.npz")],
)
def test_pictures_that_were_not_kept_are_named_and_stay(vitreg, folders, tmp_path, verb, kept):
    """A folder of an earlier version lacks the file."""
    out = tmp_path / "out"
    shutil.copytree(folders(verb), out)
    (out / kept).unlink()
    before = shown(out)
    done = vitreg("draw", out)
    if verb == "maps":  # the others are drawn
        assert "norm.png cannot be drawn again: there is no norm.npz." in done.stdout
    elif verb == "eval":  # its page is drawn, without them
        assert "segmentation.png cannot be drawn again: there is no sheets.npz." in done.stdout
        assert b"data:image/png" not in (out / "report.html").read_bytes()
        before.pop("report.html")
    else:
        assert f"cannot be drawn again: there is no {kept.rpartition('/')[2]}; run vitreg {verb} again" in one_sentence(
            done
        )
    assert {name: held for name, held in shown(out).items() if name in before} == before
    if verb == "scan":
        elsewhere = vitreg("draw", out, "--out", tmp_path / "drawn")
        assert elsewhere.returncode == 0, elsewhere.stderr
        assert (tmp_path / "drawn" / "report.html").is_file()


def test_damaged_pictures_are_refused(vitreg, folders, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(folders("maps"), out)
    (out / "norm.npz").write_bytes(b"PK no")
    assert "the sheets of norm cannot be drawn again" in one_sentence(vitreg("draw", out))


def test_a_drawing_that_failed_and_works_now_is_no_longer_named(vitreg, folders, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(folders("scan"), out)
    held = json.loads((out / "result.json").read_text())
    ledger = json.loads((out / ".vitreg.json").read_text())
    failed = [{"name": "chart of norms", "reason": "x"}, {"name": "maps of the images", "reason": "no memory"}]
    text = json.dumps({**held, "undrawn": failed})
    (out / "result.json").write_text(text)
    _prove(ledger, out, "result.json")
    done = vitreg("draw", out)
    assert done.returncode == 0, done.stderr
    after = json.loads((out / "result.json").read_text())
    assert after == {**held, "undrawn": failed[1:]}  # only measuring makes these
    assert "maps of the images" in done.stdout
    assert "chart of norms" not in done.stdout


def _prove(ledger, out, name):
    from vitreg.writing.ledger import written

    ledger["files"][name] = written(out / name, ledger["files"][name]["by"]).model_dump()
    (out / ".vitreg.json").write_text(json.dumps(ledger))


def test_the_page_of_another_record_is_not_drawn_over(vitreg, folders, made, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(folders("scan"), own)
    before = files(own)
    said = one_sentence(vitreg("draw", folders("scan"), "--out", own))
    assert f"{own} holds a record of its own" in said
    assert files(own) == before


COPIED = {"scan": "examples.npz", "discover": "pictures/sheets.npz", "eval": "sheets.npz", "curves": "curves.json"}


@pytest.mark.parametrize("verb", COPIED)
def test_what_was_copied_in_from_another_result_is_not_drawn(vitreg, folders, tmp_path, verb):
    """The file is whole and of the right kind, and belongs to another result."""
    out, name = tmp_path / "out", COPIED[verb]
    shutil.copytree(folders(verb), out)
    held = (out / name).read_bytes()
    (out / name).write_bytes(held + (b" " if name.endswith(".json") else b""))
    if name.endswith(".npz"):
        arrays = dict(np.load(out / name))
        np.savez(out / name, **arrays)
    before = files(out)
    for words in ([], ["--out", tmp_path / "elsewhere"]):
        words = one_sentence(vitreg("draw", out, *words))
        assert f"{name} was changed since vitreg wrote it" in words
        assert f"run vitreg {verb} again" in words
    assert files(out) == before
    (out / name).write_bytes(held)
    assert vitreg("draw", out).returncode == 0


def test_a_record_that_stands_on_no_list_is_not_drawn(vitreg, folders, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(folders("curves"), out)
    shutil.copy(folders("scan") / "result.json", out)
    assert "result.json exists and is not on vitreg's list" in one_sentence(vitreg("draw", out))


def test_without_a_list_it_is_said_that_nothing_is_proven(vitreg, folders, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(folders("scan"), out)
    (out / ".vitreg.json").unlink()
    done = vitreg("draw", out, "--out", tmp_path / "elsewhere")
    assert done.returncode == 0
    assert "no .vitreg.json in" in done.stdout + done.stderr
