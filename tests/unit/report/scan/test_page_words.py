"""The sentences of a page: each number said once, and advice that names commands that exist."""

import re
import shlex

import pytest
from tests.unit.report.scan.read_page import Page, said_of, visible
from tests.unit.report.synthetic_scan import head_sinks

from vitreg.cli import VERBS
from vitreg.cli.command import take_models
from vitreg.cli.parsing import parse
from vitreg.cli.verbs import fix
from vitreg.cli.verbs.eval import Command
from vitreg.records import PrecisionChoice
from vitreg.repair.settings import settings_of
from vitreg.report.scan.advice import next_steps
from vitreg.report.scan.page import render
from vitreg.report.words import percent, times
from vitreg.verbs.eval.registry import TASKS


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
