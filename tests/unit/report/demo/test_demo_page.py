"""The page of the acts: each is called by its name, says where its models come from, and leads to their reports."""

import base64
import io
import re

import numpy as np
from PIL import Image
from tests.unit.report import synthetic_scan

from vitreg.report.demo.page import Act, Shown, write_acts


def act(name):
    example = synthetic_scan.examples(1, grid=(8, 8), names=["cup"])[0]
    shown = [
        Shown("With", synthetic_scan.scan_result(grid=(8, 8)), f"{name}/report.html"),
        Shown("Without <them>", synthetic_scan.scan_result("none", grid=(8, 8)), f"{name}-twin/report.html"),
    ]
    return Act(
        name, f"Title of {name}", f"Where `{name}` comes from.", shown, [("cup", [example, example])], f"{name}.html"
    )


def pictures(text):
    return [
        Image.open(io.BytesIO(base64.b64decode(each)))
        for each in re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    ]


def test_acts_stand_in_order_with_their_names_verdicts_and_links(tmp_path):
    acts = [act("born"), Act("natural", "None", "No natural pair ships."), act("planted")]
    text = write_acts(acts, tmp_path / "index.html").read_text()
    places = [text.index(f"Act {number}: <strong>{each.name}</strong>") for number, each in enumerate(acts, 1)]
    assert places == sorted(places)
    assert "No natural pair ships." in text
    assert "Where <code>born</code> comes from." in text
    for link in ("born.html", "born/report.html", "born-twin/report.html", "planted.html"):
        assert f'href="{link}"' in text
    assert text.count("High-norm artifacts") == 2
    assert "Without &lt;them&gt;" in text
    assert len(pictures(text)) == 2 * 3  # no act shares a picture with another


def test_maps_are_drawn_on_the_grid_with_outliers_brightest(tmp_path):
    shown = act("born")
    drawn = pictures(write_acts([shown], tmp_path / "index.html").read_text())
    assert {each.size for each in drawn} == {(224, 224)}
    light = np.asarray(drawn[1].convert("RGB")).astype(int).sum(-1)[14::28, 14::28]  # the middle of each patch
    example = shown.pictures[0][1][0]
    assert light.shape == example.norms.shape
    assert light[example.outliers].min() > light[~example.outliers].max()
