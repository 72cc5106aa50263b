"""One small record of every kind that a verb returns, by the name of its kind."""

from tests.unit.report.synthetic_scan import scan_result
from tests.unit.verbs.made_results import result as evaluation

from vitreg.records import Curve, Curves, Finding, ImagesRecord, RunRecord
from vitreg.records.explore import ExploreResult, ShownDocument, ShownModel
from vitreg.records.lab import DesignRun, LabCell, LabReport, Sink
from vitreg.records.look import LookResult, ModelLook, PhotoLook, Seconds
from vitreg.records.reproduction import Claim, ExperimentRecord, Reproduction
from vitreg.records.zoo import Board, BoardRow
from vitreg.results import (
    CorLoc,
    DiscoverResult,
    DoctorResult,
    EvalPair,
    Evaluations,
    RepairCell,
    RepairColumn,
    RepairRow,
    RepairsResult,
    Table,
)  # fmt: skip

HOSTILE = '"><img src=x onerror=alert(1)>&$x_1$'
"""A name that is markup, and mathematics to matplotlib."""


def every_result():
    """The records by kind; foreign text in all."""
    scan = scan_result(spec=HOSTILE)
    made = [scan, _look(scan), _explore(), _doctor(), *_evaluations(), _discover(), _repairs(), _curves()]
    made += [
        _reproduction(scan),
        *_labs(),
        _board(scan),
        Table(title=HOSTILE, columns=["k", "top1"], rows=[[10, 71.25], [20, None]]),
    ]
    return {type(each).__name__: each for each in made}


def _look(scan):
    model = ModelLook(
        name=HOSTILE, model=scan.model, found=True, side="high", share=0.0153, ratio=7.25, first=5, peak=9, threshold=44.5,
        patches=[(0, 1), (3, 2)], place="above", norms=scan.positions, blocks=[], attention_block=10, missing={},
        sentence="a second group of 0.0153.",
    )  # fmt: skip
    return LookResult(
        photos=[PhotoLook(photo="a.jpg", picture=None, models=[model])], there=1, chosen="", caution="One photo.",
        seconds=Seconds(load=1, forward=1, drawing=1), vitreg="0",
    )  # fmt: skip


def _explore():
    shown = ShownDocument(name="p0m0", photo=0, model=0, found=True, sentence="a second group of 0.0153.")
    models = [ShownModel(name=HOSTILE, spec="a", registers=0, base=None)]
    return ExploreResult(
        photos=["a.jpg"], models=models, documents=[shown], there=1, chosen="", caution="One.", vitreg="0"
    )


def _doctor():
    findings = [
        Finding(level="ok", subject="weights", message="all 12 are there."),
        Finding(level="problem", subject=HOSTILE, message="row 7 stands out.", remedy="resample."),
    ]
    return DoctorResult(vitreg="0", model=evaluation().model, problem=True, findings=findings)


def _evaluations():
    one = evaluation(intervals={"top1": (64.9, 77.3)}, units={"top1": "%"}, controls={HOSTILE: 10.0})
    pair = {"task": "knn", "metric": "top1", "unit": "%", "controls": {"chance": 10.0}}
    pairs = [
        EvalPair(model="a", folder="a", value=71.5, interval=(64.9, 77.3), **pair),
        EvalPair(model=HOSTILE, folder="b", value=42.25, **pair),
        EvalPair(model="c", task="knn", folder="c", failed="no model 'c'."),
    ]
    return one, Evaluations(data="pictures", pairs=pairs)


def _discover():
    return DiscoverResult(
        model=evaluation().model, images=ImagesRecord(seen=20), found=19, corloc=CorLoc(value=61.5, low=40.25, high=79.0, images=20),
        controls={HOSTILE: 30.5}, without_boxes=0, setting={"method": "lost"}, protocol={}, provenance=evaluation().provenance,
    )  # fmt: skip


def _repairs():
    columns = [
        RepairColumn(name="outliers_peak", title="outliers", side="gain", unit="%", better="smaller", meaning="m."),
        RepairColumn(name="cls_change", title="CLS", side="damage", better="smaller", meaning="m."),
    ]
    rows = [
        RepairRow(model=HOSTILE, method="none", cells={"outliers_peak": RepairCell(value=2.25, low=1.75, high=2.5)}),
        RepairRow(
            model=HOSTILE, method="test-time",
            cells={"outliers_peak": RepairCell(value=0.125, change=-2.125), "cls_change": RepairCell(value=0.0625)},
        ),
        RepairRow(model=HOSTILE, method="border", failed="no border."),
    ]  # fmt: skip
    return RepairsResult(
        data="photos",
        images=8,
        held_out=4,
        columns=columns,
        rows=rows,
        resamples=10,
        provenance=evaluation().provenance,
    )


def _curves():
    run = RunRecord(
        name=HOSTILE, folder="a", recipe="dinov2", size="S/16", registers=4, step=100, total=100, epochs=1.0,
        training=[Curve(name="loss", steps=[50, 100], values=[4.5, 3.125])],
        evaluations=[Curve(name="knn", steps=[100], values=[66.5])], watched=None, settings={},
    )  # fmt: skip
    return Curves(schema="vitreg.curves/1", runs=[run])


def _reproduction(scan):
    claims = [
        Claim(id=name, subject=HOSTILE, says="s.", criterion="c.", outcome=outcome, reason=f"{value} here", value=value)
        for name, outcome, value in (("two-groups", "held", 5.75), ("alone", "not held", 0.125))
    ]
    experiment = ExperimentRecord(
        id="fig3", label="Fig. 3", title=HOSTILE, published={}, protocol="p.", ours="o.", measured=[], claims=claims
    )
    return Reproduction(scale="tiny", images="photos", experiments=[experiment], provenance=scan.provenance)


def _labs():
    run = {
        "registers": 1, "seed": 3, "steps": 4000, "outcome": "artifacts", "solved": 3000, "error": 0.0075, "onset": 500,
        "peak_ratio": 31.5, "background": Sink(block=2, attention=0.625, values=0.1),
    }  # fmt: skip
    cell = LabCell(
        name=HOSTILE, changes={}, seeds=[3], outcomes={"artifacts": 1}, artifacts=None, ratio=31.5, solved=3000, error=0.0075,
        background=0.625, registers=None, values=0.1,
    )  # fmt: skip
    report = LabReport(
        title="What grows", sentence="1 of 1.", steps=4000, asked=1, ended=1, hours=0.1, cells=[cell], effects=[], answers=[],
        runs=[DesignRun(name=HOSTILE, cell=0, **run)],
    )  # fmt: skip
    return (report,)


def _board(scan):
    rows = [
        BoardRow(model="a", origin="scan", verdict="high-norm", kind="high-norm", share=0.0225, low=0.0175, high=0.03, ratio_peak=6.25),
        BoardRow(model=HOSTILE, origin="scan", failed="the hub has no such model."),
    ]  # fmt: skip
    return Board(images="photos", protocol=None, rows=rows, published=[], provenance=scan.provenance)
