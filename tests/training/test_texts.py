"""Training on texts: examples kept on disk, memory spared, jumps of the loss."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import TrainingError
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text import model as text_model
from aigc_ops.modalities.text.model import TextData
from aigc_ops.modalities.text.training import TextTraining
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.models.language.tokenizer import Vocabulary
from aigc_ops.models.language.transformer import Block
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train
from aigc_ops.training.examples import Examples
from aigc_ops.training.loop import _compile
from aigc_ops.training.monitor import OnlineMetrics
from aigc_ops.training.state import new_state
from tests.training.runs import Recorder

SMALL = GptConfig(
    tokenizer="bytes", num_layers=2, num_heads=2, width=32, context_length=48, dropout=0.1
)
DATA = TextData([f"{i} and {i + 1} are {2 * i + 1}." for i in range(200)])
CPU = torch.device("cpu")


def run(
    config: GptConfig,
    folder: Path,
    *,
    tracker: SilentTracker | None = None,
    data: TextData = DATA,
    **settings,
):
    ref = DatasetRef(
        uri="memory", modality="text", content_digest="0" * 64, num_train=len(data), num_heldout=0
    )
    return train(
        TrainingJob(
            model=config,
            config=TrainingConfig(**{"batch_size": 8, "log_every": 1, **settings}),
            dataset=ref,
            read_data=lambda _: data,
            seed=3,
            folder=RunFolder(folder),
            tracker=tracker or SilentTracker(),
        )
    )


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes", "characters"])
@pytest.mark.parametrize("texts", [["a" * 500], ["a"] * 20, ["", "a"]])
def test_texts_of_one_character_or_none_are_learnt(
    tmp_path: Path, texts: list[str], tokenizer: str
) -> None:
    config = SMALL.model_copy(update={"tokenizer": tokenizer})
    tracker = Recorder()
    run(config, tmp_path, data=TextData(texts), steps=4, batch_size=2, tracker=tracker)
    losses = [m["loss/network"] for _, m in tracker.metrics if "loss/network" in m]
    assert losses[-1] < losses[0]


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that a model made its examples; every text is much text."""
    calls: list[int] = []
    examples = Gpt.examples
    monkeypatch.setattr(Gpt, "examples", lambda *args: calls.append(0) or examples(*args))
    monkeypatch.setattr(text_model, "MIN_CACHED_CHARACTERS", 0)
    return calls


def test_much_text_is_tokenised_once(tmp_path: Path, tokenised: list[int]) -> None:
    model = Gpt.from_data(SMALL, DATA)
    rows = torch.arange(5)
    first = Examples(model, DATA, CPU, tmp_path).take(rows)
    again = Examples(model, DATA, CPU, tmp_path).take(rows)
    other_rate = SMALL.model_copy(update={"optimizer": AdamConfig(learning_rate=0.1)})
    Examples(Gpt.from_data(other_rate, DATA), DATA, CPU, tmp_path)
    assert len(tokenised) == 1
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_other_text_or_settings_are_tokenised_anew(tmp_path: Path, tokenised: list[int]) -> None:
    model = Gpt.from_data(SMALL, DATA)
    Examples(model, DATA, CPU, tmp_path)
    prompts = TextData(DATA.texts, ["?"] * len(DATA))
    Examples(model, TextData(DATA.texts[:-1]), CPU, tmp_path)
    Examples(model, prompts, CPU, tmp_path)
    Examples(model, TextData(DATA.texts, prompts.prompts, [()] * len(DATA)), CPU, tmp_path)
    shorter = SMALL.model_copy(update={"context_length": 40})
    Examples(Gpt.from_data(shorter, DATA), DATA, CPU, tmp_path)
    assert len(tokenised) == 4


def test_of_several_that_start_at_once_one_tokenises(tmp_path: Path, tokenised: list[int]) -> None:
    model = Gpt.from_data(SMALL, DATA)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Examples(model, DATA, CPU, tmp_path), range(4)))
    assert len(tokenised) == 1
    rows = [each.take(torch.arange(9))["inputs"] for each in found]
    assert all(torch.equal(rows[0], other) for other in rows)


