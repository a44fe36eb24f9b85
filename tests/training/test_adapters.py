"""What the loop promises, kept for pretrained networks and their adapters."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aigc_ops.core.artifacts import Checkpoint, DatasetRef
from aigc_ops.core.errors import ModelError
from aigc_ops.core.tracking import SilentTracker, Tracker
from aigc_ops.laws.runs import FILES, assert_bit_equal
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.storage.checkpoints import load_model
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train
from tests.conftest import CHILDREN, free_port
from tests.models.test_pretrained import save_pretrained
from tests.training.runs import Recorder

DATA = TextData([f"Answer {i}, {'你好 ' * (i % 3)}😀" for i in range(24)], ["What?"] * 24)
LORA = {"rank": 2, "alpha": 8.0}


def run(
    source: str | Path | GptConfig,
    folder: Path,
    *,
    lora: dict[str, object] | None = None,
    tracker: Tracker | None = None,
    data: TextData = DATA,
    initial: Checkpoint | None = None,
    **settings: object,
) -> Checkpoint:
    ref = DatasetRef(
        uri="memory", modality="text", content_digest="0" * 64, num_train=len(data), num_heldout=0
    )
    if not isinstance(source, GptConfig):
        source = GptConfig(
            pretrained=str(source), context_length=64, lora=lora, train_on_prompts=False
        )
    return train(
        TrainingJob(
            model=source,
            config=TrainingConfig(
                **{"batch_size": 4, "log_every": 1, "ema_decay": 0.9, **settings}
            ),
            dataset=ref,
            read_data=lambda _: data,
            seed=3,
            folder=RunFolder(folder),
            tracker=tracker or SilentTracker(),
            initial=initial,
        )
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_pretrained(tmp_path / "hf", llama=True)


@pytest.mark.parametrize("lora", [None, {**LORA, "dropout": 0.2}], ids=["whole", "adapters"])
def test_a_pretrained_run_cut_and_resumed_ends_bit_equal(
    source: Path, tmp_path: Path, lora: dict[str, object] | None
) -> None:
    whole = run(source, tmp_path / "whole", lora=lora, steps=9, checkpoint_every=4)
    run(source, tmp_path / "cut", lora=lora, steps=4, checkpoint_every=4)
    source.rename(tmp_path / "elsewhere")  # a resumed run needs it no more
    resumed = run(source, tmp_path / "cut", lora=lora, steps=9, checkpoint_every=4)
    assert_bit_equal(Path(whole.uri), Path(resumed.uri))
    stored = load_file(Path(whole.uri) / FILES[0])
    assert any(".lora_" in name for name in stored) is (lora is not None)


def started(source: Path, folder: Path, variables: dict[str, str], **settings: object) -> Any:
    """A process of its own that trains; it leaves its reports in `folder / "metrics.json"`."""
    child = CHILDREN.Process(target=_train, args=(source, folder, variables, settings))
    child.start()
    return child


def _train(source: Path, folder: Path, variables: dict[str, str], settings: dict[str, Any]) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    tracker = Recorder()
    run(source, folder, tracker=tracker, **settings)
    if variables.get("RANK", "0") == "0":
        (folder / "metrics.json").write_text(json.dumps(tracker.metrics))


def test_adapters_killed_at_a_random_moment_end_bit_equal_to_uninterrupted_ones(
    source: Path, tmp_path: Path
) -> None:
    settings = {"lora": LORA, "steps": 60, "checkpoint_every": 5}
    folder = tmp_path / "killed"
    whole = run(source, tmp_path / "whole", **settings)
    child = started(source, folder, {}, **settings)
    while not list(folder.glob("step-*")):
        assert child.exitcode is None
        time.sleep(0.005)
    time.sleep(random.Random(0).uniform(0, 0.15))
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL  # else there was nothing left to kill
    assert not (folder / "finished.json").exists()
    run(source, folder, **settings)
    assert_bit_equal(Path(whole.uri), folder / Path(whole.uri).name)


def test_two_processes_train_adapters_as_one_does(source: Path, tmp_path: Path) -> None:
    settings = {"lora": LORA, "steps": 6, "precision": "fp32", "device": "cpu"}
    tracker = Recorder()
    run(source, tmp_path / "1", tracker=tracker, **settings)
    team = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    team |= {"MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    children = [
        started(source, tmp_path / "2", {**team, "RANK": rank, "LOCAL_RANK": rank}, **settings)
        for rank in ("0", "1")
    ]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    together = json.loads((tmp_path / "2" / "metrics.json").read_text())
    for (_, one), (_, two) in zip(tracker.metrics, together, strict=True):
        for name in (name for name in one if name.startswith(("loss/", "gradient_norm/"))):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
    weights = [load_file(tmp_path / n / "step-00000006" / FILES[0]) for n in ("1", "2")]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-4, name


def test_adapters_go_on_from_a_stored_version_which_need_not_be_named_twice(
    source: Path, tmp_path: Path
) -> None:
    whole = run(source, tmp_path / "whole", steps=2)
    adapters = GptConfig(context_length=64, lora=LORA, train_on_prompts=False)
    second = run(adapters, tmp_path / "second", steps=2, initial=whole)
    model = load_model(Path(second.uri))
    assert isinstance(model, Gpt)
    assert any(".lora_" in name for name in model.state_dict())
    assert not any(".lora_" in name for name in model.for_registry().state_dict())
    assert model.origin(DATA) is None
    with pytest.raises(ModelError, match="both name a model to start from; unset one"):
        run(source, tmp_path / "third", steps=2, initial=whole)


@pytest.mark.parametrize("from_scratch", [True, False])
def test_a_version_of_documents_learns_to_tell_a_prompt_from_its_answer(
    source: Path, tmp_path: Path, from_scratch: bool
) -> None:
    shape = {"context_length": 64}
    tiny = {"num_layers": 1, "num_heads": 1, "width": 16, "tokenizer": "bytes"}
    begun = {**shape, **tiny} if from_scratch else {**shape, "pretrained": str(source)}
    documents = TextData(DATA.texts)
    first = run(GptConfig(**begun), tmp_path / "first", data=documents, steps=1)
    again = {**shape, **tiny} if from_scratch else shape
    second = run(GptConfig(**again), tmp_path / "second", steps=1, initial=first)
    before, after = (load_model(Path(c.uri)) for c in (first, second))
    assert isinstance(before, Gpt)
    assert isinstance(after, Gpt)
    (what,) = after.vocabulary.encode(["What?"])
    start = after.vocabulary.start
    assert before.vocabulary.prompt_tokens("What?") == [start, *what]
    assert after.vocabulary.prompt_tokens("What?") == [start, *what, *after.vocabulary.turn]
    third = run(GptConfig(**again), tmp_path / "third", data=documents, steps=1, initial=second)
    kept = load_model(Path(third.uri))
    assert isinstance(kept, Gpt)
    assert kept.vocabulary.turn == after.vocabulary.turn != []
