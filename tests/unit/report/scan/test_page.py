"""The page holds what it promises, loads nothing, and lets no foreign name become markup."""

import base64
import hashlib
import html.parser
import itertools
import json
import re
import shlex
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.report.synthetic_scan import head_sinks

from vitreg.cli import VERBS
from vitreg.cli.command import take_models
from vitreg.cli.parsing import parse
from vitreg.cli.verbs import fix
from vitreg.cli.verbs.eval import Command
from vitreg.errors import UserError
from vitreg.records import Finding, Heatmap, ImagesRecord, LayerRecord, PrecisionChoice, Skipped
from vitreg.repair.settings import settings_of
from vitreg.report import Attempts, draw_scan, write_comparison, write_report
from vitreg.report.scan.advice import next_steps
from vitreg.report.scan.page import SKIPPED_SHOWN, render
from vitreg.report.scan.payload import ATTENDED, Scale
from vitreg.report.words import headline, percent, times
from vitreg.verbs.eval.registry import TASKS

HOSTILE = '"><img src=x onerror=alert(1)>.jpg'


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text of each element by its id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def __contains__(self, words):
        return words in self.text


def said_of(sentence):
    """The sentence of a verdict as the page writes it: what is found, then its numbers, two sentences."""
    return " ".join(filter(None, headline(sentence)))


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_says_the_verdict_first_and_then_what_it_stands_on(scan_result, make_examples):
    result = scan_result()
    page = Page(render(result, make_examples(4)))
    order = [
        said_of(result.verdict.sentence),
        result.verdict.reason,
        "More outliers",
        "Fewer outliers",
        "Norms along the depth",
        "Norms at block 10",
        "Where outliers sit",
        "How many an image has",
        "Redundancy of the patches",
        "Attention that outliers take",
        "What to do next",
        result.lint[1].message.replace("`", ""),
        "All blocks in numbers",
        "Skipped images",
        "Provenance",
        result.model.weights_sha256,
    ]
    places = [page.text.find(re.sub(r"\s+", " ", words)) for words in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)
    assert result.provenance.command in page


def test_one_page_for_every_kind_of_verdict(scan_result, make_examples):
    for kind, words in (
        ("high-norm", "High-norm artifacts"),
        ("low-norm", "Low-norm artifacts"),
        ("position-locked", "Position-locked artifacts"),
        ("none", "No artifacts found"),
    ):
        assert words in Page(render(scan_result(kind), make_examples(1, outliers=kind != "none")))


def test_the_outliers_of_the_peak_are_followed_in_chart_and_table(scan_result):
    text = render(scan_result(), [])
    assert "line-followed" in text
    assert "Peak’s outliers" in Page(text).text
    clean = render(scan_result("none"), [])
    assert "peak’s outliers" not in Page(clean).text.lower()


def test_a_verdict_none_is_said_plainly_and_still_shows_charts_and_images(scan_result, make_examples):
    result = scan_result("none")
    text = render(result, make_examples(3, outliers=False))
    page = Page(text)
    assert said_of(result.verdict.sentence) in page
    assert "No token counts as an artifact" in page
    assert "Example images" in page
    assert "More outliers" not in page
    assert "No outliers, so there are no places to show." in page
    assert text.count('class="chart norms"') == 2  # desktop and phone
    assert text.count('class="chart histogram log"') == 2
    assert "threshold</li>" not in text


def test_candidates_of_a_verdict_none_are_called_candidates(scan_result):
    heat = Heatmap(rows=1, cols=2, values=[[0.0, 0.5]])
    words = "candidates that did not hold up"
    assert words in Page(render(scan_result("none", positions=heat), []))
    assert words not in Page(render(scan_result(positions=heat), []))


def test_the_shown_layer_of_a_verdict_none_is_the_one_with_the_longest_tail(scan_result):
    result = scan_result("none")
    stretched = result.layers[3].model_copy(update={"quantiles": {"0.999": 50 * result.layers[3].median}})
    layers = [*result.layers[:3], stretched, *result.layers[4:]]
    assert "Norms at block 3" in Page(render(result.model_copy(update={"layers": layers}), []))


