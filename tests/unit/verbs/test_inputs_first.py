"""Of two mistakes the one in what is read is named, and not the one in where it would be written; no model is loaded."""

import pytest

from vitreg.errors import UserError
from vitreg.verbs.curves import curves
from vitreg.verbs.discover.verb import discover
from vitreg.verbs.eval.tasks.knn import Knn
from vitreg.verbs.eval.verb import evaluate
from vitreg.verbs.export.verb import export
from vitreg.verbs.extract.verb import extract_features
from vitreg.verbs.maps.verb import maps
from vitreg.verbs.repairs.verb import repairs
from vitreg.verbs.scan.verb import scan

MODEL = "timm:no-such-model"  # would be named if it were loaded first
VERBS = {
    "scan": lambda out: scan(MODEL, "fotos", out=out),
    "maps": lambda out: maps(MODEL, "fotos", out=out),
    "discover": lambda out: discover(MODEL, "fotos", out=out),
    "extract": lambda out: extract_features(MODEL, "fotos", out=out),
    "eval": lambda out: evaluate(MODEL, Knn(), "fotos", out=out),
    "repairs": lambda out: repairs(MODEL, "fotos", out=out),
    "curves": lambda out: curves(["fotos"], out=out),
    "export": lambda out: export("fotos", "timm", out),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_read_is_looked_at_before_where_is_written(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("not vitreg's")
    with pytest.raises(UserError, match="fotos"):
        VERBS[verb](tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
