import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from aigc_ops import caches
from aigc_ops.artifacts import DatasetRef
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.moments import FeatureSet
from aigc_ops.evaluation.reference import (
    Reference,
    reference_rows,
    reference_statistics,
    reference_terms,
)


class Reader:
    """Gives the features and counts how often it was asked."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features
        self.calls = 0

    def __call__(self) -> FeatureSet:
        self.calls += 1
        return FeatureSet(self.features)


@pytest.fixture
def reader(digits: Tensor, extractor: Extractor) -> Reader:
    return Reader(extractor.features(digits[:8], what="digits"))


def same(a: Reference, b: Reference) -> bool:
    one, other = a.gaussian, b.gaussian
    return (
        np.array_equal(one.mean, other.mean)
        and np.array_equal(one.factor, other.factor)
        and np.array_equal(a.features, b.features)
    )


def test_the_second_run_reads_no_data(extractor: Extractor, reader: Reader, tmp_path: Path) -> None:
    terms = {"reference": "a"}
    first = reference_statistics(reader, terms, extractor, tmp_path)
    second = reference_statistics(reader, terms, extractor, tmp_path)
    assert reader.calls == 1
    assert same(first, second)


def test_other_data_and_other_extractors_have_their_own_statistics(
    extractor: Extractor, reader: Reader, tmp_path: Path
) -> None:
    bf16 = load_extractor(EvaluationConfig(precision="bf16", device="cpu"))
    reference_statistics(reader, {"reference": "a"}, extractor, tmp_path)
    reference_statistics(reader, {"reference": "b"}, extractor, tmp_path)
    reference_statistics(reader, {"reference": "a"}, bf16, tmp_path)
    assert reader.calls == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "loss"])
def test_damaged_statistics_are_computed_again_with_a_warning(
    extractor: Extractor, reader: Reader, tmp_path: Path, damage: str
) -> None:
    first = reference_statistics(reader, {"reference": "a"}, extractor, tmp_path)
    (path,) = tmp_path.glob("*/reference.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    if damage == "loss":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-100])
    with pytest.warns(UserWarning, match=r"computed again: .*reference\.safetensors"):
        second = reference_statistics(reader, {"reference": "a"}, extractor, tmp_path)
    third = reference_statistics(reader, {"reference": "a"}, extractor, tmp_path)
    assert reader.calls == 2
    assert same(first, second)
    assert same(first, third)


def test_of_two_writers_one_computes_and_both_get_the_same(
    extractor: Extractor, reader: Reader, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda _: reference_statistics(reader, {"reference": "a"}, extractor, tmp_path),
                range(2),
            )
        )
    assert reader.calls == 1
    assert same(*found)


def test_what_is_pruned_while_it_is_read_and_written_is_made_again_whole(
    extractor: Extractor, reader: Reader, home: Path
) -> None:
    cache = home / "cache" / "reference"
    first = reference_statistics(reader, {"reference": "a"}, extractor, cache)

    def read(_: int) -> Reference:
        return reference_statistics(reader, {"reference": "a"}, extractor, cache)

    with ThreadPoolExecutor(3) as pool:
        found = pool.map(read, range(30))
        removed = list(pool.map(lambda _: len(caches.prune(0)), range(60)))
        assert all(same(each, first) for each in found)
    assert sum(removed) == reader.calls - len(caches.entries())
    assert reader.calls > 1


def test_an_entry_says_what_it_was_made_of(
    extractor: Extractor, reader: Reader, tmp_path: Path
) -> None:
    reference_statistics(reader, {"reference": "a"}, extractor, tmp_path)
    (path,) = tmp_path.glob("*/reference.json")
    description = json.loads(path.read_text())
    assert description["terms"] == {"reference": "a"}
    assert description["extractor"] == extractor.identity.model_dump(mode="json")


def test_rows_of_the_reference_are_stable_and_miss_no_class() -> None:
    rows = reference_rows(5000, 1000)
    assert rows == reference_rows(5000, 1000) == sorted(set(rows))
    assert len(rows) == 1000
    # Whether classes come one after another or in turn, each keeps about its tenth.
    for class_of in (lambda row: row // 500, lambda row: row % 10):
        counts = np.bincount([class_of(row) for row in rows], minlength=10)
        assert counts.min() > 70
    assert reference_rows(10, 20) == list(range(10))


def opened(path: Path, **settings: object) -> tuple[DatasetRef, DataConfig]:
    config = DataConfig(path=str(path), **settings)
    return open_dataset(config), config


def test_the_reference_is_named_by_all_that_decides_it(image_folder: Path) -> None:
    ref, data = opened(image_folder)
    smaller = opened(image_folder, image_size=16)
    names = [
        reference_terms(ref, data, EvaluationConfig())["reference"],
        reference_terms(ref, data, EvaluationConfig(reference="heldout"))["reference"],
        reference_terms(ref, data, EvaluationConfig(num_reference=10))["reference"],
        reference_terms(*smaller, EvaluationConfig())["reference"],
    ]
    assert len(set(names)) == 4
    again = reference_terms(ref, data, EvaluationConfig(num_samples=7, batch_size=3))
    assert again["reference"] == names[0]


def test_a_split_of_one_row_is_refused(image_folder: Path) -> None:
    ref, data = opened(image_folder)
    lonely = ref.model_copy(update={"num_heldout": 1})
    with pytest.raises(EvaluationError, match="heldout split has 1 rows"):
        reference_terms(lonely, data, EvaluationConfig(reference="heldout"))
