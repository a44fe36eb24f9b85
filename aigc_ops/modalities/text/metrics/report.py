"""Report sections of a text model: samples, nearest training texts, verbatim copies."""

from collections.abc import Sequence

import numpy as np

from aigc_ops.interfaces.media import Findings, Note, Section, Table
from aigc_ops.modalities.text.metrics.overlap import NUM_WORDS, nearest_passage
from aigc_ops.modalities.text.metrics.score import NUM_SHOWN, TextScores
from aigc_ops.modalities.text.requests import PROMPT

NUM_RANKED = 6
MAX_CHARACTERS = 400
NEAREST_TEXT = (
    "The training text that shares most pairs of words (1: all of them), of which the nearest "
    f"passage is shown. The longest run of words, if at least {NUM_WORDS}, is that which a sample "
    "shares with any training text."
)
RANKED_TEXT = "Ranked by the cosine of a sample's embedding and that of the nearest held-out text."
VERBATIM_TEXT = (
    "Greedy continuations of the beginning (or prompt) of a training text, and the number of "
    "leading words that equal the text. Such texts may contain private information."
)


def text_findings(scores: TextScores) -> Findings:
    """Return the notes and sections that a report shows beside the scores."""
    findings = Findings(sections=[_samples(scores)])
    # A string is the reason why something was not measured; None means it is switched off.
    if isinstance(scores.likeness, str):
        findings.notes.append(Note(f"{scores.likeness}."))
    elif scores.likeness:
        if scores.likeness.note:
            findings.notes.append(Note(scores.likeness.note))
        findings.sections.append(_ranked(scores, scores.likeness.similarity))
    if isinstance(scores.verbatim, str):
        findings.notes.append(Note(f"Verbatim memorisation was not examined: {scores.verbatim}."))
    elif scores.verbatim:
        memorisation, copies = scores.verbatim
        findings.notes.append(Note(memorisation.summary, alarm=memorisation.flagged))
        longest = sorted(copies, key=lambda copy: -copy.num_equal)[:NUM_SHOWN]
        rows = [(copy.beginning.prompt, copy.text, str(copy.num_equal)) for copy in longest]
        if rows:
            columns = ("beginning", "continuation", "words")
            findings.sections.append(
                table_section("Training texts reproduced verbatim", VERBATIM_TEXT, columns, rows)
            )
    return findings


def _samples(scores: TextScores) -> Section:
    """Return a table of the first samples with their nearest training texts."""
    generated = scores.generated
    rows = []
    for index, request in enumerate(generated.requests[:NUM_SHOWN]):
        near = scores.nearest[index]
        row = [PROMPT.of(request) or "", generated.texts[index]]
        row += [generated.before[index]] if generated.before else []
        if near:
            document = scores.train.texts[near.index]
            row += [nearest_passage(generated.texts[index], document), f"{near.similarity:.2f}"]
        else:
            row += ["none", ""]
        rows.append([*row, str(scores.overlap.longest[index])])
    before = ("before this training",) if generated.before else ()
    columns = ("prompt", "text", *before, "nearest training text", "similarity", "longest run")
    return table_section("Generated texts", NEAREST_TEXT, columns, rows)


def _ranked(scores: TextScores, similarity: np.ndarray) -> Section:
    """Return a table of the samples most and least similar to held-out texts."""
    order = np.argsort(-similarity, kind="stable").tolist()
    num = min(NUM_RANKED, len(order) // 2)  # so that no sample is in both halves
    rows = [
        (
            f"{similarity[index]:.2f}",
            PROMPT.of(scores.generated.requests[index]) or "",
            scores.generated.texts[index],
        )
        for index in [*order[:num], *order[len(order) - num :]]
    ]
    return table_section(
        "Most and least like the data", RANKED_TEXT, ("cosine", "prompt", "text"), rows
    )


def table_section(
    heading: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Section:
    """Return a section with a table whose long cells are cut."""
    cut = [
        [cell if len(cell) <= MAX_CHARACTERS else f"{cell[:MAX_CHARACTERS]} …" for cell in row]
        for row in rows
    ]
    return Section(heading, text, [("", Table(columns, cut))])
