"""What a text model generated and predicted, kept by content, so that no call computes it again."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as package_version
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import progress_bar, progress_of
from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text.metrics import EVALUATION_VERSION
from aigc_ops.modalities.text.metrics.minilm import TextExtractor
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.provenance.code_version import code_digest
from aigc_ops.sampling import sampler
from aigc_ops.statistics.cached import Arrays, cached_arrays
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.reference import computed_by

NUM_TEXTS_AT_ONCE = 256
Likelihoods = tuple[Array, Array]
"""Negative log-likelihood (nats) and number of tokens of each text, both (N,) float64."""


@torch.inference_mode()
def negative_log_likelihood(
    model: TextModel, data: TextData, *, noun: str = "held-out text"
) -> Likelihoods:
    """Return the negative log-likelihood and the number of tokens of each text.

    `noun` names a text in messages. Raises EvaluationError if a value is not finite.
    """
    nats, num_tokens = [], []
    with progress_bar(total=len(data), desc=f"{noun}s", unit="texts") as bar:
        for start in range(0, len(data), NUM_TEXTS_AT_ONCE):
            part = data.take(range(start, min(start + NUM_TEXTS_AT_ONCE, len(data))))
            likelihoods, counts = model.log_likelihood(part)
            nats.append(-likelihoods.double())
            num_tokens.append(counts.double())
            bar.update(len(part))
    total = torch.cat(nats)
    if not total.isfinite().all():
        index = int((~total.isfinite()).nonzero()[0])
        raise EvaluationError(
            f"the log-likelihood of {noun} {index} is {-total[index].item()}; expected a "
            "finite value; the weights are damaged or the training diverged"
        )
    return total.numpy(), torch.cat(num_tokens).numpy()


class KeptTexts:
    """The texts and likelihoods of one model, from the cache or computed."""

    # A whole list of texts is one entry: in another batch a text's last bits, and so its tokens,
    # may differ.

    def __init__(self, loaded: LoadedModel, context: EvaluationContext) -> None:
        assert isinstance(loaded.model, TextModel), type(loaded.model)
        self._model, self._name = loaded.model, loaded.name
        self._cache = context.cache.with_name("samples")
        self._made_by: dict[str, JsonValue] = {
            "model": loaded.content_digest,
            "device": next(loaded.model.parameters()).device.type,
            "version": EVALUATION_VERSION,
            "code": code_digest(),
            "torch": package_version("torch"),
        }

    def generate(self, requests: Sequence[SampleRequest]) -> list[str]:
        """Return the text of each request."""

        def compute() -> Arrays:
            texts = sampler.generate(self._model, requests, progress=True)
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            return {
                "ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
                "bytes": np.frombuffer(b"".join(encoded), np.uint8),
            }

        asked = json_digest([[each.seed, each.conditions, each.controls] for each in requests])
        arrays = self._cached(compute, {"requests": asked}, "texts")
        everything, ends = arrays["bytes"].tobytes(), arrays["ends"].tolist()
        return [
            everything[begin:end].decode("utf-8", "surrogatepass")
            for begin, end in zip([0, *ends], ends, strict=False)
        ]

    def likelihoods(self, data: TextData) -> Likelihoods:
        """Return the likelihoods of given texts."""

        def compute() -> Arrays:
            nats, num_tokens = negative_log_likelihood(self._model, data)
            return {"nats": nats, "num_tokens": num_tokens}

        found = self._cached(compute, {"texts": json_digest([*data.parts()])}, "likelihoods")
        return found["nats"], found["num_tokens"]

    def _cached(
        self, compute: Callable[[], Arrays], described: Mapping[str, JsonValue], name: str
    ) -> Arrays:
        with progress_of(self._name):
            return cached_arrays(compute, {**described, **self._made_by}, self._cache, name=name)


def kept_embeddings(
    extractor: TextExtractor, texts: Sequence[str], context: EvaluationContext
) -> NDArray[np.float32]:
    """Return the features of generated texts, computed once for the same texts."""
    found = cached_arrays(
        lambda: {"features": extractor.features(texts, what="the samples")},
        {"texts": json_digest(list(texts)), **computed_by(extractor, EVALUATION_VERSION)},
        context.cache.with_name("samples"),
        name="embeddings",
    )
    return cast("NDArray[np.float32]", found["features"])
