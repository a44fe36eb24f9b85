"""Images per second of our loop, of the usual plain fp32 loop, and of our operations bare.

    python benchmarks/dcgan.py [--rounds 3] [--steps 8] [--compile]

DCGAN at 64 x 64 with widths 64 and batches of 64, Adam; on a GPU where there is one, with the
images on it for all. They take turns in one run, so that a noisy machine disturbs all, each in
a process of its own, so that none has another's settings; quote the ratio. Beside it stands how
fast this processor multiplies matrices: convolutions are nearly all of a step.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from harness import in_own_process, train_model
from results import benchmark_parser, recorder
from torch.nn import functional

from aigc_ops.compute.devices import autocast, choose_device, choose_precision, keep_freed_memory
from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.model import ImageData, to_unit_range
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.nn.convolutions import Conv2d, ConvTranspose2d
from aigc_ops.training import TrainingConfig

SHAPE = ImageShape(channels=3, height=64, width=64)
CONFIG = GanConfig(latent_dim=100, generator_width=64, critic_width=64)
BATCH_SIZE = 64
DEVICE = choose_device("auto")
WARMUP_STEPS = 2


def random_images() -> torch.Tensor:
    return torch.randint(0, 256, (512, 3, 64, 64), dtype=torch.uint8, device=DEVICE)


def plain_loop(steps: int) -> float:
    """Images per second of the loop of the usual PyTorch example: fp32, no channels_last."""
    images = random_images()
    model = Gan(CONFIG, SHAPE).train().to(DEVICE)
    for module in model.modules():  # as torch computes them, without our gradients
        if isinstance(module, Conv2d | ConvTranspose2d):
            module.__class__ = type(module).__base__
    critic_steps = torch.optim.Adam(model.critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    generator_steps = torch.optim.Adam(model.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step() -> None:
        real = to_unit_range(images[torch.randint(len(images), (BATCH_SIZE,), device=DEVICE)])
        critic_steps.zero_grad()
        functional.softplus(-model.critic(real, None)[0]).mean().backward()
        fake = model.generator(torch.randn(BATCH_SIZE, CONFIG.latent_dim, device=DEVICE), None)
        functional.softplus(model.critic(fake.detach(), None)[0]).mean().backward()
        critic_steps.step()
        generator_steps.zero_grad()
        functional.softplus(-model.critic(fake, None)[0]).mean().backward()
        generator_steps.step()

    return _rate(step, steps)


def bare_loop(steps: int) -> float:
    """Images per second of our loop's operations with nothing of the loop around them."""
    keep_freed_memory()
    images = random_images()
    model = Gan(CONFIG, SHAPE).train()
    model.to(DEVICE, memory_format=torch.channels_last)
    optimizers = {part: model.optimizer(part) for part in model.parts()}
    mean = [t.clone() for t in model.generator.state_dict().values() if t.is_floating_point()]
    live = [t for t in model.generator.state_dict().values() if t.is_floating_point()]

    def step() -> None:
        real = images[torch.randint(len(images), (BATCH_SIZE,), device=DEVICE)]
        batch = {"images": real.contiguous(memory_format=torch.channels_last)}
        pairs = model.losses(batch, Noise(0, batch_size=BATCH_SIZE, device=DEVICE))
        while True:
            with autocast(DEVICE, choose_precision("auto", DEVICE)):
                loss = next(pairs, None)
            if loss is None:
                break
            parameters = list(model.parts()[loss.part].parameters())
            optimizers[loss.part].zero_grad()
            torch.autograd.backward(loss.value, inputs=parameters)
            optimizers[loss.part].step()
        torch._foreach_lerp_(mean, live, 0.01)

    return _rate(step, steps)


def _rate(step: Callable[[], None], steps: int) -> float:
    for _ in range(WARMUP_STEPS):
        step()
    _finish()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _finish()
    return steps * BATCH_SIZE / (time.perf_counter() - start)


def _finish() -> None:
    """Wait for the GPU, which computes behind."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def our_loop(steps: int, *, compiled: bool = False) -> float:
    """Images per second of `train`, checkpoint and sample grid at the end left out."""
    config = TrainingConfig(
        steps=2 * steps, batch_size=BATCH_SIZE, ema_decay=0.99, compile=compiled
    )
    rate, _ = train_model(CONFIG, config, ImageData(random_images().cpu(), None, SHAPE))
    return rate


def matmul_rate(dtype: torch.dtype, size: int = 2048, rounds: int = 8) -> float:
    """Best GFLOP/s of multiplying two square matrices."""
    left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(rounds):
        _finish()
        start = time.perf_counter()
        left @ right
        _finish()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="our networks by torch.compile too")
    return parser


def main() -> None:
    """Print each round's rates and the median ratio."""
    arguments = build_parser().parse_args()
    record = recorder(arguments)
    fp32, bf16 = matmul_rate(torch.float32), matmul_rate(torch.bfloat16)
    print(f"matrix products: fp32 {fp32:.0f}, bf16 {bf16:.0f} GFLOP/s, ratio {bf16 / fp32:.2f}")
    loops: dict[str, Callable[[int], float]] = {
        "plain": plain_loop, "bare": bare_loop, "ours": our_loop,
    }  # fmt: skip
    if arguments.compile:
        loops["compiled"] = partial(our_loop, compiled=True)
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.rounds):
        for name, loop in loops.items():
            rates[name].append(in_own_process(loop, arguments.steps))
        print("   ".join(f"{name} {found[-1]:6.1f}" for name, found in rates.items()), "images/s")
    for name in rates.keys() - {"plain", "bare"}:
        for other in ("plain", "bare"):
            ratios = [ours / its for ours, its in zip(rates[name], rates[other], strict=True)]
            print(f"{name} / {other}: median {statistics.median(ratios):.2f}")
            if name == "ours":
                record(f"dcgan-{other}", rates[name], rates[other], ratios=ratios)


if __name__ == "__main__":
    main()
