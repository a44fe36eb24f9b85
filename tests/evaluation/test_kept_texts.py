"""A text model that was evaluated or compared before predicts and generates nothing again."""

from pathlib import Path
from typing import Any

import pytest

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.evaluation import EvaluationConfig
from aigc_ops.evaluation.paired import compare
from aigc_ops.modalities.text.metrics import kept_texts
from tests.evaluation.conftest import new_gpt, stored
from tests.evaluation.test_scoring import judged

SETTINGS = {"num_texts": 6, "num_beginnings": 0, "extractor": None}


@pytest.fixture
def rival(tmp_path: Path) -> Checkpoint:
    model = new_gpt()
    for weight in model.parameters():
        weight.data.mul_(1.1)
    return stored(model, tmp_path / "rival")


def test_a_comparison_and_an_evaluation_use_what_is_kept_to_the_last_bit(
    gpt: Checkpoint,
    rival: Checkpoint,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    kind = type(new_gpt())
    for name in ("log_likelihood", "sample"):
        method = getattr(kind, name)

        def counted(self: Any, *asked: Any, name: str = name, method: Any = method) -> Any:
            calls.append(name)
            return method(self, *asked)

        monkeypatch.setattr(kind, name, counted)
    data = DataConfig(path=str(text_file))

    def compared() -> tuple[float, float]:
        config = EvaluationConfig(device="cpu", precision="fp32")
        cache = tmp_path / "cache"
        found = compare(gpt, rival, open_dataset(data), data, config, seed=0, cache=cache)
        return found.difference, found.error

    first = compared()
    assert calls == ["log_likelihood"] * 2
    assert compared() == first
    assert len(calls) == 2
    scores = judged(gpt, text_file, tmp_path / "a", **SETTINGS)
    assert calls[2:] == ["sample"]  # its likelihood was known from the comparison
    assert judged(gpt, text_file, tmp_path / "b", **SETTINGS).values == scores.values
    assert len(calls) == 3
    monkeypatch.setattr(kept_texts, "code_digest", lambda: "other code")
    assert judged(gpt, text_file, tmp_path / "c", **SETTINGS).values == scores.values
    assert sorted(calls[3:]) == ["log_likelihood", "sample"]


def test_a_damaged_entry_is_computed_again(
    gpt: Checkpoint, text_file: Path, tmp_path: Path
) -> None:
    scores = judged(gpt, text_file, tmp_path / "a", **SETTINGS)
    (texts,) = (tmp_path / "cache").with_name("samples").glob("*/texts.safetensors")
    content = bytearray(texts.read_bytes())
    content[-1] ^= 1
    texts.write_bytes(content)
    with pytest.warns(UserWarning, match=r"computed again: .*texts.safetensors is damaged"):
        again = judged(gpt, text_file, tmp_path / "b", **SETTINGS)
    assert again.values == scores.values
