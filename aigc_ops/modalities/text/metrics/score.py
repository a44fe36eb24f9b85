"""Scores of a text model: likelihood of held-out texts, and quality of generated ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from aigc_ops.core.artifacts import DatasetRef, Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import BASELINE, EvaluationContext, LoadedModel
from aigc_ops.interfaces.ingestion import SPLITS, Split
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text.metrics.generated import (
    OTHER_TEXTS,
    Likeness,
    likeness,
    memorisation_score,
    overlap_scores,
    variety,
)
from aigc_ops.modalities.text.metrics.kept_texts import (
    KeptTexts,
    Likelihoods,
    negative_log_likelihood,
)
from aigc_ops.modalities.text.metrics.kneser_ney import fit_baseline
from aigc_ops.modalities.text.metrics.overlap import Nearest, Overlap
from aigc_ops.modalities.text.metrics.verbatim import (
    Continuation,
    VerbatimMemorisation,
    detect_verbatim_copies,
)
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.modalities.text.requests import PROMPT, prompt_conditions
from aigc_ops.sampling import sampler
from aigc_ops.statistics.comparability import score_of
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import Estimate, ratio_estimate
from aigc_ops.statistics.reference import reference_rows, reference_terms

# Data settings that decide, besides the files, which texts are read.
READ_AS = ("text_column", "prompt_column", "documents")
DECODING = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "stop")
NUM_SHOWN = 8


@dataclass(frozen=True)
class GeneratedTexts:
    """Texts of a model with their requests, and those of its base model."""

    requests: Sequence[SampleRequest]
    texts: Sequence[str]
    before: Sequence[str]
    """Texts of the base model for the first requests; empty without a base model."""

    @property
    def preview(self) -> str:
        """Return the first texts with their prompts, one per line."""
        lines = []
        for index, request in enumerate(self.requests[:NUM_SHOWN]):
            lines.append(f"{PROMPT.of(request) or ''} => {self.texts[index]}\n")
            if self.before:
                lines.append(f"    before: {self.before[index]}\n")
        return "".join(lines)


@dataclass(frozen=True)
class TextScores:
    """The scores of a text model, and the texts they were computed from."""

    primary: str
    values: dict[str, Score]
    generated: GeneratedTexts
    likeness: Likeness | str | None
    """Comparison by embeddings; or how to install it; None if it is switched off."""
    overlap: Overlap
    nearest: Sequence[Nearest | None]
    """The nearest training text of each generated text; None if no text shares a word."""
    train: TextData
    verbatim: tuple[VerbatimMemorisation, list[Continuation]] | str | None
    """Verbatim memorisation; or why it was not measured; None if it is switched off."""


def text_terms(context: EvaluationContext) -> dict[str, JsonValue]:
    """Return the terms that identify the held-out texts in evaluation conditions."""
    appearance = {name: context.data_settings[name] for name in READ_AS}
    # The terms enter the digest that names a reference. Earlier releases wrote this key for
    # every modality, so without it all references would get new names.
    appearance["image_shape"] = None
    return reference_terms(context.ref, "heldout", context.settings.num_reference, appearance)


def score_texts(loaded: LoadedModel, context: EvaluationContext) -> TextScores:
    """Return every score of a text model, and the texts they were computed from.

    For dialogue, bits per byte and perplexity are those of the answers given their prompts.
    """
    # 1. Likelihood of held-out texts, under the model and, after finetuning, its base model.
    ref, seed, config = context.ref, context.seed, context.section
    model, kept = loaded.model, KeptTexts(loaded, context)
    assert isinstance(model, TextModel), type(model)
    terms = text_terms(context)
    num = terms["num_reference"]
    assert isinstance(num, int), num
    train, heldout = context.read("train"), context.read("heldout")
    data = heldout.take(reference_rows(len(heldout), num))
    origin = model.origin(data)
    if origin is not None:
        origin.to(next(model.parameters()).device)
    contract: dict[str, JsonValue] = {
        "n": num,
        **terms,
        "prompted": data.prompts is not None,
        "precision": "fp32",
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    what = f"{ref.uri}: the held-out texts"
    values = _bits_and_perplexity(
        model, origin, data, contract, what, seed=seed, predict=kept.likelihoods
    )
    baseline, num_counted = fit_baseline(train)
    nats, num_bytes = baseline.negative_log_likelihood(data), _num_bytes(data)
    values[f"{BASELINE}bits_per_byte"] = score_of(
        ratio_estimate(nats / math.log(2), num_bytes, seed=seed),
        {
            **values["bits_per_byte"].contract,
            "baseline": f"interpolated Kneser-Ney over bytes, order {baseline.order}",
            "num_train_bytes": num_counted,
        },
    )
    if config.general_path:
        values |= _forgetting(kept, model, origin, context)

    # 2. Diversity of generated texts, and their similarity to held-out ones.
    generated = _generate(kept, model, origin, data, num=config.num_texts, seed=seed)
    decoding: JsonValue = {name: getattr(model.config, name, None) for name in DECODING}
    contract = {
        "n": len(generated.texts),
        "reference": terms["reference"],
        "decoding": decoding,
        "seed": seed,
    }
    values |= variety(generated.texts, contract, seed=seed)
    alike = likeness(generated.texts, data, terms, context, decoding=decoding)
    values |= alike.values if isinstance(alike, Likeness) else {}
    # 3. Overlap of generated texts with training texts. Held-out texts give the baseline.
    shared, overlap, nearest = overlap_scores(
        generated.texts, data, train, ref, decoding=decoding, seed=seed
    )
    values |= shared
    # 4. Verbatim memorisation: greedy continuations of the beginnings of training texts.
    verbatim = None
    if config.num_beginnings:
        verbatim = detect_verbatim_copies(
            model, train, heldout, num=config.num_beginnings, generate=kept.generate
        )
        if not isinstance(verbatim, str):
            values["copies_in_continuations"] = memorisation_score(verbatim[0], ref)
    return TextScores("bits_per_byte", values, generated, alike, overlap, nearest, train, verbatim)


def _bits_and_perplexity(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    contract: Mapping[str, JsonValue],
    what: str,
    *,
    seed: int,
    predict: Callable[[TextData], Likelihoods] | None = None,
) -> dict[str, Score]:
    """Return bits per byte and perplexity under the model and its base model.

    `predict` returns the likelihoods under the model; None: they are computed.
    """
    num_bytes = _num_bytes(data)
    if not num_bytes.sum():
        raise EvaluationError(f"{what} are empty; bits per byte need at least one byte")
    nats, num_tokens = predict(data) if predict else negative_log_likelihood(model, data)
    bits = ratio_estimate(nats / math.log(2), num_bytes, seed=seed)
    tokens = ratio_estimate(nats, num_tokens, seed=seed)
    # exp is monotone, so the interval's ends transform like the value.
    perplexity = Estimate(*map(_exp, (tokens.value, tokens.low, tokens.high)))
    values = {
        "bits_per_byte": score_of(bits, contract),
        # Bits per byte compare across tokenizers; perplexity only under one, so its evaluation
        # conditions name the tokenizer.
        "perplexity": score_of(perplexity, {**contract, **model.tokenizer_terms()}),
    }
    if origin is not None:
        before = _bits_and_perplexity(origin, None, data, contract, what, seed=seed)
        values |= {f"{name}_before": score for name, score in before.items()}
    return values


def _num_bytes(data: TextData) -> Array:
    return np.array([len(text.encode()) for text in data.texts], np.float64)


def _generate(
    kept: KeptTexts,
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    *,
    num: int,
    seed: int,
) -> GeneratedTexts:
    """Return texts of the model, as answers to held-out prompts if it accepts prompts.

    The base model answers the first requests too.
    """
    prompts = sampler.filter_valid_prompts(model, data.prompts or (), num)
    requests = sampler.requests(model, num, seed=seed, conditions=prompt_conditions(prompts))
    texts = kept.generate(requests)
    before = sampler.generate(origin, requests[:NUM_SHOWN]) if origin is not None else []
    return GeneratedTexts(requests, texts, before)


def _forgetting(
    kept: KeptTexts, model: TextModel, origin: TextModel | None, context: EvaluationContext
) -> dict[str, Score]:
    """Return bits per byte and perplexity of general texts, which show forgetting."""
    path, seed = context.section.general_path, context.seed
    ref, read = context.open_other(path, prompt_column=None)
    # All splits: nothing is trained on these texts, so none has to be held out.
    texts = [text for split in SPLITS if _has_rows(ref, split) for text in read(split).texts]
    data = TextData(texts).take(reference_rows(len(texts), context.settings.num_reference))
    contract: dict[str, JsonValue] = {
        "n": len(data),
        "dataset": ref.content_digest,
        "precision": "fp32",
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    values = _bits_and_perplexity(
        model, origin, data, contract, path, seed=seed, predict=kept.likelihoods
    )
    return {f"general_{name}": score for name, score in values.items()}


def _has_rows(ref: DatasetRef, split: Split) -> bool:
    return bool(ref.num_train if split == "train" else ref.num_heldout)


def _exp(nats: float) -> float:
    """Return exp(nats), at most exp(700)."""
    # JSON has no infinity, and a float64 overflows above exp(709.78).
    return math.exp(min(nats, 700.0))
