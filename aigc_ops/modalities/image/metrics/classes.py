"""Metrics of class-conditional models: agreement with the label, spread within a class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.intervals import Estimate, jackknife, ratio_of_means

Features = NDArray[np.floating]
Labels = NDArray[np.int64]

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
PROBE = "ridge regression, penalty by leave-one-out accuracy"
TEST_EVERY = 5  # every fifth real image is in the test split of the classifier
MIN_IMAGES_PER_CLASS = 10


def num_tested(num_real: int) -> int:
    """Return the number of real images, out of `num_real`, in the classifier's test split."""
    return -(-num_real // TEST_EVERY)  # rounded up: the split has rows 0, 5, 10, ...


class Probe:
    """A linear classifier of features: ridge regression with one target per class.

    The penalty is the one of PENALTIES with the highest leave-one-out accuracy.
    """

    def __init__(self, features: Features, labels: Labels, num_classes: int) -> None:
        # One scale for all features keeps their relative sizes, which the distance uses too.
        self._centre, self._scale = features.mean(axis=0), features.std() + 1e-12
        rows = self._rows(features)
        wanted = np.eye(num_classes)[labels] - 1 / num_classes
        # Closed form, so the probe has no seed and no optimiser that a score could depend on.
        eigenvalues, vectors = np.linalg.eigh(rows.T @ rows)
        rotated = rows @ vectors
        projected = rotated.T @ wanted
        best, most = PENALTIES[0], -1
        for penalty in PENALTIES:
            shrunk = 1 / (eigenvalues.clip(min=0) + penalty)
            # Leave-one-out residuals of a linear smoother (Allen 1974): r / (1 - leverage).
            leverage = np.square(rotated) @ shrunk
            residuals = wanted - rotated @ (shrunk[:, None] * projected)
            left_out = wanted - residuals / (1 - leverage).clip(min=1e-12)[:, None]
            num_correct = int((left_out.argmax(axis=1) == labels).sum())
            if num_correct > most:
                best, most = penalty, num_correct
        self.penalty = best
        shrunk = 1 / (eigenvalues.clip(min=0) + best)
        self._weights = vectors @ (shrunk[:, None] * projected)

    def _rows(self, features: Features) -> NDArray[np.float64]:
        rows = (features - self._centre) / self._scale
        return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)

    def classes(self, features: Features) -> Labels:
        """Return the most likely class of each row."""
        return np.asarray((self._rows(features) @ self._weights).argmax(axis=1), dtype=np.int64)


def class_estimates(
    real: Features, real_labels: Labels, samples: Features, requested: Labels, num_classes: int
) -> dict[str, Estimate]:
    """Return label agreement of samples and of real images, and the class spread.

    `label_agreement` is the accuracy on samples of a linear probe that was fitted to four fifths
    of the real images. `real_label_agreement` is its accuracy on the other fifth, which is what
    it would say of perfect samples. `label_agreement_ratio` is the first over the second. It is
    omitted if the probe recognises no real image. `class_spread` is the minimum over classes of a
    ratio: the samples' mean squared distance from their class's centre over that of the real
    images. It is 0 for a class that is one image, and omitted if a class has fewer than 10 images
    on either side.
    """
    # 1. Fit the probe and measure its accuracy on samples and on the real test split.
    is_test = np.arange(len(real)) % TEST_EVERY == 0
    if min(is_test.sum(), (~is_test).sum()) < num_classes:
        return {}
    probe = Probe(real[~is_test], real_labels[~is_test], num_classes)
    is_correct = probe.classes(samples) == requested
    is_correct_real = probe.classes(real[is_test]) == real_labels[is_test]
    estimates = {
        "label_agreement": jackknife(
            lambda kept: float(is_correct[kept].mean()), len(is_correct), most=1.0
        ),
        "real_label_agreement": jackknife(
            lambda kept: float(is_correct_real[kept].mean()), len(is_correct_real), most=1.0
        ),
    }
    if is_correct_real.any():
        estimates["label_agreement_ratio"] = ratio_of_means(is_correct, is_correct_real)
    # 2. The spread finds a class that collapsed to one image, whose label agreement is perfect.
    counts = [np.bincount(labels, minlength=num_classes) for labels in (real_labels, requested)]
    if min(count.min() for count in counts) >= MIN_IMAGES_PER_CLASS:
        spreads = [_spread(real[real_labels == label]) for label in range(num_classes)]

        def least(kept: NDArray[np.bool_]) -> float:
            return _least_ratio(samples[kept], requested[kept], spreads)

        estimates["class_spread"] = jackknife(least, len(samples))
    return estimates


def _spread(features: Features) -> float:
    """Return the mean squared distance of rows from their centre, the trace of the covariance."""
    return float(features.var(axis=0, ddof=1).sum()) if len(features) > 1 else 0.0


def _least_ratio(features: Features, labels: Labels, real: Sequence[float]) -> float:
    return min(
        _spread(features[labels == label]) / max(spread, 1e-12) for label, spread in enumerate(real)
    )
