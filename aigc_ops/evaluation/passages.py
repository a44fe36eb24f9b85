"""Texts for people: samples beside training texts, the most and least alike, what is recited."""

from collections.abc import Sequence

import numpy as np

from aigc_ops.evaluation.overlap import NUM_WORDS
from aigc_ops.evaluation.report import Findings, Note, Section
from aigc_ops.evaluation.texts import NUM_SHOWN, JudgedTexts

NUM_RANKED = 6
MAX_CHARACTERS = 400
NEAREST_TOLD = (
    "The training text that shares most pairs of words (1: all of them), and the longest run of "
    f"words, if of {NUM_WORDS} at least, that a sample shares with any training text."
)
RANKED_TOLD = "By the cosine of a sample's embedding and the nearest held-out text's."
RECITED_TOLD = (
    "Written without chance after the beginning (or prompt) of a training text, and equal to it "
    "for so many words. Such texts may hold what people did not mean to publish."
)


def tell_of_texts(findings: Findings, judged: JudgedTexts) -> None:
    """Put what was found of a text model into its report."""
    findings.sections.append(_samples(judged))
    if isinstance(judged.likeness, str):
        findings.notes.append(Note(f"{judged.likeness}."))
    elif judged.likeness:
        if judged.likeness.note:
            findings.notes.append(Note(judged.likeness.note))
        findings.sections.append(_ranked(judged, judged.likeness.similarity))
    if isinstance(judged.recitals, str):
        findings.notes.append(Note(f"Learning by heart was not looked for: {judged.recitals}."))
    elif judged.recitals:
        found, copies = judged.recitals
        findings.notes.append(Note(found.told, alarm=found.flagged))
        shown = sorted(copies, key=lambda each: -each.num_equal)[:NUM_SHOWN]
        rows = [(each.beginning.prompt, each.drawn, str(each.num_equal)) for each in shown]
        if rows:
            columns = ("beginning", "continuation", "words")
            findings.sections.append(_table("Training texts recited", RECITED_TOLD, columns, rows))


def _samples(judged: JudgedTexts) -> Section:
    """The first samples, each beside the nearest training text."""
    drawn = judged.drawn
    rows = []
    for place, request in enumerate(drawn.asked[:NUM_SHOWN]):
        near = judged.nearest[place]
        row = [request.prompt or "", drawn.texts[place]]
        row += [drawn.before[place]] if drawn.before else []
        row += [judged.train.texts[near.index], f"{near.similarity:.2f}"] if near else ["none", ""]
        rows.append([*row, str(judged.overlap.longest[place])])
    before = ("before this training",) if drawn.before else ()
    columns = ("prompt", "text", *before, "nearest training text", "alike", "longest run")
    return _table("Texts drawn", NEAREST_TOLD, columns, rows)


def _ranked(judged: JudgedTexts, similarity: np.ndarray) -> Section:
    """The samples most like held-out texts, and those least like any."""
    order = np.argsort(-similarity, kind="stable").tolist()
    num = min(NUM_RANKED, len(order) // 2)
    rows = [
        (
            f"{similarity[place]:.2f}",
            judged.drawn.asked[place].prompt or "",
            judged.drawn.texts[place],
        )
        for place in [*order[:num], *order[len(order) - num :]]
    ]
    return _table("Most and least like the data", RANKED_TOLD, ("cosine", "prompt", "text"), rows)


def _table(
    heading: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Section:
    """The texts, each as long as can be read at a glance."""
    cut = [
        [cell if len(cell) <= MAX_CHARACTERS else f"{cell[:MAX_CHARACTERS]} …" for cell in row]
        for row in rows
    ]
    return Section(heading, text, columns=columns, rows=cut)
