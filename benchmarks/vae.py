"""Our loop against pythae's own trainer, on the networks of its MNIST benchmark.

    python benchmarks/vae.py --peer-env FOLDER [--rounds 3] [--epochs 4] [--threads 2] [--images N]

Same networks, digits, batches, optimiser, rate and epochs; they take turns in one run, so
that a noisy machine disturbs both: quote the ratio. Both sides' weights are then judged by
the same code: their bound on held-out digits in nats an image (after one epoch it differs
by 14 between seeds: take several). pythae does not install
beside the rest, so FOLDER is an environment of its own, made when it is missing.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import peer_python, train_model
from results import benchmark_parser, recorder

from aigc_ops import models
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.context import make_context
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.modalities.image.metrics.likelihood import score_heldout
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.training import TrainingConfig

PEER = Path(__file__).parent / "peer"
models.__path__.append(str(PEER))  # where a family of benchmarks alone lies
BATCH_SIZE, LATENT_DIM, WARMUP_STEPS = 100, 16, 10
LEARNING_RATE = 1e-4
DATA = DataConfig(path="data/mnist", label_column=None)


def theirs(
    python: Path, images: torch.Tensor, *, epochs: int, seed: int, threads: int
) -> tuple[float, Any]:
    """Images per second of pythae's trainer, and our model with the weights it found."""
    from aigc_ops.models.pythae_vae import PythaeVae, PythaeVaeConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(images.float() / 255, folder / "images.pt")
        settings = {
            "epochs": epochs,
            "seed": seed,
            "threads": threads,
            "batch_size": BATCH_SIZE,
            "latent_dim": LATENT_DIM,
            "learning_rate": LEARNING_RATE,
            "warmup_steps": WARMUP_STEPS,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        done = subprocess.run(
            [str(python), str(PEER / "train_pythae.py"), str(folder / "settings.json")],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        weights = torch.load(folder / "weights.pt", weights_only=True)
    model = PythaeVae(
        PythaeVaeConfig(latent_dim=LATENT_DIM), ImageShape(channels=1, height=28, width=28)
    )
    model.autoencoder.load_state_dict(weights)
    return json.loads(done.stdout.splitlines()[-1])["rate"], model


def ours(data: ImageData, *, epochs: int, seed: int) -> tuple[float, Any]:
    """Images per second of `train`, and the model it ends with."""
    from aigc_ops.models.pythae_vae import PythaeVaeConfig

    steps = epochs * (len(data) // BATCH_SIZE)
    config = TrainingConfig(
        steps=steps, batch_size=BATCH_SIZE, sample_every=steps, checkpoint_every=steps,
        watch={"every": steps, "action": "off"},
    )  # fmt: skip
    adam = AdamConfig(learning_rate=LEARNING_RATE)
    model = PythaeVaeConfig(latent_dim=LATENT_DIM, autoencoder=adam)
    return train_model(model, config, data, seed=seed)


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--peer-env", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, help="train on the first images only; default: all")
    return parser


def main() -> None:
    """Print each round's rates and bounds, and the median ratio."""
    arguments = build_parser().parse_args()
    record = recorder(arguments)
    torch.set_num_threads(arguments.threads)
    python = peer_python(arguments.peer_env, "pythae==0.1.2")
    ref = open_dataset(DATA)
    whole = read_split(ref, DATA, "train")
    data = ImageData(whole.images[: arguments.images], None, whole.shape)
    config = EvaluationConfig(image={"num_draws": 8})
    context = make_context(ref, DATA, config, seed=0, cache=Path())
    ratios = []
    bounds: dict[str, list[float]] = {"pythae": [], "ours": []}
    rates: dict[str, list[float]] = {"pythae": [], "ours": []}
    for seed in range(arguments.rounds):
        found = {
            "pythae": theirs(
                python, data.images, epochs=arguments.epochs, seed=seed, threads=arguments.threads
            ),
            "ours": ours(data, epochs=arguments.epochs, seed=seed),
        }
        for name, (rate, model) in found.items():
            scores, _ = score_heldout(model.eval(), context)
            print(f"{name:7} {rate:7.1f} images/s   held-out elbo {scores['elbo'].value:.2f}")
            bounds[name].append(scores["elbo"].value)
            rates[name].append(rate)
        ratios.append(found["ours"][0] / found["pythae"][0])
        print(f"ours / pythae: {ratios[-1]:.2f}", flush=True)
    print(f"median of {len(ratios)}: {statistics.median(ratios):.2f}")
    for name, reached in bounds.items():
        print(f"{name:7} mean held-out elbo {statistics.mean(reached):.2f}")
    record("vae-rate", rates["ours"], rates["pythae"], ratios=ratios)
    record("vae-bound", bounds["ours"], bounds["pythae"], average=statistics.mean)


if __name__ == "__main__":
    main()
