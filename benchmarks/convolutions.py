"""Milliseconds of the weights' gradient of strided convolutions, torch's own and ours.

    python benchmarks/convolutions.py [--threads 1]

The figures of aigc_ops/models/nn/convolutions.py; CPU time, which neighbours disturb least.
"""

import argparse
import time
from collections.abc import Callable

import torch
from results import benchmark_parser, recorder
from torch import Tensor

from aigc_ops.models.nn.convolutions import _patches

# Images in a batch, channels in and out, places a side before, side of the weights.
CASES = [
    (64, 64, 128, 32, 4),
    (64, 128, 256, 16, 4),
    (64, 256, 512, 8, 4),
    (100, 256, 512, 7, 4),
    (100, 512, 1024, 3, 4),
]


def milliseconds(work: Callable[[], object], *, rounds: int = 4) -> float:
    """Least CPU time of some rounds."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return 1000 * min(found)


def theirs(images: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient as torch computes it."""
    return torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1,
        [False, True, False],
    )[1]  # fmt: skip


def ours(images: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient as a matrix product."""
    rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    return rows.T @ _patches(images, weight.shape[2], 2, 1)


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main() -> None:
    """Print one line per case and precision; record the last case, with the smallest map."""
    given = build_parser().parse_args()
    torch.set_num_threads(given.threads)
    record = recorder(given)
    for dtype in (torch.bfloat16, torch.float32):
        for batch, channels, wide, size, side in CASES:
            images, weight = (
                torch.randn(batch, channels, size, size),
                torch.randn(wide, channels, side, side),
            )
            places = (size + 2 - side) // 2 + 1
            tensors = [
                tensor.to(dtype, memory_format=torch.channels_last)
                for tensor in (images, weight, torch.randn(batch, wide, places, places))
            ]
            spent = [milliseconds(lambda f=f, t=tensors: f(*t)) for f in (theirs, ours)]
            precision = str(dtype).removeprefix("torch.")
            print(
                f"{precision:9}{channels:5} to {wide:4} channels, "
                f"{places:2} places a side: torch {spent[0]:6.1f} ms, ours {spent[1]:6.1f} ms"
            )
        record(f"convolutions-{precision}", spent[1:], spent[:1], ratios=[spent[0] / spent[1]])


if __name__ == "__main__":
    main()
