"""The GPT family against its peers; each figure is a ratio within one run, in turns.

    python benchmarks/gpt.py lora --pretrained MODEL [--rounds 3] [--steps 12]
    python benchmarks/gpt.py generate --pretrained MODEL [--rounds 3] [--new-tokens 64]
    python benchmarks/gpt.py dialogue models:/dialogue-gpt@champion

lora        adapters of rank 8 on q and v, 2 x 128 tokens: our loop against transformers'
            Trainer with peft in fp32, and how far the two curves of losses are apart.
generate    8 prompts x 64 tokens at once against `generate`, one prompt at a time.
dialogue    bits per byte of a Kneser-Ney n-gram on the held-out dialogue, beside the model's.

MODEL is a Hugging Face folder or a GGUF file, such as `make smollm2` fetches.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import in_own_process, train_model
from results import Recorder, benchmark_parser, recorder
from torch import Tensor

from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text.metrics.kneser_ney import fit_baseline
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.storage.checkpoints import load_model
from aigc_ops.training import TrainingConfig
from aigc_ops.training.order import DataOrder

DIALOGUE = DataConfig(path="data/dialogue")
LORA_BATCH, LORA_LENGTH, LORA_RATE = 2, 128, 2e-4
NUM_PROMPTS = 8


class Losses(SilentTracker):
    """Keeps the training losses by step."""

    def __init__(self) -> None:
        self.by_step: dict[int, float] = {}

    def log_metrics(self, metrics: Any, *, step: int) -> None:
        if "loss/network" in metrics:
            self.by_step[step] = metrics["loss/network"]


def ours(
    config: GptConfig,
    data: TextData,
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
    tracker: Any = None,
) -> tuple[float, Gpt]:
    """Tokens a second of `train`, and the model it ends with."""
    training = TrainingConfig(
        steps=steps, batch_size=batch_size, sample_every=steps, checkpoint_every=steps,
        log_every=1 if tracker else 100, watch={"every": steps, "action": "off"},
        schedule="constant", warmup_steps=0, max_gradient_norm=1.0,
    )  # fmt: skip
    return train_model(config, training, data, seed=seed, tracker=tracker)


# LoRA


def lora_rows(pretrained: str, steps: int) -> tuple[TextData, Tensor, Tensor]:
    """Dialogue as one text, and its rows (N, 128) in the order of our training: ids, targets."""
    whole = read_split(open_dataset(DIALOGUE), DIALOGUE, "train")
    assert isinstance(whole, TextData)
    pairs = zip(whole.prompts or (), whole.texts, strict=True)
    data = TextData(["\n".join(f"{prompt}\n{text}" for prompt, text in pairs)])
    model = Gpt.from_data(GptConfig(pretrained=pretrained, context_length=LORA_LENGTH), data)
    examples = model.examples(data)
    order = DataOrder(num_examples=len(examples["inputs"]), batch_size=LORA_BATCH, seed=0)
    chosen = torch.cat([order.batch(step) for step in range(steps)])
    return data, examples["inputs"][chosen].long(), examples["targets"][chosen].long()


def trainer(
    pretrained: str, inputs: Tensor, targets: Tensor, steps: int
) -> tuple[float, list[float]]:
    """Tokens a second and losses of transformers' Trainer with peft's adapters."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    torch.manual_seed(0)
    config = GptConfig(pretrained=pretrained, context_length=LORA_LENGTH)
    network: Any = Gpt.from_data(config, TextData(["x"])).network
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(network.model, adapters)
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run = InOrder(
            model=model,
            args=TrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=LORA_BATCH,
                learning_rate=LORA_RATE, lr_scheduler_type="constant", logging_steps=1,
                report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
                dataloader_drop_last=True, weight_decay=0.0, seed=0, remove_unused_columns=False,
            ),
            train_dataset=[
                {"input_ids": row, "labels": wanted, "shift_labels": wanted}
                for row, wanted in zip(inputs, targets, strict=True)
            ],
            callbacks=[Clock()],
        )  # fmt: skip
        run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    warmup = steps // 4
    seconds = times[-1] - times[warmup - 1]
    return (steps - warmup) * LORA_BATCH * LORA_LENGTH / seconds, losses


