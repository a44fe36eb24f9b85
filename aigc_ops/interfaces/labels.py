"""Class names of a dataset, and labels of rows as integers."""

from collections.abc import Mapping

from aigc_ops.core.errors import DataError
from aigc_ops.interfaces.row import Label, Row


def class_names(train: Mapping[Label, int], heldout: Mapping[Label, int]) -> tuple[str, ...]:
    """Return the names of labels 0..K-1, given the number of rows per label in each split.

    Named classes are sorted, numerically when all names are numbers. For integer labels, K is
    the number of distinct labels in the training split. Labels on fewer rows than 1 % of the
    average class are treated as labelling errors and not counted.
    """
    labels = {label for label in {*train, *heldout} if label is not None}
    names = {label for label in labels if isinstance(label, str)}
    # 1. Classes with names. Numbers stored as text are sorted by value: "10" comes after "9".
    if names:
        numbered = all(name.isdecimal() for name in names)
        return tuple(sorted(names, key=lambda name: (int(name) if numbered else 0, name)))
    # 2. Integer labels. K is not the largest label plus 1, and rare labels do not count, so that
    # a wrong label adds no class. It is outside 0..K-1 instead, and validation names its row.
    counts = [num for label, num in train.items() if isinstance(label, int) and label >= 0]
    num_classes = sum(num * 100 * len(counts) >= sum(counts) for num in counts)
    return tuple(str(label) for label in range(num_classes))


def label_index(label: Label, names: tuple[str, ...]) -> int | None:
    """Return the label as an integer: itself, or the index of its name (-1: unknown)."""
    if isinstance(label, str):
        return names.index(label) if label in names else -1
    return label


def class_of(row: Row, names: tuple[str, ...]) -> int:
    """Return the index of a row's class; raises DataError naming a row without a class."""
    label = label_index(row.label, names)
    if label is None or not 0 <= label < len(names):
        raise DataError(f"{row.name}: label {label} is outside 0..{len(names) - 1}")
    return label