def test_nothing_is_loaded_from_anywhere(scan_result, make_examples):
    text = render(scan_result(registers=4), make_examples(2, registers=4))
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (name, value[:80])
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"\b(fetch|XMLHttpRequest|importScripts|WebSocket)\b", text)
    # The namespace of SVG is the one address there is, and it is never fetched.
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_content_policy_names_exactly_the_style_and_the_script_of_the_page(scan_result):
    text = render(scan_result(), [])
    policy = next(m["content"] for m in Page(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in Page(text).elements if "style" in a or any(k.startswith("on") for k in a)]


def test_foreign_names_are_inert_everywhere(scan_result, make_examples):
    evil = "</script><script>alert(2)</script>"
    result = scan_result(spec=f"timm:{evil}", skipped=[Skipped(name=HOSTILE, reason=evil)])
    verdict = result.verdict.model_copy(
        update={"sentence": evil, "reason": f"`{evil}`", "advice": [evil, f"`{HOSTILE}`"]}
    )
    lint = [Finding(level="problem", subject=evil, message=evil, remedy=evil)]
    layers = [la.model_copy(update={"gates": {evil: 1.0}}) for la in result.layers]
    settings = {evil: HOSTILE}
    provenance = result.provenance.model_copy(update={"command": evil, "packages": {evil: evil}, "hardware": evil})
    model = result.model.model_copy(update={"notes": [evil], "weights": HOSTILE, "library": evil})
    hostile = result.model_copy(
        update={
            "verdict": verdict, "lint": lint, "layers": layers, "settings": settings,
            "provenance": provenance, "model": model,
        }
    )  # fmt: skip
    text = render(hostile, make_examples(2, names=[HOSTILE, evil]))
    page = Page(text)
    assert len(page.all("script")) == 2
    assert "alert(2)</script>" not in text
    assert all(not any(name.startswith("on") for name in attributes) for _, attributes in page.elements)
    assert [image["src"][:11] for image in page.all("img")] == ["data:image/"] * 2
    assert HOSTILE in page  # shown as it is, as text
    assert {e["name"] for e in data_of(text)["examples"]} == {HOSTILE, evil}
    block = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert not set("<>&") & set(block)


def test_undecodable_file_names_can_be_written(scan_result, make_examples, tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", errors="surrogateescape")
    path = write_report(
        scan_result(skipped=[Skipped(name=name, reason="broken")]), make_examples(1, names=[name]), tmp_path
    )
    assert r"caf\udce9.jpg" in path.read_text(encoding="utf-8")


def test_the_maps_come_back_from_the_data_block(scan_result, make_examples):
    example = make_examples(1, grid=(7, 5), registers=2)[0]
    data = data_of(render(scan_result(grid=(7, 5), registers=2), [example]))
    one, norms = data["examples"][0], data["norms"]
    assert (one["rows"], one["cols"]) == (7, 5)
    codes = np.frombuffer(base64.b64decode(one["norms"]), "<u2").reshape(7, 5)
    decoded = norms["low"] * (norms["high"] / norms["low"]) ** (codes / 65535)
    np.testing.assert_allclose(decoded, example.norms, rtol=1e-4)
    outliers = np.frombuffer(base64.b64decode(one["outliers"]), np.uint8).reshape(7, 5)
    np.testing.assert_array_equal(outliers, example.outliers)
    assert [a["name"] for a in one["attention"]] == ["CLS", "register 1", "register 2"]
    for stored, values in zip(one["attention"], [example.cls_attention, *example.register_attention], strict=True):
        shares = np.frombuffer(base64.b64decode(stored["data"]), "<u2").reshape(7, 5) / 65535 * stored["max"]
        np.testing.assert_allclose(shares, values, atol=stored["max"] / 60000)
    targets = np.frombuffer(base64.b64decode(one["attends"]), "<u2").reshape(35, -1)
    np.testing.assert_array_equal(targets, example.attends)
    shares = np.frombuffer(base64.b64decode(one["shares"]), "<u2").reshape(35, -1) / 65535
    np.testing.assert_allclose(shares, example.attends_share, atol=1e-5)
    assert struct.unpack("3B", base64.b64decode(data["palettes"]["viridis"])[:3]) == (68, 1, 84)


def test_attended_patches_are_sorted_and_the_strongest_are_kept(scan_result, make_examples):
    example = make_examples(1, grid=(6, 6), attended=20)[0]
    shuffled = np.random.default_rng(0).permutation(20)
    mixed = type(example)(
        **{f: getattr(example, f) for f in example.__dataclass_fields__}
        | {"attends": example.attends[:, shuffled], "attends_share": example.attends_share[:, shuffled]}
    )
    one = data_of(render(scan_result(grid=(6, 6)), [mixed]))["examples"][0]
    assert one["attended"] == ATTENDED
    targets = np.frombuffer(base64.b64decode(one["attends"]), "<u2").reshape(36, -1)
    np.testing.assert_array_equal(targets, example.attends[:, :ATTENDED])


def test_the_colour_scale_is_shared_and_does_not_stretch_even_norms(make_examples):
    examples = make_examples(3, grid=(8, 8))
    scale = Scale.of(examples)
    assert scale.low == pytest.approx(min(e.norms.min() for e in examples))
    assert scale.high == pytest.approx(max(e.norms.max() for e in examples))
    even = Scale.of(make_examples(2, grid=(8, 8), outliers=False))
    assert even.high / even.low > 3
    assert Scale.of([]).quantise(np.array([0.0, np.nan, 1.0])).tolist() == [0, 0, 0]


def test_a_page_of_eight_examples_stays_below_three_megabytes(scan_result, make_examples, tmp_path):
    path = write_report(
        scan_result(registers=4, blocks=24), make_examples(8, grid=(37, 37), registers=4, attended=12), tmp_path
    )
    assert path.stat().st_size < 3e6


@pytest.mark.parametrize("registers", [0, 1, 4])
@pytest.mark.parametrize("cls", [True, False])
def test_with_and_without_registers_and_class_token(scan_result, make_examples, cls, registers):
    text = render(
        scan_result(cls=cls, registers=registers), make_examples(2, cls=cls, registers=registers, grid=(9, 6))
    )
    assert text.count('data-map="attention"') == 2 * (cls + registers)
    assert ("line-cls" in text.split("<main")[1]) == cls
    assert ("line-register" in text.split("<main")[1]) == bool(registers)
    assert ("This model has no class token" in text) == (not cls)


def test_what_was_not_measured_is_said_in_words(scan_result):
    bare = scan_result(redundancy=False, positions=None, per_image=None)
    page = Page(render(bare, []))
    for words in (
        "Positions were not recorded.",
        "Counts per image were not recorded.",
        "Redundancy was not measured.",
        "The scan kept no example images.",
    ):
        assert words in page


def test_no_token_attention_means_no_promise_of_it(scan_result, make_examples):
    example = make_examples(1, grid=(5, 5), attended=0)[0]
    assert example.attends.shape == (25, 0)
    page = Page(render(scan_result(grid=(5, 5)), [example]))
    assert "the attention of single tokens was not kept" in page


def test_one_image_and_one_block(scan_result, make_examples):
    result = scan_result(seen=1, blocks=1, grid=(1, 1))
    verdict = result.verdict.model_copy(update={"confidence": None})
    page = Page(render(result.model_copy(update={"verdict": verdict}), make_examples(1, grid=(1, 1))))
    assert "1 image, 1 block" in page
    assert "too few images to resample" in page


def test_no_image_at_all(scan_result):
    result = scan_result("none").model_copy(update={"layers": [], "images": ImagesRecord(seen=0), "per_image": None})
    assert "No block was measured." in Page(render(result, []))


def test_values_that_are_not_numbers_are_dashes(scan_result):
    result = scan_result()
    broken = LayerRecord(
        **result.layers[2].model_dump() | {"max": float("inf"), "p99": float("nan"), "cls_norm": float("nan")}
    )
    text = render(result.model_copy(update={"layers": [*result.layers[:2], broken, *result.layers[3:]]}), [])
    assert not re.search(r"\bnan\b|\binf\b", Page(text).text)
    assert "nan" not in "".join(re.findall(r'points="[^"]*"', text))


def test_zero_norms_are_drawn_at_the_edge(scan_result):
    result = scan_result()
    layers = [la.model_copy(update={"min": 0.0}) for la in result.layers]
    heat = Heatmap(rows=2, cols=3, values=[[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    text = render(result.model_copy(update={"layers": layers, "positions": heat}), [])
    assert "Highest at row 1, column 1: 50" in text


def test_many_skipped_images_are_counted_by_reason_and_listed_to_a_limit(scan_result):
    skipped = [Skipped(name=f"{i}.jpg", reason="truncated" if i % 3 else "not an image") for i in range(3000)]
    text = render(scan_result(skipped=skipped), [])
    page = Page(text)
    assert "3,000 images were not scanned." in page
    assert "2,000 truncated" in page
    assert f"and {3000 - SKIPPED_SHOWN:,} more" in page
    assert text.count("<td><bdi>") == SKIPPED_SHOWN


def test_an_interrupted_scan_says_so_at_the_top(scan_result):
    result = scan_result(images=ImagesRecord(seen=120, interrupted=True, planned=1000))
    assert "Interrupted. 120 images were scanned of 1,000 planned" in Page(render(result, []))


def test_the_page_is_accessible_in_structure(scan_result, make_examples):
    page = Page(render(scan_result(registers=1), make_examples(2, registers=1)))
    assert dict(page.elements)["html"]["lang"] == "en"
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids


def test_a_failed_write_leaves_the_old_page_and_no_draft(scan_result, tmp_path, monkeypatch):
    path = write_report(scan_result("none"), [], tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        write_report(scan_result(), [], tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_made_is_a_users_error(scan_result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_report(scan_result(), [], tmp_path / "file")


def test_importing_the_report_does_not_import_torch():
    code = "import sys, vitreg.report; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def failing(*_, **__):
    raise ValueError("slice step cannot be zero")


def test_a_chart_that_fails_is_named_and_all_others_are_drawn(scan_result, make_examples, monkeypatch):
    whole = render(scan_result(), make_examples(1))
    monkeypatch.setattr("vitreg.report.scan.charts.histogram.svg", failing)
    text = render(scan_result(), make_examples(1))
    page = Page(text)
    assert "Could not be drawn" in page
    for scale in ("log", "sqrt", "linear"):
        assert f"chart of histogram {scale}: ValueError in test_page.py" in page
    assert "slice step cannot be zero" in page
    assert text.count('class="chart') == whole.count('class="chart') - 6
    assert text.count('data-map="norms"') == 1
    assert "Could not be drawn" not in Page(whole)


def test_figures_and_the_page_are_named_where_they_fail_and_the_rest_is_written(
    scan_result, make_examples, tmp_path, monkeypatch
):
    monkeypatch.setattr("vitreg.report.scan.charts.positions.figure", failing)
    monkeypatch.setattr("vitreg.report.scan.payload.picture", failing)
    attempts = Attempts()
    draw_scan(scan_result(), make_examples(2, grid=(4, 4), names=["a.jpg", "b.jpg"]), tmp_path, attempts)
    assert [each.name for each in attempts.failed] == ["figures/positions.png", "maps of a.jpg", "maps of b.jpg"]
    assert len(list((tmp_path / "figures").iterdir())) == 7
    assert "figures/positions.png" in Page((tmp_path / "report.html").read_text())


def test_a_full_disk_is_no_fault_of_a_figure(scan_result, tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        draw_scan(scan_result(), [], tmp_path, Attempts())


def visible(text):
    """What is read without opening anything: no closed details, tables or charts."""
    for tag in ("details", "table", "svg", "script", "style", "head"):
        text = re.sub(rf"<{tag}\b.*?</{tag}>", " ", text, flags=re.S)
    return Page(text).text


def test_a_number_of_the_verdict_is_said_once(scan_result, make_examples):
    result = scan_result()
    effects = {"norm_ratio": 10.0, "images_with_outliers": 0.87, "cls_attention_share": 0.5, "attention_received": 18.1}
    result = result.model_copy(update={"verdict": result.verdict.model_copy(update={"effects": effects})})
    said = visible(render(result, make_examples(2)))
    taken = result.layers[10].cls_attention
    lift = taken / result.layers[10].outlier_fraction
    shares = [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (0.87, 0.98, taken, result.redundancy.auc)]
    for number in (said_of(result.verdict.sentence), *shares, times(lift)):
        assert said.count(number) == 1, number
    assert f"In block 11 outliers take {shares[2]} of the CLS attention" in said
    assert times(result.layers[10].received) not in said
    assert result.verdict.reason not in said  # it repeats them all, behind a summary


def test_why_there_is_no_attention_is_the_reason_that_the_model_gave(scan_result):
    why = "the softmax of block 3 is written by hand; name its projections."
    bare = [la.model_copy(update={"cls_attention": None, "received": None}) for la in scan_result().layers]
    page = Page(render(scan_result(layers=bare, attention_unread=why), []))
    assert f"Attention was not read: {why}" in page
    assert "Without outliers there is no attention" in Page(render(scan_result("none"), []))
    assert "Not measured." in Page(render(scan_result(layers=bare), []))


def test_attention_maps_name_their_block(scan_result, make_examples):
    example = replace(make_examples(1)[0], attention_layer=9)
    assert "CLS attention, block 9" in Page(render(scan_result(), [example]))


def test_tokens_near_the_threshold_are_marked_and_explained(scan_result, make_examples):
    example = make_examples(1, grid=(3, 2))[0]
    near = np.array([[True, False], [False, False], [False, True]])
    text = render(scan_result(grid=(3, 2)), [replace(example, near=near)])
    stored = data_of(text)["examples"][0]["near"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(stored), np.uint8).reshape(3, 2), near)
    assert "within a factor of 1.25 of the threshold" in Page(text)
    assert "factor of 1.25" not in Page(render(scan_result(grid=(3, 2)), [example]))


def test_images_are_named_without_the_folder_they_lie_in(scan_result, make_examples):
    made = make_examples(2, names=["/home/me/photos/a.jpg", "/home/me/photos/more/b.jpg"])
    page = Page(render(scan_result(skipped=[Skipped(name="/home/me/photos/c.jpg", reason="broken")]), made))
    for name in (" a.jpg ", " more/b.jpg ", "c.jpgbroken"):
        assert name in page
    assert page.text.count("/home/me/photos") == 1  # in the provenance


def test_advice_goes_on_to_commands_that_exist(scan_result):
    few = scan_result("none", seen=12)
    assert "12 images are few" in " ".join(next_steps(few))
    for result in (
        scan_result(),
        scan_result("none"),
        scan_result(registers=4),
        scan_result("position-locked", blocks=1),
    ):
        steps = next_steps(result)
        assert len(steps) >= 2
        text = render(result, [])
        assert all(step.replace("`", "") in Page(text) for step in steps)
        assert [step.replace("`", "") in visible(text) for step in steps] == [place < 3 for place in range(len(steps))]
        for verb in re.findall(r"`vitreg (\w+)", " ".join(steps)):
            assert verb in ("scan", "maps", "extract", "eval", "compare", "train", "doctor", "fix", "repairs")
    assert "--patches 5" in " ".join(next_steps(scan_result()))  # the block before the first with outliers
    assert not any("has registers" in step for step in next_steps(scan_result(registers=4)))


@pytest.mark.parametrize("kind", ["high-norm", "none", "position-locked"])
def test_the_command_line_reads_every_command_of_the_advice(scan_result, kind):
    result = scan_result(kind)
    result = result.model_copy(update={"model": result.model.model_copy(update={"weights": "my weights.safetensors"})})
    commands = [shlex.split(command) for step in next_steps(result) for command in re.findall(r"`vitreg (.+?)`", step)]
    assert sum("my weights.safetensors" in words for words in commands) >= 2
    for verb, *words in commands:
        if verb == "eval":
            spec, task, *words = words
            parse(Command[TASKS[task]], [spec, *words], prog="vitreg eval")
        elif verb == "fix":
            method, *words = words
            parse(fix.Command[settings_of(method)], take_models(words, "fix", several=False), prog="vitreg fix")
        elif verb != "train":  # its words are those of a preset
            words = take_models(words, verb, several=True) if verb == "repairs" else words
            parse(VERBS[verb], words, prog=f"vitreg {verb}")


def test_the_repair_to_try_follows_from_the_verdict(scan_result):
    """As docs/verbs/repairs.md measured: the first repair named, and what speaks against others."""

    def methods(result):
        return re.findall(r"`vitreg fix (\S+)", " ".join(next_steps(result)))

    for kind in ("high-norm", "low-norm"):
        assert methods(scan_result(kind)) == ["test-time", "attention-bias", "auto"]
    assert methods(scan_result("position-locked")) == ["position-rows", "denoise", "auto"]
    late = scan_result()
    late = late.model_copy(update={"verdict": late.verdict.model_copy(update={"first_layer": 11, "peak_layer": 11})})
    assert methods(late) == ["substitute", "test-time", "auto"]
    assert methods(scan_result("none")) == []
    for kind in ("high-norm", "position-locked"):
        assert "vitreg fix" in visible(render(scan_result(kind), []))


def test_the_advice_says_what_is_not_worth_it(scan_result):
    def said(result):
        return " ".join(next_steps(result))

    result = scan_result()  # values of outliers are 0.2 times as long as others
    assert "Hiding outliers from attention gains little" in said(result)
    space = result.head_sinks.value_space[0].model_copy(update={"length": [0.3] * 4})
    sinks = result.head_sinks.model_copy(update={"value_space": [space]})
    assert "Hiding outliers" not in said(result.model_copy(update={"head_sinks": sinks}))
    assert "Hiding outliers" not in said(result.model_copy(update={"head_sinks": None}))
    assert "clip" not in said(result)
    gone = result.layers[-1].model_copy(update={"threshold": None})
    assert "Do not clip norms here" in said(result.model_copy(update={"layers": [*result.layers[:-1], gone]}))


def test_sinks_are_said_in_a_sentence_before_they_are_drawn(scan_result):
    def plain(record):
        return render(record, []).replace("\N{NO-BREAK SPACE}", " ")

    result = scan_result()
    text = plain(result)
    assert "5 heads of 48 have a sink in at least half of the images: 1 no-op, 2 broadcast, 2 unclear." in text
    drawn = re.findall(r'<svg[^>]*class="chart sinks".*?</svg>', text, re.S)
    assert len(drawn) == 2  # desktop and phone
    for chart in drawn:
        assert chart.count('class="cell-empty"') == 48
        coloured = re.findall(r'class="bar-([a-z-]+)" fill-opacity="([\d.]+)"', chart)
        assert sorted(kind for kind, opacity in coloured if float(opacity) > 0.9) == [
            "broadcast", "broadcast", "no-op", "unclear", "unclear",
        ]  # fmt: skip
        assert len(coloured) == 10  # faint: in a tenth of the images
    assert "the values of outliers are 0.2× as long as those of other patches" in text
    assert "95 % of an outlier lies outside what the value projection reads, 70" in text
    quiet = head_sinks(12, 12)
    assert "None of the 48 heads has a sink in any image." in plain(result.model_copy(update={"head_sinks": quiet}))
    rare = quiet.model_copy(update={"no_op": [[0.04, 0, 0, 0]] * 12})
    assert "No head has a sink in half of the images; the most frequent is in 4.0 %, in head 0 of block 0." in plain(
        result.model_copy(update={"head_sinks": rare})
    )
    unread = result.model_copy(update={"head_sinks": None, "attention_unread": "it has none."})
    assert Page(render(unread, [])).text.count("Attention was not read: it has none.") >= 1


def test_a_headline_ends_and_its_numbers_are_a_sentence_of_their_own(scan_result):
    text = render(scan_result(), [])
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", text, re.S)[1]
    first, rest = re.fullmatch(r"(.*?) <span class=\"rest\">(.*)</span>", heading).groups()
    assert first == "This model carries strong artifacts."
    assert rest == "About 1 patch in 43 has a vector ten times longer than the rest."


def test_a_percentage_is_written_in_one_way_everywhere(scan_result, make_examples):
    result = scan_result()
    reason = result.verdict.reason.replace("2.3 %", "2.3%")  # as in records of earlier versions
    result = result.model_copy(update={"verdict": result.verdict.model_copy(update={"reason": reason})})
    text = render(result, make_examples(2))
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    assert "2.3\N{NO-BREAK SPACE}%" in text
    assert re.findall(r".{20}\d ?%", text) == []  # without the space that does not break, also in charts and their tips


def test_why_a_precision_was_chosen_is_said_once_in_the_provenance(scan_result):
    result = scan_result()
    why = "this CPU multiplies bf16 3.4 times as fast as fp32"
    choice = PrecisionChoice(chosen="bf16", why=why)
    result = result.model_copy(update={"provenance": result.provenance.model_copy(update={"precision_choice": choice})})
    page = Page(render(result, []))
    assert page.text.count(why) == 1
    assert page.text.index(why) > page.text.index("Provenance")


def drawn_without_a_word(text):
    """Kinds of lines and bands in the charts of norms that no legend explains."""
    charts = "".join(re.findall(r'<svg[^>]*class="chart norms".*?</svg>', text, re.S))
    legends = "".join(re.findall(r'<ul class="legend">.*?</ul>', text, re.S))
    drawn = set(re.findall(r'<poly(?:line|gon)[^>]*class="([^"]+)"', charts))
    assert {"band-all", "band-top", "line-median", "line-cls", "line-register"} <= drawn
    return drawn - set(re.findall(r'class="([^"]+)"', legends)) - {"line-p99", "line-max"}  # edges of a band


def test_every_line_and_band_of_the_norms_is_in_the_legend(scan_result, tmp_path):
    found, none = scan_result(registers=2), scan_result("none", registers=2)
    assert drawn_without_a_word(render(found, [])) == set()
    assert drawn_without_a_word(render(none, [])) == set()
    page = write_comparison([("a", none, "a"), ("b", found, "b")], tmp_path / "i.html", title="t")
    assert drawn_without_a_word(page.read_text()) == set()


def test_outlines_are_explained_above_the_maps_that_have_them(scan_result, make_examples, tmp_path):
    made = make_examples(1, grid=(4, 4))[0]
    outliers, near = np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]
    for marks, said in (
        ({"outliers": outliers, "near": near}, ["box-outlier", "box-near"]),
        ({"outliers": outliers & False, "near": near}, ["box-near"]),
        ({"outliers": outliers, "near": None}, ["box-outlier"]),
    ):
        example, result = replace(made, **marks), scan_result(grid=(4, 4))
        scans = [("a", result, "a"), ("b", result, "b")]
        page = write_comparison(scans, tmp_path / "i.html", title="t", pictures=[("one", [example] * 2)])
        for text in (render(result, [example]), page.read_text()):
            legend = text[: text.index('class="example"')].rpartition('<ul class="legend">')[2]
            assert re.findall(r'class="(box-(?:outlier|near))"', legend) == said


def test_patches_without_a_token_are_listed_as_gone_in_each_map(scan_result, make_examples):
    whole = make_examples(1, grid=(3, 4), registers=1)[0]
    norms, pca, cls = whole.norms.copy(), whole.pca.copy(), whole.cls_attention.copy()
    norms[0, 1], pca[1, 2], cls[2, 3] = np.nan, np.nan, np.nan
    example = replace(whole, norms=norms, pca=pca, cls_attention=cls)
    shown = data_of(render(scan_result(grid=(3, 4), registers=1), [whole, example]))["examples"]
    assert shown[0]["gone"] == {}
    assert not any("gone" in each for each in shown[0]["attention"])
    found = {**shown[1]["gone"], "cls": shown[1]["attention"][0]["gone"]}
    cells = {
        name: np.frombuffer(base64.b64decode(each), np.uint8).nonzero()[0].tolist() for name, each in found.items()
    }
    assert cells == {"norms": [1], "pca": [6], "cls": [11]}
    assert "gone" not in shown[1]["attention"][1]
