import json
import re
import shutil
from dataclasses import replace

import pytest

from vitreg.errors import UserError
from vitreg.report.scan.kept import read_examples, write_examples
from vitreg.verbs.compare import compare, differences, read_scan
from vitreg.verbs.scan.examples import choose_examples
from vitreg.verbs.scan.verb import ScanOptions, scan

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Scans of a planted model and of its clean twin, on noise: what they say is not the point here."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("scans")
    draw = np.random.default_rng(0)
    (root / "photos").mkdir()
    for number in range(3):
        Image.fromarray(draw.integers(0, 255, (64, 64, 3), np.uint8)).save(root / "photos" / f"{number}.png")
    for name, spec, limit in (("with <artifacts>", "planted:high-norm", 3), ("clean", "planted:clean", 2)):
        scan(spec, [root / "photos"], out=root / name, options=ScanOptions(limit=limit, workers=1))
    return root


def test_scans_stand_side_by_side_with_links_to_their_reports(scans, tmp_path):
    page = compare([scans / "with <artifacts>", scans / "clean"], out=scans / "pages" / "both.html")
    text = page.read_text()
    assert "with &lt;artifacts&gt;" in text
    assert "<artifacts>" not in text
    assert 'href="../with%20%3Cartifacts%3E/report.html"' in text
    assert (scans / "pages" / ".." / "with <artifacts>" / "report.html").exists()
    assert "They saw different numbers of images: 3, 2." in text


def shown_on(page):
    return re.findall(r'<h4 id="e\d+"><bdi>(.*?)</bdi>', page.read_text())


def test_the_same_photographs_through_both_models_come_first(scans, tmp_path):
    page = compare([scans / "with <artifacts>", scans / "clean"], out=tmp_path / "both.html")
    pairs = shown_on(page)
    assert len(pairs) == 4  # the second scan saw two of three images
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert first.replace("with &lt;artifacts&gt;", "clean") == second
    text = page.read_text()
    assert text.index("The same 2\N{NO-BREAK SPACE}images in 2\N{NO-BREAK SPACE}models") < text.index("Norms along")


def test_why_there_are_no_photographs_is_said(scans, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(scans / "clean", other)
    write_examples([replace(each, name=f"else/{each.name}") for each in read_examples(scans / "clean")], other)
    page = compare([scans / "clean", other], out=tmp_path / "both.html")
    assert shown_on(page) == []
    assert "no image of the same name" in page.read_text()
    (other / "examples.npz").unlink()  # as vitreg 0.1 left it
    page = compare([scans / "clean", other], out=tmp_path / "both.html")
    assert f"The photographs of {other} cannot be shown: there is no examples.npz." in page.read_text()


def test_scans_of_the_same_images_show_some_in_common_whatever_stands_out():
    names = [f"photos/{number}.jpg" for number in range(200)]
    rising = choose_examples([(i, name, i) for i, name in enumerate(names)], 8)
    falling = choose_examples([(i, name, 200 - i) for i, name in enumerate(names)], 8)
    assert len(rising) == len(falling) == 8
    assert [row[2] for row in rising] == sorted((row[2] for row in rising), reverse=True)
    assert {199, 198, 197, 0, 1, 2} <= {row[2] for row in rising}
    assert len({row[1] for row in rising[3:5]} & {row[1] for row in falling[3:5]}) == 2


def test_alike_scans_need_no_note(scans):
    result = read_scan(scans / "clean")
    assert differences([result, result]) == []
    cut = result.model_copy(update={"images": result.images.model_copy(update={"interrupted": True})})
    assert differences([result, cut]) == ["Some were interrupted."]


def test_folders_of_one_name_are_told_apart_by_their_paths(scans, tmp_path):
    twin = tmp_path / "clean"
    twin.mkdir()
    (twin / "result.json").write_text((scans / "clean" / "result.json").read_text())
    text = compare([scans / "clean", twin], out=tmp_path / "both.html").read_text()
    assert str(twin) in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no scan"),
        ("{", "damaged or of another version"),
        (json.dumps({"schema": "vitreg.eval/1"}), "is of the schema vitreg.eval/1"),
        (json.dumps({"schema": "vitreg.scan/1"}), "damaged or of another version"),
    ],
)
def test_a_folder_without_a_scan_is_named(scans, tmp_path, content, says):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=says):
        compare([scans / "clean", tmp_path], out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_one_scan_is_no_comparison_and_a_page_is_a_file(scans, tmp_path):
    with pytest.raises(UserError, match="2 to 8 scans"):
        compare([scans / "clean"], out=tmp_path / "page.html")
    with pytest.raises(UserError, match="page itself"):
        compare([scans / "clean"] * 2, out=tmp_path)
