"""The table of `docs/verbs/reproduce.md`: which planted model shows which claim, and on which the claim is not held."""

import re
from pathlib import Path

import pytest

import vitreg
from vitreg.experiments.known import EXPERIMENTS

DOCS = Path(__file__).resolve().parents[3] / "docs" / "verbs" / "reproduce.md"
ROW = re.compile(r"^\| `(\w+)` \| `([\w-]+)` \| `(planted:[\w-]+)` \| `(planted:[\w-]+)` \|$", re.MULTILINE)
TABLE = ROW.findall(DOCS.read_text(encoding="utf-8"))
BY_NOBODY = {
    ("fig9", "registers-differ"), ("fig9", "objects-attended"), ("fig10", "border"), ("fig6", "no-position"), ("fig6", "dropped"),
    ("fig1", "readable"),
}  # fmt: skip
"""What no planted model shows, or none fails; the page says why."""
IDS = (
    "fig1", "fig2", "fig3", "fig4a", "fig5a", "fig5b", "fig6", "fig7", "fig9", "fig10", "fig13", "fig14", "fig15", "fig16", "table1",
    "table3",
)  # fmt: skip
MODELS = tuple(
    f"planted:{kind}"
    for kind in ("high-norm", "position-locked", "global", "global-registers", "clean", "clean-registers")
)


def outcomes(found):
    return {(each.id, claim.id, claim.subject): claim.outcome for each in found.experiments for claim in each.claims}


def test_the_table_names_experiments_and_models_that_there_are():
    assert len(TABLE) == len(set(TABLE)) >= 19
    assert {id for id, *_ in TABLE} <= set(IDS) <= set(EXPERIMENTS)
    assert {model for *_, one, other in TABLE for model in (one, other)} <= set(MODELS)
    page = DOCS.read_text(encoding="utf-8")
    assert all(f"`{id}`" in page for id, _ in BY_NOBODY)


@pytest.mark.slow
@pytest.mark.usefixtures("planted_once", "blank_figures", "undrawn")
def test_every_claim_holds_where_it_was_planted_and_not_beside_it(tmp_path):
    """All that the smoke scale looks at, with its 55 photographs, which show that clean models are: 20 minutes on two busy cores."""
    found = outcomes(vitreg.reproduce(IDS, out=tmp_path, models=MODELS))
    check(found)


def check(found):
    told = {(id, claim): (found[id, claim, one], found[id, claim, other]) for id, claim, one, other in TABLE}
    assert {one for one, _ in told.values()} == {"held"}, told
    assert "held" not in {other for _, other in told.values()}, told
    beside_clean = {(id, claim): told[id, claim][1] for id, claim, _, other in TABLE if other == "planted:clean"}
    assert set(beside_clean.values()) == {"not held"}, beside_clean
    assert {(id, claim) for id, claim, _ in found} == set(told) | BY_NOBODY, "every claim has its place"
    held_on_clean = {
        (id, claim) for (id, claim, subject), outcome in found.items() if subject in MODELS[4:] and outcome == "held"
    }
    assert held_on_clean <= {("fig6", "no-position"), ("fig6", "dropped")}
