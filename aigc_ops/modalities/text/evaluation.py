"""Evaluation hooks of text models: scores, paired comparison, side-by-side samples."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.interfaces.evaluation import (
    Evaluation,
    EvaluationContext,
    EvaluationHooks,
    EvaluationSettings,
    LoadedModel,
    Paired,
)
from aigc_ops.interfaces.media import Section, Table, Text
from aigc_ops.modalities.text.config import TextEvaluationConfig
from aigc_ops.modalities.text.metrics import EVALUATION_VERSION
from aigc_ops.modalities.text.metrics.generated import search_rows
from aigc_ops.modalities.text.metrics.kept_texts import KeptTexts
from aigc_ops.modalities.text.metrics.minilm import load_text_extractor
from aigc_ops.modalities.text.metrics.overlap import nearest_passage, overlap
from aigc_ops.modalities.text.metrics.report import text_findings
from aigc_ops.modalities.text.metrics.score import score_texts, text_terms
from aigc_ops.modalities.text.metrics.verbatim import MIN_HELDOUT
from aigc_ops.modalities.text.model import TextModel
from aigc_ops.modalities.text.requests import PROMPT, prompt_conditions
from aigc_ops.sampling import sampler
from aigc_ops.statistics.intervals import paired_ratio_error
from aigc_ops.statistics.reference import reference_rows, require_rows

NUM_TEXTS = 12
NUM_NEAR = 4  # texts of each model that are shown beside their nearest training texts
MAX_CHARACTERS = 600
SIDE_BY_SIDE = "Texts from the same prompts and seeds"
NEAR = "Nearest training texts"
NEAR_TEXT = "The texts above that share most pairs of words with a training text."


class TextEvaluation(EvaluationHooks):
    """Evaluation of texts: the bits per byte of held-out texts decide promotion."""

    # `growing` stays None: every comparison uses all reference texts, so there are no interim
    # analyses.
    version = EVALUATION_VERSION
    num_timed = 4
    not_examined = (
        f"verbatim memorisation is measured from {MIN_HELDOUT} held-out texts on, which are the "
        "control (hold out more, or raise data.heldout_fraction); the report has the reason"
    )
    copy_controls: ClassVar[Mapping[str, str]] = {
        "train_overlap_8": "real_train_overlap_8",
        "exact_copies": "real_exact_copies",
    }

    def require(
        self, ref: DatasetRef, section: TextEvaluationConfig, settings: EvaluationSettings
    ) -> None:
        """Raise EvaluationError for too few held-out texts, or weights that cannot be read."""
        require_rows(ref, "heldout")
        if section.extractor:
            load_text_extractor(settings)

    def evaluate(self, candidate: LoadedModel, context: EvaluationContext) -> Evaluation:
        """Return scores of predicted held-out texts and of generated texts."""
        scores = score_texts(candidate, context)
        return Evaluation(
            primary=scores.primary,
            values=scores.values,
            preview=Text(scores.generated.preview),
            findings=text_findings(scores),
        )

    def compare(
        self, candidate: LoadedModel, champion: LoadedModel, context: EvaluationContext
    ) -> Paired:
        """Return the difference in bits per byte of the same held-out texts."""
        num = text_terms(context)["num_reference"]
        assert isinstance(num, int), num
        heldout = context.read("heldout")
        data = heldout.take(reference_rows(len(heldout), num))
        # Bytes rather than tokens in the denominator: the two models may have different tokenizers.
        num_bytes = np.array([float(len(text.encode())) for text in data.texts])
        bits = [
            KeptTexts(each, context).likelihoods(data)[0] / math.log(2)
            for each in (candidate, champion)
        ]
        error = paired_ratio_error(bits[0], bits[1], num_bytes)
        candidate_value, champion_value = (float(each.sum() / num_bytes.sum()) for each in bits)
        return Paired("bits_per_byte", candidate_value, champion_value, error, num - 1, num)

    def side_by_side(
        self, models: Sequence[tuple[str, LoadedModel]], context: EvaluationContext
    ) -> list[Section]:
        """Return texts for equal requests, and those most similar to training texts."""
        names, loaded = zip(*[(name, _text_model(each)) for name, each in models], strict=True)
        # 1. Keep only prompts that fit every model, so that all models answer the same ones. Four
        #    times as many prompts are read as are shown, because some are skipped.
        prompts: list[str] = []
        if context.ref.num_heldout:
            prompts = list(context.read("heldout").prompts or ())[: 4 * NUM_TEXTS]
        for model in loaded:
            prompts = sampler.filter_valid_prompts(model, prompts, NUM_TEXTS)
        # 2. Generate with the seeds of the evaluation, one column per model.
        conditions = prompt_conditions(prompts)
        requests_by_model = [
            sampler.requests(model, NUM_TEXTS, seed=context.seed, conditions=conditions)
            for model in loaded
        ]
        answers = [
            sampler.generate(m, requests)
            for m, requests in zip(loaded, requests_by_model, strict=True)
        ]
        rows = [
            (PROMPT.of(request) or "", *texts)
            for request, *texts in zip(requests_by_model[0], *answers, strict=True)
        ]
        columns = ("Prompt", *(name.capitalize() for name in names))
        sections = [Section(SIDE_BY_SIDE, items=[("", Table(columns, rows))])]
        # 3. Show each model's texts that are most similar to a training text.
        train = context.read("train").texts
        near = [
            (name, *row)
            for name, texts in zip(names, answers, strict=True)
            for row in _nearest(texts, train)
        ]
        if near:
            columns = ("Model", "Text", "Nearest training text", "Similarity")
            sections.append(Section(NEAR, NEAR_TEXT, [("", Table(columns, near))]))
        return sections


def _text_model(loaded: LoadedModel) -> TextModel:
    assert isinstance(loaded.model, TextModel), type(loaded.model)
    return loaded.model


def _nearest(texts: Sequence[str], train: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (text, nearest training text, similarity) of the most similar texts."""
    rows = search_rows(train)
    _, nearest = overlap(texts, (train[row] for row in rows), num_near=len(texts))
    pairs = [(text, near) for text, near in zip(texts, nearest, strict=True) if near]
    pairs.sort(key=lambda pair: -pair[1].similarity)
    return [
        (
            text,
            _shortened(nearest_passage(text, train[rows[near.index]])),
            f"{near.similarity:.2f}",
        )
        for text, near in pairs[:NUM_NEAR]
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} …"
