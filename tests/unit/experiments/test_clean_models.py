"""On models in which nothing was planted no claim about artifacts, or their cure, is held: of all experiments."""

import pytest

import vitreg
from vitreg.experiments.known import EXPERIMENTS

pytestmark = pytest.mark.usefixtures("planted_once", "blank_figures", "undrawn")
MODELS = ("planted:clean", "planted:clean-registers")
STRUCTURE = {("fig6", "no-position"), ("fig6", "dropped")}
"""Of how registers are wired, not of artifacts: every model fulfils them that is built as the paper says."""
CHEAP = ("fig1", "fig3", "fig6", "fig7", "fig10", "fig14", "fig15")
WITH_MODELS = tuple(name for name, each in EXPERIMENTS.items() if not each.subjects and each.looks != "none")


def held(found):
    return {
        (each.id, claim.id) for each in found.experiments for claim in each.claims
        if claim.outcome == "held" and claim.subject in MODELS
    }  # fmt: skip


def test_nothing_is_held_that_eight_photographs_can_decide(photographs, few_resamples, tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.verbs.scan.verb._draw", lambda _outputs, result, *_seen: result)
    images = tuple(map(str, photographs))
    found = vitreg.reproduce(CHEAP, out=tmp_path / "out", models=MODELS, images=images, limit=8, size=112)
    assert {each.id for each in found.experiments} == set(CHEAP)
    assert not [each.failed for record in found.experiments for each in record.measured if each.failed]
    assert held(found) == STRUCTURE
    (gone,) = (
        claim
        for each in found.experiments
        for claim in each.claims
        if (claim.id, claim.subject) == ("no-outliers", MODELS[1])
    )
    assert gone.outcome == "not testable here"
    assert "none in planted:clean" in gone.reason


@pytest.mark.slow
def test_nothing_is_held_in_any_experiment(photographs, tmp_path):
    """All that looks at models, on all photographs and 600 drawn scenes."""
    words = {"classes": "synthetic:scenes@0:600", "boxes": "synthetic:scenes@0:600"}
    images = (str(photographs[0].parent),)
    found = vitreg.reproduce(WITH_MODELS, out=tmp_path / "out", models=MODELS, images=images, **words)
    assert {each.id for each in found.experiments} == set(WITH_MODELS)
    assert held(found) == STRUCTURE
    made = [claim for each in found.experiments for claim in each.claims]
    assert all(claim.exact or claim.low is not None for claim in made if claim.outcome == "held")
