"""What interventions showed, in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence

from vitreg.quantities import count, number
from vitreg.repair.causal.effects import CHANGES, RIGHT, Effect
from vitreg.repair.causal.interventions import INTERVENTIONS, Intervention
from vitreg.repair.causal.study import Study
from vitreg.results import Cell, Table

TITLES = {
    "cls": "How far the class token moves (1 - cosine)",
    "patches": "How far untouched patches move (1 - cosine)",
    "kl": "How far the classifier's answer moves (KL divergence, nats)",
    RIGHT: "Accuracy of the classifier, % of the images",
}
LITTLE = 0.001  # of 1 - cosine, or nats: an effect below it is surely there, and hardly matters (ours)
NOTHING_SHOWN = "That is not clearly more than with other patches, so it shows no use."


def sentences(study: Study) -> list[str]:
    """Return what was changed, and one passage for each intervention, plain first."""
    return [_about(study), _overall(study), *(_said(study, each) for each in study.tested), *study.missing]


def _about(study: Study) -> str:
    sinks = study.sinks
    if sinks.outliers is None:
        return (
            f"{study.spec} has no outliers on these images: the patch that gets the most attention stands for its sinks, one "
            f"in each of {study.with_sinks} images, changed after block {sinks.onset} or in the blocks behind it."
        )
    return (
        f"Sinks are the outliers after block {sinks.onset}, {number(study.per_image)} an image in {study.with_sinks} of "
        f"{study.images} images; they are changed there, or where the blocks behind it read them."
    )


def _overall(study: Study) -> str:
    known = [effect for own in study.effects.values() for effect in own.values() if effect.caused is not None]
    if not known:
        return f"{count(study.images, 'image is', 'images are')} too few for intervals; give more."
    return (
        f"{_used(study)} of {len(_on_sinks(study))} interventions on {study.sinks.noun} change what the model returns by "
        f"more than the same on {_others(study)}."
    )


def _said(study: Study, each: Intervention) -> str:
    effects = study.effects[each.name]
    noun, others = _nouns(study, each)
    first, second = each.words.format(tokens=noun), each.words.format(tokens=others)
    summary = _summary(study)
    one = [f"{summary} by {number(effects['cls'].sinks)}"]
    other = [number(effects["cls"].random)]
    for name, words in (("patches", "the untouched patches"), ("kl", "the classifier's answer")):
        if name in effects:
            one.append(f"{words} by {number(effects[name].sinks)}" + (" nats" if name == "kl" else ""))
            other.append(number(effects[name].random))
    said = f"{first} changes {_listed(one)}; {second[0].lower()}{second[1:]}, by {_listed(other)}."
    return " ".join(part for part in [said, _conclusion(study, each), *_helps(effects.get(RIGHT), noun)] if part)


def _conclusion(study: Study, each: Intervention) -> str:
    effects = study.effects[each.name]
    words = {"cls": _summary(study), "patches": "the patches", "kl": "the classifier"}
    known = {word: effects[name] for name, word in words.items() if name in effects}
    if all(effect.caused is None for effect in known.values()):
        return ""
    used = [word for word, effect in known.items() if effect.caused]
    if not used:
        return NOTHING_SHOWN
    clearly = [word for word in used if known[word].more >= LITTLE]
    little, noun = [word for word in used if word not in clearly], _nouns(study, each)[0]
    verb = "use" if len(clearly or used) > 1 or (clearly or used) == ["the patches"] else "uses"
    if not clearly:
        return f"So {_listed(used)} {verb} {noun}, if only a little."
    return f"So {_listed(clearly)} {verb} {noun}" + (f", and {_listed(little)} a little." if little else ".")


def _helps(effect: Effect | None, noun: str) -> list[str]:
    if effect is None:
        return []
    said = f"Accuracy is {number(effect.sinks)} % then, and {number(effect.random)} % with the others changed"
    verb = "helps" if noun.endswith("patch") else "help"
    return [f"{said}: {noun} {verb}." if effect.caused else f"{said}, which is not clearly less."]


def _summary(study: Study) -> str:
    return "the class token" if study.has_cls else "the mean patch"


def _nouns(study: Study, each: Intervention) -> tuple[str, str]:
    if each.on_registers:
        return "the registers", "as many random patches"
    return study.sinks.noun, _others(study)


def _others(study: Study) -> str:
    return "a random patch" if study.sinks.outliers is None else "as many other patches"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def tables(study: Study) -> list[Table]:
    """Return one table for each effect: sinks beside random patches, and the difference with its interval."""
    found = []
    for name in (*CHANGES, RIGHT):
        rows: list[list[Cell]] = []
        for each in study.tested:
            effect = study.effects[each.name].get(name)
            if effect is not None:
                low, high = (None, None) if effect.more_ends is None else effect.more_ends
                rows.append([each.title, effect.sinks, effect.random, effect.more, low, high, _answer(effect)])
        if rows:
            more, last = ("falls by more", "helps") if name == RIGHT else ("more", "used")
            columns = ["intervention", "sinks", "random patches", more, "95 % from", "to", last]
            title = TITLES[name]
            if name == RIGHT and study.untouched_with_sinks is not None:
                title += f" with sinks ({number(study.untouched_with_sinks)} % untouched)"
            found.append(Table(title=title, columns=columns, rows=rows))
    return found


def _answer(effect: Effect) -> str:
    return "?" if effect.caused is None else "yes" if effect.caused else "no"


def beside(study: Study, twin: Study) -> tuple[list[Table], list[str]]:
    """Set a model and its twin side by side: what changing the sinks does more than changing random patches."""
    found: list[Table] = []
    columns = ["intervention", "more", "used", "twin: more", "twin: used"]
    for name in (*CHANGES, RIGHT):
        rows: list[list[Cell]] = []
        for each in INTERVENTIONS:
            one, other = (every.effects.get(each.name, {}).get(name) for every in (study, twin))
            if one is not None or other is not None:
                rows.append([each.title, *_pair(one), *_pair(other)])
        if rows:
            own = [word.replace("used", "helps") for word in columns] if name == RIGHT else columns
            found.append(Table(title=f"Beside {twin.spec}: {TITLES[name]}", columns=own, rows=rows))
    counts = [f"{_used(each)} of {len(_on_sinks(each))} interventions" for each in (study, twin)]
    said = f"{counts[0]} show that what {study.spec} returns uses its sinks, and {counts[1]} show it of the twin {twin.spec}"
    if study.untouched is not None and twin.untouched is not None:
        said += (
            f"; untouched, the model is right about {number(study.untouched)} % of the images, and the twin about "
            f"{number(twin.untouched)} %"
        )
    return found, [f"{said}.", f"The twin: {_about(twin)}", *(f"The twin: {each}" for each in twin.missing)]


def _pair(effect: Effect | None) -> tuple[Cell, Cell]:
    return (None, None) if effect is None else (effect.more, _answer(effect))


def _on_sinks(study: Study) -> list[Intervention]:
    return [each for each in study.tested if not each.on_registers]


def _used(study: Study) -> int:
    effects = [study.effects[each.name] for each in _on_sinks(study)]
    return sum(any(own[name].caused is True for name in CHANGES if name in own) for own in effects)
