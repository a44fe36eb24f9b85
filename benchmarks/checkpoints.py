"""Which share of training time goes into checkpoints, at the default `checkpoint_every`.

    python benchmarks/checkpoints.py [--rounds 3] [--steps 40] [--every 4]

Two ways, for the digits' GAN and a DCGAN at 64 x 64: the time that the loop's own thread
spends in the writer's call (it copies, and waits for the checkpoint before), and the wall
time of runs with a checkpoint each few steps against runs with none but the last, in
turns, which also counts what the writing thread takes from the processor. Both are taken
per checkpoint and set against as many steps as lie between two by default.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from harness import run_training
from results import benchmark_parser, recorder

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.models.gan import GanConfig
from aigc_ops.training import TrainingConfig, loop
from aigc_ops.training.run_dir import CheckpointWriter
from aigc_ops.training.state import Snapshot

CASES = {
    "digits GAN": (
        "checkpoints-digits",
        GanConfig(latent_dim=64),
        ImageShape(channels=1, height=28, width=28, class_names=tuple("0123456789")),
    ),
    "DCGAN 64x64": (
        "checkpoints-dcgan",
        GanConfig(latent_dim=100),
        ImageShape(channels=3, height=64, width=64),
    ),
}
DEFAULT_EVERY: int = TrainingConfig.model_fields["checkpoint_every"].default
WARMUP_STEPS = 2


class TimedWriter(CheckpointWriter):
    """Notes how long the loop's thread spends in each call."""

    seconds: list[float]

    def write(self, take: Callable[[], Snapshot], provenance: Mapping[str, Any]) -> None:
        """Write as ever."""
        start = time.perf_counter()
        super().write(take, provenance)
        self.seconds.append(time.perf_counter() - start)


def run(model: GanConfig, data: ImageData, *, steps: int, every: int) -> tuple[float, list[float]]:
    """Seconds of a whole run, and those of the loop's thread at each checkpoint."""
    TimedWriter.seconds = []
    config = TrainingConfig(
        steps=steps, batch_size=64, ema_decay=0.99, checkpoint_every=every, watch={"action": "off"}
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_training(model, config, data, folder=Path(folder))
        return time.perf_counter() - start, TimedWriter.seconds


def measure(model: GanConfig, data: ImageData, *, steps: int, every: int) -> tuple[float, float]:
    """Shares of training time at the default interval: in the loop's thread, and in all."""
    without, _ = run(model, data, steps=steps, every=steps)
    shorter, _ = run(model, data, steps=WARMUP_STEPS, every=WARMUP_STEPS)
    with_many, stalls = run(model, data, steps=steps, every=every)
    between = DEFAULT_EVERY * (without - shorter) / (steps - WARMUP_STEPS)
    in_thread = statistics.mean(stalls)
    in_all = (with_many - without) / (len(stalls) - 1)
    return in_thread / (between + in_thread), in_all / (between + in_all)


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=4)
    return parser


def main() -> None:
    """Print each round's shares and their medians."""
    parser = build_parser()
    arguments = parser.parse_args()
    record = recorder(arguments)
    if not WARMUP_STEPS < 2 * arguments.every <= arguments.steps:
        parser.error(f"--every lies between {WARMUP_STEPS // 2 + 1} and half of --steps")
    loop.CheckpointWriter = TimedWriter  # type: ignore[misc]
    print(f"shares of training time at a checkpoint each {DEFAULT_EVERY} steps (aim: 2 %)")
    for title, (name, model, shape) in CASES.items():
        images = torch.randint(
            0, 256, (512, shape.channels, shape.height, shape.width), dtype=torch.uint8
        )
        labels = torch.arange(512) % shape.num_classes if shape.num_classes else None
        data = ImageData(images, labels, shape)
        found = [
            measure(model, data, steps=arguments.steps, every=arguments.every)
            for _ in range(arguments.rounds)
        ]
        for what, shares in zip(
            ("loop's thread", "wall time"), zip(*found, strict=True), strict=True
        ):
            each = ", ".join(f"{100 * share:.2f}" for share in shares)
            print(f"{title}, {what}: median {100 * statistics.median(shares):.2f} % ({each})")
        record(name, [100 * in_thread for in_thread, _ in found])


if __name__ == "__main__":
    main()