def test_no_more_heldout_text_is_looked_at_than_steers_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []
    encode = Vocabulary._encodings
    monkeypatch.setattr(
        Vocabulary, "_encodings", lambda self, texts: encoded.extend(texts) or encode(self, texts)
    )
    monkeypatch.setattr("aigc_ops.modalities.text.training.NUM_CHARACTERS", 60)
    model = Gpt.from_data(SMALL, DATA)
    assert len(TextTraining().heldout_examples(model, DATA, 4)["inputs"]) == 4
    assert set(encoded) - {""} < set(DATA.texts[:20])


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_the_heldout_loss_is_the_same_however_many_rows_are_passed_at_once(at_once: int) -> None:
    data = TextData(DATA.texts[:50], ["?" * (1 + row % 9) for row in range(50)])
    model = Gpt.from_data(SMALL.model_copy(update={"train_on_prompts": False}), data).eval()
    rows = list[int]()
    model.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    online = OnlineMetrics(TextTraining(), data, lambda: data, rows_at_once=at_once)
    loss = online.measure(model)["heldout/loss"]
    assert max(rows) <= at_once
    totals, counts = model.log_likelihood(data)
    assert loss == pytest.approx(-(totals.sum() / counts.sum()).item(), rel=1e-5)


def test_damaged_examples_are_made_again(tmp_path: Path, tokenised: list[int]) -> None:
    model = Gpt.from_data(SMALL, DATA)
    whole = Examples(model, DATA, CPU, tmp_path).take(torch.arange(9))
    file = next(tmp_path.glob("*/*.npy"))
    file.write_bytes(file.read_bytes()[:-10])
    again = Examples(model, DATA, CPU, tmp_path).take(torch.arange(9))
    assert len(tokenised) == 2
    assert torch.equal(whole["inputs"], again["inputs"])


def test_recomputed_activations_give_the_same_weights(tmp_path: Path) -> None:
    kept_run = run(SMALL, tmp_path / "kept", steps=5)
    again = run(SMALL.model_copy(update={"recompute": True}), tmp_path / "again", steps=5)
    left, right = (load_file(Path(c.uri) / "model.safetensors") for c in (kept_run, again))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_jump_of_the_loss_is_rolled_back(tmp_path: Path) -> None:
    """A rate that rises until the model is lost, and falls with the rollback."""
    wild = SMALL.model_copy(update={"optimizer": AdamConfig(learning_rate=3.0, beta2=0.99)})
    tracker = Recorder()
    settings = {"steps": 120, "warmup_steps": 300, "checkpoint_every": 5}
    watch = {"every": 5, "action": "roll_back", "rollback_learning_rate": 1e-3, "patience": 1}
    checkpoint = run(wild, tmp_path, tracker=tracker, watch=watch, device="cpu", **settings)
    assert checkpoint.step == 120
    assert any("the loss has jumped" in text for text in tracker.texts.values())
    steps = [step for step, metrics in tracker.metrics if "loss/network" in metrics]
    assert steps != sorted(steps)
    losses = [m["loss/network"] for _, m in tracker.metrics if "loss/network" in m]
    assert losses[-1] < 4 < max(losses)


def test_a_jump_of_the_loss_stops_a_run_that_may_not_roll_back(tmp_path: Path) -> None:
    wild = SMALL.model_copy(update={"optimizer": AdamConfig(learning_rate=3.0, beta2=0.99)})
    watch = {"every": 5, "action": "stop", "patience": 1}
    with pytest.raises(TrainingError, match=r"the loss has jumped: rise/network is .*, above 1"):
        run(wild, tmp_path, steps=150, warmup_steps=300, checkpoint_every=5, watch=watch)


def test_each_block_is_compiled_and_none_for_samples() -> None:
    model = Gpt.from_data(SMALL, DATA)
    _compile(model)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == 2
    assert all(block._compiled_call_impl is not None for block in blocks)
    torch._dynamo.utils.counters.clear()
    state = new_state(model, ema_decay=0.0, device=CPU, precision="fp32")
    with state.sampling():
        model.sample([SampleRequest(0)])
    assert not torch._dynamo.utils.counters["stats"]
