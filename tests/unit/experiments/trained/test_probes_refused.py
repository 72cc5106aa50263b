"""A model that cannot take one probe keeps the numbers of the others."""

from types import SimpleNamespace

import pytest

from vitreg.errors import UserError
from vitreg.experiments.tables import table2a
from vitreg.experiments.trained.probes import probed

NO_CLASS_TOKEN = "this model has no class token to put beside its patch tokens"


def setting(refusing):
    """Return a setting whose probes give 50, but for some tasks."""

    def probe(model, task, data):
        if task in refusing:
            raise UserError(f"{NO_CLASS_TOKEN}; pass --no-cls.")
        return SimpleNamespace(headline="score", metrics={"score": 50.0}, controls={"chance": 10.0}), f"job of {task}"

    return SimpleNamespace(probe=probe, classes="classes", masks="masks", depths="depths")


def test_the_other_probes_keep_their_numbers_and_the_claim_says_why():
    found = table2a.measure(setting({"depth"}), "one")
    assert found.numbers == {
        "linear": 50.0, "linear control: chance": 10.0, "segmentation": 50.0, "segmentation control: chance": 10.0,
    }  # fmt: skip
    claims = {claim.id: (claim.outcome, claim.reason) for claim in table2a.claims([found])}
    assert claims["depth-kept"] == ("not testable here", f"{NO_CLASS_TOKEN}.")
    assert claims["segmentation-kept"][1].startswith("50")


def test_a_model_that_can_take_none_fails_with_the_first_reason():
    with pytest.raises(UserError, match=f"{NO_CLASS_TOKEN}"):
        probed(setting({"linear", "knn"}), "one", ("linear", "knn"))
