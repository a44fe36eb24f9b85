"""Texts for people: samples beside training texts, the most and least alike, what is recited."""

from collections.abc import Sequence

import numpy as np

from aigc_ops.interfaces.media import Findings, Note, Section, Table
from aigc_ops.modalities.text.metrics.overlap import NUM_WORDS
from aigc_ops.modalities.text.metrics.score import NUM_SHOWN, TextScores

NUM_RANKED = 6
MAX_CHARACTERS = 400
NEAREST_TEXT = (
    "The training text that shares most pairs of words (1: all of them), and the longest run of "
    f"words, if of {NUM_WORDS} at least, that a sample shares with any training text."
)
RANKED_TEXT = "By the cosine of a sample's embedding and the nearest held-out text's."
RECITED_TEXT = (
    "Written without chance after the beginning (or prompt) of a training text, and equal to it "
    "for so many words. Such texts may hold what people did not mean to publish."
)


def findings_of(scores: TextScores) -> Findings:
    """Return what a report shows of a text model beside its scores."""
    findings = Findings(sections=[_samples(scores)])
    if isinstance(scores.likeness, str):
        findings.notes.append(Note(f"{scores.likeness}."))
    elif scores.likeness:
        if scores.likeness.note:
            findings.notes.append(Note(scores.likeness.note))
        findings.sections.append(_ranked(scores, scores.likeness.similarity))
    if isinstance(scores.recitals, str):
        findings.notes.append(Note(f"Learning by heart was not looked for: {scores.recitals}."))
    elif scores.recitals:
        found, copies = scores.recitals
        findings.notes.append(Note(found.told, alarm=found.flagged))
        shown = sorted(copies, key=lambda each: -each.num_equal)[:NUM_SHOWN]
        rows = [(each.beginning.prompt, each.drawn, str(each.num_equal)) for each in shown]
        if rows:
            columns = ("beginning", "continuation", "words")
            findings.sections.append(
                table_section("Training texts recited", RECITED_TEXT, columns, rows)
            )
    return findings


def _samples(scores: TextScores) -> Section:
    """Return the first samples, each beside the nearest training text."""
    drawn = scores.drawn
    rows = []
    for place, request in enumerate(drawn.asked[:NUM_SHOWN]):
        near = scores.nearest[place]
        row = [request.prompt or "", drawn.texts[place]]
        row += [drawn.before[place]] if drawn.before else []
        row += [scores.train.texts[near.index], f"{near.similarity:.2f}"] if near else ["none", ""]
        rows.append([*row, str(scores.overlap.longest[place])])
    before = ("before this training",) if drawn.before else ()
    columns = ("prompt", "text", *before, "nearest training text", "alike", "longest run")
    return table_section("Texts drawn", NEAREST_TEXT, columns, rows)


def _ranked(scores: TextScores, similarity: np.ndarray) -> Section:
    """Return the samples most like held-out texts, and those least like any."""
    order = np.argsort(-similarity, kind="stable").tolist()
    num = min(NUM_RANKED, len(order) // 2)
    rows = [
        (
            f"{similarity[place]:.2f}",
            scores.drawn.asked[place].prompt or "",
            scores.drawn.texts[place],
        )
        for place in [*order[:num], *order[len(order) - num :]]
    ]
    return table_section(
        "Most and least like the data", RANKED_TEXT, ("cosine", "prompt", "text"), rows
    )


def table_section(
    heading: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Section:
    """Return a table of texts, each as long as can be read at a glance."""
    cut = [
        [cell if len(cell) <= MAX_CHARACTERS else f"{cell[:MAX_CHARACTERS]} …" for cell in row]
        for row in rows
    ]
    return Section(heading, text, [("", Table(columns, cut))])
