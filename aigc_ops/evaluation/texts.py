"""Scores of a text model: how well it predicts the held-out texts."""

import math
from collections.abc import Sequence

import torch
from pydantic import JsonValue

from aigc_ops import sampling
from aigc_ops.artifacts import DatasetRef, Score, json_digest
from aigc_ops.data import DataConfig
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.distances import Array
from aigc_ops.evaluation.reference import reference_rows, reference_terms
from aigc_ops.evaluation.statistics import ratio_estimate
from aigc_ops.generative import TextData, TextModel
from aigc_ops.tracking import progress_bar

INTERVAL = "95 %, percentile bootstrap over texts: of other texts like these"
NUM_TEXTS_AT_ONCE = 256
NUM_SAMPLE_TEXTS = 8


def score_texts(
    model: TextModel,
    ref: DatasetRef,
    heldout: TextData,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
) -> tuple[str, dict[str, Score], str]:
    """The primary metric's name, bits per byte and perplexity per token, and sample lines.

    Bits per byte compare across tokenizers; perplexities only under one, so their contract
    names it by its digest.
    """
    terms = reference_terms(ref, data_config, config)
    num = terms["num_reference"]
    assert isinstance(num, int), num
    data = _rows(heldout, reference_rows(len(heldout), num))
    nats, num_tokens = _surprise(model, data)
    num_bytes = torch.tensor([len(t.encode()) for t in data.texts]).double().numpy()
    if not num_bytes.sum():
        raise EvaluationError(f"{ref.uri}: the held-out texts are empty; nothing can be predicted")

    contract: dict[str, JsonValue] = {
        "n": num,
        **terms,
        "prompted": data.prompts is not None,
        "precision": "fp32",
        "seed": seed,
        "interval": INTERVAL,
    }
    tokenizer = json_digest({"family": model.config.family, "blueprint": model.blueprint()})
    bits = ratio_estimate(nats / math.log(2), num_bytes, seed=seed)
    tokens = ratio_estimate(nats, num_tokens, seed=seed)
    values = {
        "bits_per_byte": Score(value=bits.value, low=bits.low, high=bits.high, contract=contract),
        "perplexity": Score(
            value=_exp(tokens.value),
            low=_exp(tokens.low),
            high=_exp(tokens.high),
            contract={**contract, "tokenizer": tokenizer},
        ),
    }
    return "bits_per_byte", values, _sample_lines(model, data.prompts, seed=seed)


def _exp(nats: float) -> float:
    """Exponential, finite (as JSON needs it) for a model that is sure of the wrong text."""
    return math.exp(min(nats, 700.0))


def _sample_lines(model: TextModel, prompts: Sequence[str] | None, *, seed: int) -> str:
    """Sample texts to be read, each after its prompt, among prompts that the model can take."""
    chosen = sampling.servable(model, prompts or (), NUM_SAMPLE_TEXTS)
    asked = sampling.requests(model, NUM_SAMPLE_TEXTS, seed=seed, prompt=chosen or None)
    texts = sampling.draw(model, asked, progress=True)
    pairs = zip(asked, texts, strict=True)
    return "".join(f"{request.prompt or ''} => {text}\n" for request, text in pairs)


def _rows(data: TextData, rows: Sequence[int]) -> TextData:
    prompts = data.prompts and [data.prompts[row] for row in rows]
    return TextData([data.texts[row] for row in rows], prompts)


@torch.inference_mode()
def _surprise(model: TextModel, data: TextData) -> tuple[Array, Array]:
    """Negative log likelihood (nats) and tokens of each text, both (N,) float64."""
    nats, num_tokens = [], []
    with progress_bar(total=len(data), desc="held-out texts", unit="texts") as bar:
        for start in range(0, len(data), NUM_TEXTS_AT_ONCE):
            part = _rows(data, range(start, min(start + NUM_TEXTS_AT_ONCE, len(data))))
            likelihoods, counts = model.log_likelihood(part)
            nats.append(-likelihoods.double())
            num_tokens.append(counts.double())
            bar.update(len(part))
    surprise = torch.cat(nats)
    if not surprise.isfinite().all():
        index = int((~surprise.isfinite()).nonzero()[0])
        raise EvaluationError(
            f"the log likelihood of held-out text {index} is {-surprise[index].item()}; a finite "
            "one was expected, so the model's weights are damaged or it diverged in training"
        )
    return surprise.numpy(), torch.cat(num_tokens).numpy()
