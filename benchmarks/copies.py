"""How often copies of training images, and memorised texts, are found by an evaluation.

    python benchmarks/copies.py [PART ...] [--repeats N]

The parts: images, texts; both by default.
"""

import argparse
import random
from collections.abc import Callable

import numpy as np
import torch
from evaluation import digits, image_extractor
from results import Recorder, benchmark_parser, recorder
from torch import Tensor

from aigc_ops.compute.random import Noise
from aigc_ops.modalities.image.metrics.memorisation import ImageFeatures, detect_copies
from aigc_ops.modalities.text.metrics.verbatim import detect_verbatim_copies
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig


def images(record: Recorder, repeats: int = 100) -> None:
    """How often copying is found where a share of the samples are altered copies, and where none.

    Each repeat deals the real digits out anew: 3,000 trained on, 500 held out, 1,000 samples,
    of which a share is replaced by training digits, darker and with noise.
    """
    pixels, _ = digits(4500)
    generator = torch.Generator().manual_seed(0)
    noise = 4 * torch.randn(pixels.shape, generator=generator)
    altered = (0.97 * pixels + noise).round().clamp(0, 255).to(torch.uint8)
    extractor = image_extractor()
    plain = ImageFeatures(pixels, extractor.features(pixels, what="digits"))
    copied = ImageFeatures(altered, extractor.features(altered, what="altered digits"))

    def rows(of: ImageFeatures, index: Tensor) -> ImageFeatures:
        return ImageFeatures(of.images[index], of.features[index.numpy()])

    for share in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2):
        flagged = 0
        for _ in range(repeats):
            order = torch.randperm(len(pixels), generator=generator)
            train, heldout, clean = order.split([3000, 500, 1000])
            num = int(share * len(clean))
            parts = [rows(copied, train[:num]), rows(plain, clean[num:])]
            samples = ImageFeatures(
                torch.cat([part.images for part in parts]),
                np.concatenate([part.features for part in parts]),
            )
            found = detect_copies(
                samples, rows(plain, train), rows(plain, heldout), num_all=len(train)
            )
            assert found is not None
            flagged += found[0].flagged
        print(f"{share:4.0%} copies: flagged in {flagged} of {repeats}", flush=True)
        record(f"copies-{100 * share:.0f}", [100 * flagged / repeats])


def texts(record: Recorder, repeats: int = 50) -> None:
    """Record how often a GPT that has memorised a share of its texts, or none, is flagged.

    Each repeat draws texts of 24 random syllables anew: 80 of training, 60 held out. A small GPT
    has seen a share of the first a hundred times (of none: 20 others), the rest never.
    """
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    for share in (0.0, 0.025, 0.05, 0.1, 0.25):
        flagged = 0
        for seed in range(repeats):
            draw = random.Random(seed)
            train, heldout, others = (
                [" ".join(draw.choices(syllables, k=24)) for _ in range(num)]
                for num in (80, 60, 20)
            )
            model = _taught(train[: round(share * len(train))] or others, num_steps=100)
            data = TextData(train), TextData(heldout)
            found = detect_verbatim_copies(model, *data, num=len(train))
            assert not isinstance(found, str), found
            flagged += found[0].flagged
        print(f"{share:5.1%} memorised: flagged in {flagged} of {repeats}", flush=True)
        record(f"memorised-{1000 * share:.0f}", [100 * flagged / repeats])


def _taught(known: list[str], *, num_steps: int) -> Gpt:
    """Return a GPT of two layers, trained for `num_steps` on all of these texts."""
    torch.manual_seed(0)
    config = GptConfig(
        vocab_size=384, context_length=64, num_layers=2, num_heads=4, width=64, dropout=0.0,
        optimizer={"learning_rate": 3e-3},
    )  # fmt: skip
    model = Gpt.from_data(config, TextData(known))
    examples, optimizer = model.examples(TextData(known)), model.optimizer("network")
    noise = Noise(0, rows=torch.arange(1), batch_size=1, device=torch.device("cpu"))
    for _ in range(num_steps):
        (loss,) = model.losses(examples, noise)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    return model.eval()


PARTS: dict[str, Callable[..., None]] = {"images": images, "texts": texts}


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__, PARTS)
    parser.add_argument("--repeats", type=int)
    return parser


def main() -> None:
    given = build_parser().parse_args()
    record = recorder(given)
    for part in given.parts or PARTS:
        PARTS[part](record, **({"repeats": given.repeats} if given.repeats else {}))


if __name__ == "__main__":
    main()
