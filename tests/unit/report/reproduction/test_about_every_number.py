"""Every figure, table and row of the ledger says whose numbers it holds, on which images, and after which figure of the paper."""

import csv
import io
import json

import pytest
from matplotlib.text import Text

from vitreg.experiments.known import EXPERIMENTS
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured, Reproduction, TrainedAs
from vitreg.records.scan import Provenance
from vitreg.report.attempts import Attempts
from vitreg.report.paper import axes_of
from vitreg.report.reproduction import papers
from vitreg.report.reproduction.ledger import as_csv, ledger, rows
from vitreg.report.reproduction.page import draw_reproduction

SCENES = "synthetic:scenes@3:8"
SUBJECTS = {"planted:high-norm": "planted", "trained:dinov2-reg4@1": "trained here", "timm:vit_base": ""}
PAPER = """
	IN1k	P205	Airc.	CF10	CF100	CUB	Cal101	Cars	DTD	Flow.	Food	Pets	SUN	VOC
[CLS]	86.0	66.4	87.3	99.4	94.5	91.3	96.9	91.5	85.2	99.7	94.7	96.9	78.6	89.1
normal	65.8	53.1	17.1	97.1	81.3	18.6	73.2	10.8	63.1	59.5	74.2	47.8	37.7	70.8
outlier	69.0	55.1	79.1	99.3	93.7	84.9	97.6	85.2	84.9	99.6	93.5	94.1	78.5	89.7
"""


def measured(subject, **numbers):
    held = TrainedAs(recipe="dinov2", registers=4, seed=1) if subject.startswith("trained:") else None
    return Measured(subject=subject, numbers=numbers, images=8, trained=held)


def record(id, *subjects, **numbers):
    known = EXPERIMENTS[id]
    return ExperimentRecord(
        id=id, label=known.label, title=known.title, published=dict(known.published), protocol=known.protocol, ours=known.ours,
        measured=[measured(each, **numbers) for each in subjects], data={"images": SCENES, "classes": SCENES},
        claims=[
            Claim(id="c", subject=each, says="It is so.", criterion="it is", outcome="not testable here", reason="It has no registers.")
            for each in subjects
        ],
    )  # fmt: skip


def result_of(*experiments):
    made = Provenance(
        vitreg="0.1.0", command="vitreg reproduce fig3", started="2026", seconds=1, python="3", packages={}, hardware="", device="cpu",
        precision="fp32", processes=1, seed=5,
    )  # fmt: skip
    return Reproduction(scale="smoke", images=SCENES, experiments=list(experiments), provenance=made)


def figure(*words):
    made, axes = axes_of(3, 2)
    axes.set_title(" ".join(words))
    return made


def drawn(tmp_path, id, subject, caption):
    made = []

    def draw():
        made.append(figure("" if caption == subject else subject))
        return made[-1]

    failed = Attempts()
    draw_reproduction(result_of(record(id, *SUBJECTS)), {id: {id: (caption, draw)}}, tmp_path, failed)
    assert not failed.failed
    below = " ".join(" ".join(text.get_text().split()) for text in made[0].findobj(Text))
    return below, (tmp_path / "figures" / f"{id}.svg").read_text()


@pytest.mark.parametrize("id", sorted(EXPERIMENTS))
def test_every_figure_names_model_kind_images_and_source(id, tmp_path):
    """All figures pass the one place that draws this line, whatever experiment made them."""
    shown = list(SUBJECTS.items())
    for subject, kind in shown if id == "fig3" else shown[len(id) % 3 :][:1]:  # a picture takes a sixth of a second
        below, svg = drawn(tmp_path, id, subject, subject)
        name = f"{subject} ({kind})" if kind else subject
        for told in (below, svg):
            assert f"{name}; on synthetic scenes ({SCENES})" in told or f"{name}; trained" in told
            assert "Vision Transformers Need Registers" in told
            assert EXPERIMENTS[id].label in told
            assert all(other not in told for other in SUBJECTS if other != subject)


def test_a_figure_of_several_models_names_those_that_stand_in_it(tmp_path):
    below, _ = drawn(tmp_path, "fig2", "planted:high-norm", "The same photographs for all models")
    assert "planted:high-norm (planted); on" in below
    assert "timm:vit_base" not in below


