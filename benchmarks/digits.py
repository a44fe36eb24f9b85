"""Whether a model's digits are digits, of every kind, and as various as real ones.

    python benchmarks/digits.py models:/mnist-gan@champion [--num 2000] [--json]

A support-vector classifier trained only on the real training digits judges how many
samples show the class they were asked for; held-out real digits, judged alike, are the
bound. A collapsed model agrees by 100 %, so within each class the standard deviation over
the samples, averaged over the pixels, is set against that of the real digits, and in the
features of EfficientNet-Lite0 samples and training digits are told apart by their nearest
neighbours and their Fréchet distance.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import benchmark_parser, recorder
from sklearn.svm import SVC
from torch import Tensor

from aigc_ops.core.state_dir import export_environment
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.model import ImageModel
from aigc_ops.registry.resolution import resolve
from aigc_ops.sampling import sampler
from aigc_ops.statistics.frechet import Gaussian, frechet_distance
from aigc_ops.statistics.neighbours import neighbour_estimates
from aigc_ops.statistics.reference import reference_rows
from aigc_ops.storage.checkpoints import load_model


class Judge:
    """The sample digits, measured once, and what they say of a model's samples."""

    def __init__(self, num: int) -> None:
        """`num`: of samples, and of the training digits that are their neighbours."""
        config = DataConfig(path="data/mnist")
        dataset = open_dataset(config)
        self.num, self.train = num, read_split(dataset, config, "train")
        heldout = read_split(dataset, config, "heldout")
        self._classifier = SVC(C=5).fit(_flat(self.train.images), self.train.labels.numpy())
        self._bound = self._classifier.score(_flat(heldout.images), heldout.labels.numpy())
        evaluation = EvaluationConfig()
        self._extractor = load_extractor(evaluation.section("image"), evaluation)
        features = self._extractor.features(self.train.images, what="the data")
        self._gaussian = Gaussian.of_features(features)
        self._real = features[reference_rows(len(features), num)]

    def figures(self, model: ImageModel, *, seed: int = 1) -> dict[str, Any]:
        """Label agreement, deviation within classes, neighbours, and Fréchet distance."""
        asked = sampler.requests(model, self.num, seed=seed)
        images = sampler.generate(model, asked, progress=True)
        labels = np.array([request.conditions["label"] for request in asked])
        features = self._extractor.features(images, what="the samples")
        distance = frechet_distance(Gaussian.of_features(features), self._gaussian)
        return {
            "num": self.num,
            **self._classes(images, labels),
            **{n: e.value for n, e in neighbour_estimates(self._real, features).items()},
            self._extractor.metric: distance,
        }

    def _classes(self, images: Tensor, labels: Any) -> dict[str, Any]:
        found = self._classifier.predict(_flat(images))
        deviations = [
            _deviation(images[torch.from_numpy(labels == label)])
            / _deviation(self.train.images[self.train.labels == label])
            for label in range(self.train.shape.num_classes)
        ]
        return {
            "label_agreement": float((found == labels).mean()),
            "real_heldout_agreement": self._bound,
            "classes": len(set(found.tolist())),
            "least_deviation_ratio": min(deviations),
            "mean_deviation_ratio": sum(deviations) / len(deviations),
            "deviation_ratios": deviations,
        }


def _flat(images: Tensor) -> Any:
    return images.flatten(1).numpy() / 255.0


def _deviation(images: Tensor) -> float:
    return images.float().std(dim=0).mean().item()


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    """Judge one model."""
    arguments = build_parser().parse_args()
    record = recorder(arguments)
    export_environment()
    model = load_model(Path(resolve(arguments.model).uri))
    result = Judge(arguments.num).figures(model)
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))
    real = 100 * result["real_heldout_agreement"]
    record("digits-agreement", [100 * result["label_agreement"]], [real])
    record("digits-classes", [result["classes"]])
    record("digits-deviation", [result["least_deviation_ratio"]])


if __name__ == "__main__":
    main()
