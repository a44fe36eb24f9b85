"""Whether a model's digits are digits, of every kind, and by more than one hand.

    python benchmarks/digits.py models:/mnist-gan@champion [--num 2000] [--json]

A support-vector classifier trained only on the real training digits judges how many
samples show the class they were asked for; held-out real digits, judged alike, are the
bound. A collapsed model agrees by 100 %, so within each class the standard deviation over
the samples, averaged over the pixels, is set against that of the real digits.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC

from aigc_ops import sampling
from aigc_ops.checkpoints import load_model
from aigc_ops.data.config import DataConfig
from aigc_ops.data.opening import open_dataset
from aigc_ops.data.reading import read_split
from aigc_ops.generative import ImageData, ImageModel
from aigc_ops.home import export_environment
from aigc_ops.registry.resolution import resolve


def judge(model: ImageModel, train: ImageData, heldout: ImageData, *, num: int) -> dict[str, Any]:
    """Label agreement, classes seen, and each class's deviation over the real one."""
    assert train.labels is not None
    assert heldout.labels is not None
    classifier = SVC(C=5).fit(_flat(train.images), train.labels.numpy())
    asked = sampling.requests(model, num, seed=1)
    images = sampling.draw(model, asked, progress=True)
    labels = np.array([request.label for request in asked])
    found = classifier.predict(_flat(images))
    deviations = [
        _deviation(images[torch.from_numpy(labels == label)])
        / _deviation(train.images[train.labels == label])
        for label in range(model.shape.num_classes)
    ]
    return {
        "num": num,
        "label_agreement": float((found == labels).mean()),
        "real_heldout_agreement": classifier.score(_flat(heldout.images), heldout.labels.numpy()),
        "classes": len(set(found.tolist())),
        "least_deviation_ratio": min(deviations),
        "deviation_ratios": deviations,
    }


def _flat(images: torch.Tensor) -> Any:
    return images.flatten(1).numpy() / 255.0


def _deviation(images: torch.Tensor) -> float:
    return images.float().std(dim=0).mean().item()


def main() -> None:
    """Judge one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    export_environment()
    config = DataConfig(path="data/mnist")
    dataset = open_dataset(config)
    model = load_model(Path(resolve(arguments.model).uri))
    train, heldout = (read_split(dataset, config, split) for split in ("train", "heldout"))
    result = judge(model, train, heldout, num=arguments.num)
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
