"""Whether a conditional model draws the class it was asked for, and not one image of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.intervals import Estimate, jackknife

Features = NDArray[np.floating]
Labels = NDArray[np.int64]

RIDGE = 1.0
TESTED = 5
"""Every fifth real image tests the classifier, the others teach it."""
MIN_OF_A_CLASS = 10


def num_tested(num_real: int) -> int:
    """Real images of so many on which the classifier is tested."""
    return -(-num_real // TESTED)


class Probe:
    """A linear classifier of real features: ridge regression on one column a class."""

    def __init__(self, features: Features, labels: Labels, num_classes: int) -> None:
        self._centre, self._scale = features.mean(axis=0), features.std() + 1e-12
        rows = self._rows(features)
        wanted = np.eye(num_classes)[labels] - 1 / num_classes
        gram = rows.T @ rows + RIDGE * np.eye(rows.shape[1])
        self._weights = np.linalg.solve(gram, rows.T @ wanted)

    def _rows(self, features: Features) -> NDArray[np.float64]:
        rows = (features - self._centre) / self._scale
        return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)

    def classes(self, features: Features) -> Labels:
        """The likeliest class of each row."""
        return np.asarray((self._rows(features) @ self._weights).argmax(axis=1), dtype=np.int64)


def class_estimates(
    real: Features, real_labels: Labels, drawn: Features, asked: Labels, num_classes: int
) -> dict[str, Estimate]:
    """Agreement of samples with the label asked for, that of real images, and class spread.

    `label_agreement` is told by a linear probe that learnt four fifths of the real images;
    `real_label_agreement` is what it tells of the others, the most that can be expected.
    `class_spread` is the least ratio over the classes of the samples' mean squared distance
    from their class's centre to the real images': 0 for a class that is one image. It is
    left out when a class has fewer than 10 images on either side.
    """
    tested = np.arange(len(real)) % TESTED == 0
    if min(tested.sum(), (~tested).sum()) < num_classes:
        return {}
    probe = Probe(real[~tested], real_labels[~tested], num_classes)
    right = probe.classes(drawn) == asked
    right_of_real = probe.classes(real[tested]) == real_labels[tested]
    found = {
        "label_agreement": jackknife(lambda kept: float(right[kept].mean()), len(right), most=1.0),
        "real_label_agreement": jackknife(
            lambda kept: float(right_of_real[kept].mean()), len(right_of_real), most=1.0
        ),
    }
    counts = [np.bincount(labels, minlength=num_classes) for labels in (real_labels, asked)]
    if min(count.min() for count in counts) >= MIN_OF_A_CLASS:
        spreads = [_spread(real[real_labels == label]) for label in range(num_classes)]

        def least(kept: NDArray[np.bool_]) -> float:
            return _least_ratio(drawn[kept], asked[kept], spreads)

        found["class_spread"] = jackknife(least, len(drawn))
    return found


def _spread(features: Features) -> float:
    """Mean squared distance of rows from their centre."""
    return float(features.var(axis=0, ddof=1).sum()) if len(features) > 1 else 0.0


def _least_ratio(features: Features, labels: Labels, real: Sequence[float]) -> float:
    return min(
        _spread(features[labels == label]) / max(spread, 1e-12) for label, spread in enumerate(real)
    )