def test_the_ledger_has_a_head_and_every_row_its_kind_images_count_and_seeds():
    result = result_of(record("fig3", *SUBJECTS))
    held = ledger(json.loads(result.model_dump_json()) and result)
    assert held["schema"] == "vitreg.claims/1"
    assert (held["vitreg"], held["command"], held["seed"]) == ("0.1.0", "vitreg reproduce fig3", 5)
    found = {row["subject"]: row for row in held["claims"]}
    assert {name: row["kind"] for name, row in found.items()} == SUBJECTS
    assert all("synthetic scenes" in row["images"] and row["images_seen"] == 8 for row in found.values())
    assert [found[name]["seeds"] for name in SUBJECTS] == [[5], [1], [5]]
    lines = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert [line["kind"] for line in lines] == [row["kind"] for row in rows(result)]


def test_tables_say_it_too(tmp_path):
    result = result_of(record("fig3", *SUBJECTS, share=0.5))
    draw_reproduction(result, {}, tmp_path, Attempts())
    lines = list(csv.DictReader((tmp_path / "tables" / "fig3.csv").open()))
    assert [line["kind"] for line in lines] == list(SUBJECTS.values())
    latex = (tmp_path / "tables" / "fig3.tex").read_text()
    assert "planted:high-norm (planted)" in latex
    assert "8 images: synthetic scenes" in latex


def test_claims_that_cannot_be_tested_for_one_reason_are_one_closed_line(tmp_path):
    draw_reproduction(result_of(record("fig3", *SUBJECTS)), {}, tmp_path, Attempts())
    page = (tmp_path / "report.html").read_text()
    assert page.count("<details><summary>") == 1
    assert "not testable here: It has no registers." in page
    assert "claims" not in page.partition("<details>")[0].rpartition('<section aria-labelledby="fig3">')[2]


def test_table_1_is_the_papers_digit_by_digit():
    lines = [line.split("\t") for line in PAPER.strip("\n").splitlines()]
    numbers = {"class_token": 46.4, "normal_patch": 10.5, "outlier_patch": 10.0}
    grid = papers.grid_of(record("table1", "planted:global", **numbers))
    assert len(grid.head) == 2 + 14 + 1
    for row, line in zip(grid.rows[:3], lines[1:], strict=True):
        assert row[1:] == [*line, papers.NONE]
    assert grid.rows[3][:2] == ["planted:global (planted)", "[CLS]"]
    assert grid.rows[3][2:] == [papers.NONE] * 14 + ["46.4"]


@pytest.mark.parametrize(
    ("id", "rows_", "last"),
    [
        ("table2a", ["DeiT-III", "DeiT-III+reg", "OpenCLIP", "OpenCLIP+reg", "DINOv2", "DINOv2+reg"], ["84.8", "47.9", "0.366"]),
        ("table2b", ["OpenCLIP", "OpenCLIP+reg"], ["60.1"]),
        ("table3", ["DeiT-III", "DeiT-III+reg", "OpenCLIP", "OpenCLIP+reg", "DINOv2", "DINOv2+reg"], ["55.4", "60.0", "42.0"]),
    ],
)  # fmt: skip
def test_tables_2_and_3_have_the_papers_rows_and_ours_beside(id, rows_, last):
    each = record(id, "trained:dinov2-reg4@1", "timm:vit_base", linear=50.0, zeroshot=20.0, corloc=30.0)
    grid = papers.grid_of(each)
    assert [row[0] for row in grid.rows] == [*rows_, "timm:vit_base"]
    end = grid.rows[len(rows_) - 1]
    assert end[1 : 1 + len(last)] == last
    assert grid.rows[-1][1 : 1 + len(last)] == [papers.NONE] * len(last)
    if id != "table2b":
        assert end[1 + len(last)] in ("50.0", "30.0")
        assert end[-1] == "1"
    latex = papers.as_latex(each, grid)
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule", "---"))
    assert len({line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}) == 1


def test_what_is_no_table_of_the_paper_has_no_such_form():
    assert papers.grid_of(record("fig3", "timm:vit_base")) is None
