"""How well texts are predicted, before and after a training, and per token of what."""

import math
from pathlib import Path

import pytest

from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from tests.evaluation.conftest import LINES, stored
from tests.evaluation.test_scoring import judged
from tests.models.dialogue import train as train_on
from tests.models.test_pretrained import save_pretrained


def test_what_a_training_forgot_is_scored_beside_what_it_started_from(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "hf", llama=True, max_position_embeddings=256)
    task = TextData([f"Line {index}, {index * 7919 % 97}." for index in range(40)])
    lines = tmp_path / "task.txt"
    lines.write_text("\n".join(task.texts))
    general = tmp_path / "general.txt"
    general.write_text("One is 你好.\nTwo is no line of the task.\n")
    config = GptConfig(pretrained=str(source), context_length=64, max_new_tokens=4)
    model = Gpt.from_data(config, task)
    train_on(model, task, steps=30)
    settings = {"general_path": str(general), "extractor": None, "num_beginnings": 0}
    trained_on = stored(model, tmp_path / "trained")
    values = judged(trained_on, lines, tmp_path / "scores", **settings).values
    assert values["bits_per_byte"].value < values["bits_per_byte_before"].value
    whole = TextData(general.read_text().splitlines())
    num_bytes = sum(len(text.encode()) for text in whole.texts)
    origin = Gpt.from_data(config, task).eval()
    for kind, each in (("", model), ("_before", origin)):
        totals, counts = each.log_likelihood(whole)
        bits, perplexity = (
            values[f"general_{name}{kind}"] for name in ("bits_per_byte", "perplexity")
        )
        assert bits.value == pytest.approx(-totals.sum().item() / math.log(2) / num_bytes)
        assert perplexity.value == pytest.approx(math.exp(-totals.sum() / counts.sum()))
    assert values["perplexity"].value < values["perplexity_before"].value
    kept = ("tokenizer", "tokenizer_kind", "tokenizer_size")
    terms = [[each.contract.get(name) for name in kept] for each in values.values()]
    assert [each[1:] for each in terms if any(each)] == [["BPE", 290]] * 4


def test_the_same_tokenizer_under_another_network_has_the_same_terms() -> None:
    data = TextData(LINES)
    sizes = [{"width": 16, "num_heads": 1}, {"width": 32, "num_heads": 2, "num_layers": 1}]
    small, large = (Gpt.from_data(GptConfig(vocab_size=300, **each), data) for each in sizes)
    asked = Gpt.from_data(GptConfig(vocab_size=300), TextData(LINES[1:]))
    assert small.tokenizer_terms() == large.tokenizer_terms() != asked.tokenizer_terms()
    kinds = ("bpe", "bytes", "characters")
    models = [Gpt.from_data(GptConfig(tokenizer=kind), data) for kind in kinds]
    assert [m.tokenizer_terms()["tokenizer_kind"] for m in models] == ["BPE", *kinds[1:]]