def lora(pretrained: str, record: Recorder, *, rounds: int, steps: int) -> None:
    data, *rows = lora_rows(pretrained, steps)
    config = GptConfig(
        pretrained=pretrained, context_length=LORA_LENGTH, lora={"rank": 8, "alpha": 16},
        optimizer={"learning_rate": LORA_RATE, "beta2": 0.999},
    )  # fmt: skip
    rates: list[float] = []
    their_rates: list[float] = []
    ratios, gaps = [], []
    for _ in range(rounds):
        theirs, their_losses = in_own_process(trainer, pretrained, *rows, steps)
        tracker = Losses()
        rate, _ = ours(config, data, steps=steps, batch_size=LORA_BATCH, tracker=tracker)
        our_losses = [tracker.by_step[step] for step in sorted(tracker.by_step)]
        mean_ours, mean_theirs = map(statistics.mean, (our_losses, their_losses))
        rates.append(rate)
        their_rates.append(theirs)
        ratios.append(rate / theirs)
        apart = max(abs(a / b - 1) for a, b in zip(our_losses, their_losses, strict=True))
        gaps.append(100 * apart)
        print(f"losses apart by at most {apart:.2%} at a step")
        print(
            f"Trainer {theirs:6.1f} tokens/s, mean loss {mean_theirs:.4f}   "
            f"ours {rate:6.1f} tokens/s, mean loss {mean_ours:.4f}   ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"median of {len(ratios)}: {statistics.median(ratios):.2f}")
    record("gpt-lora", rates, their_rates, ratios=ratios)
    record("gpt-lora-losses", gaps, average=max)


# Generation


def generate(pretrained: str, record: Recorder, *, rounds: int, num_new: int) -> None:
    from transformers import AutoModelForCausalLM  # noqa: F401 - imported outside the timing

    config = GptConfig(
        pretrained=pretrained, context_length=512, temperature=0, max_new_tokens=num_new
    )
    data = read_split(open_dataset(DIALOGUE), DIALOGUE, "heldout")
    assert isinstance(data, TextData)
    model = Gpt.from_data(config, data).eval()
    english = [p for p in data.prompts or () if p.isascii()][:NUM_PROMPTS]
    asked = [SampleRequest(0, {"prompt": prompt}) for prompt in english]
    network: Any = model.network
    openings = [model.vocabulary.prompt_tokens(prompt) for prompt in english]

    def theirs() -> list[list[int]]:
        found = []
        with torch.inference_mode():
            for opening in openings:
                ids = torch.tensor([opening])
                drawn = network.model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new,
                    do_sample=False, eos_token_id=model.vocabulary.end,
                    pad_token_id=model.vocabulary.end,
                )  # fmt: skip
                found.append(drawn[0, len(opening) :].tolist())
        return found

    def batched() -> list[str]:
        with torch.inference_mode():
            return model.sample(asked)

    ids, texts = theirs(), batched()
    expected = [model.vocabulary.tokenizer.decode(each) for each in ids]
    num_same = sum(a == b for a, b in zip(expected, texts, strict=True))
    print(f"same greedy text: {num_same} of {NUM_PROMPTS}")
    num = sum(map(len, ids))
    rates: list[float] = []
    their_rates: list[float] = []
    ratios = []
    for _ in range(rounds):
        seconds = [_seconds(run) for run in (theirs, batched)]
        ratios.append(seconds[0] / seconds[1])
        their_rates.append(num / seconds[0])
        rates.append(num / seconds[1])
        print(
            f"generate {num / seconds[0]:6.1f} tokens/s   ours {num / seconds[1]:6.1f} tokens/s   "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"median of {len(ratios)}: {statistics.median(ratios):.2f}")
    record("gpt-generate", rates, their_rates, ratios=ratios)
    record("gpt-generate-texts", [num_same])


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


# Dialogue


def dialogue(name: str, record: Recorder) -> None:
    from aigc_ops.core.state_dir import export_environment
    from aigc_ops.pipeline import chain

    export_environment()
    ref = open_dataset(DIALOGUE)
    train_data, heldout = (read_split(ref, DIALOGUE, s) for s in ("train", "heldout"))
    assert isinstance(train_data, TextData)
    assert isinstance(heldout, TextData)
    model = load_model(Path(chain.resolve(name).uri))
    assert isinstance(model, Gpt)
    nats, _ = model.log_likelihood(heldout)
    num_bytes = sum(len(text.encode()) for text in heldout.texts)
    baseline, _ = fit_baseline(train_data)
    peer_nats = baseline.negative_log_likelihood(heldout)
    peer_bits = float(peer_nats.sum()) / math.log(2) / num_bytes
    bits = -nats.sum().item() / math.log(2) / num_bytes
    print(f"Kneser-Ney n-gram of order {baseline.order}: {peer_bits:.3f} bits a byte")
    print(f"{name} {bits:.3f} bits a byte")
    record("dialogue-bits", [bits], [peer_bits])


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("what", choices=["lora", "generate", "dialogue"])
    parser.add_argument("model", nargs="?", default="models:/dialogue-gpt@champion")
    parser.add_argument("--pretrained", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=64)
    return parser


def main() -> None:
    """Run one of the comparisons."""
    parser = build_parser()
    given = parser.parse_args()
    record = recorder(given)
    if given.what == "dialogue":
        dialogue(given.model, record)
    elif given.pretrained is None:
        parser.error(f"{given.what} needs --pretrained MODEL, such as `make smollm2` fetches")
    elif given.what == "lora":
        lora(given.pretrained, record, rounds=given.rounds, steps=given.steps)
    else:
        generate(given.pretrained, record, rounds=given.rounds, num_new=given.new_tokens)


if __name__ == "__main__":
    main()
