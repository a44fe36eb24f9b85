import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from aigc_ops.core import caches
from aigc_ops.core.artifacts import DatasetRef, ImageShape
from aigc_ops.core.errors import EvaluationError
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.context import make_context
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics.splits import image_terms
from aigc_ops.modalities.text.metrics.score import text_terms
from aigc_ops.statistics import reference
from aigc_ops.statistics.moments import FeatureSet
from aigc_ops.statistics.reference import (
    Reference,
    reference_rows,
    reference_statistics,
)
from tests.evaluation.conftest import image_extractor


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
    first = reference_statistics(reader, terms, extractor, tmp_path, version=1)
    second = reference_statistics(reader, terms, extractor, tmp_path, version=1)
    assert reader.calls == 1
    assert same(first, second)


def test_other_data_and_other_extractors_have_their_own_statistics(
    extractor: Extractor, reader: Reader, tmp_path: Path
) -> None:
    bf16 = image_extractor(precision="bf16")
    reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=1)
    reference_statistics(reader, {"reference": "b"}, extractor, tmp_path, version=1)
    reference_statistics(reader, {"reference": "a"}, bf16, tmp_path, version=1)
    assert reader.calls == 3


def test_another_version_of_the_evaluation_or_a_package_has_its_own_statistics(
    extractor: Extractor, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 2):
        reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=version)
    assert reader.calls == 2
    monkeypatch.setattr(reference, "package_version", lambda name: f"{name} of tomorrow")
    reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=2)
    assert reader.calls == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "loss"])
def test_damaged_statistics_are_computed_again_with_a_warning(
    extractor: Extractor, reader: Reader, tmp_path: Path, damage: str
) -> None:
    first = reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=1)
    (path,) = tmp_path.glob("*/reference.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    if damage == "loss":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-100])
    with pytest.warns(UserWarning, match=r"computed again: .*reference\.safetensors"):
        second = reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=1)
    third = reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=1)
    assert reader.calls == 2
    assert same(first, second)
    assert same(first, third)


def test_of_two_writers_one_computes_and_both_get_the_same(
    extractor: Extractor, reader: Reader, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda _: reference_statistics(
                    reader, {"reference": "a"}, extractor, tmp_path, version=1
                ),
                range(2),
            )
        )
    assert reader.calls == 1
    assert same(*found)


def test_what_is_pruned_while_it_is_read_and_written_is_made_again_whole(
    extractor: Extractor, reader: Reader, home: Path
) -> None:
    cache = home / "cache" / "reference"
    first = reference_statistics(reader, {"reference": "a"}, extractor, cache, version=1)

    def read(_: int) -> Reference:
        return reference_statistics(reader, {"reference": "a"}, extractor, cache, version=1)

    with ThreadPoolExecutor(3) as pool:
        found = pool.map(read, range(30))
        removed = list(pool.map(lambda _: len(caches.prune(0)), range(60)))
        assert all(same(each, first) for each in found)
    assert sum(removed) == reader.calls - len(caches.entries())
    assert reader.calls > 1


def test_an_entry_says_what_it_was_made_of(
    extractor: Extractor, reader: Reader, tmp_path: Path
) -> None:
    reference_statistics(reader, {"reference": "a"}, extractor, tmp_path, version=1)
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


def terms_of(
    path: Path, *, split: str = "train", num_reference: int = 5000, **settings: object
) -> dict[str, object]:
    data = DataConfig(path=str(path), **settings)
    config = EvaluationConfig(num_reference=num_reference)
    context = make_context(open_dataset(data), data, config, seed=0, cache=path)
    return image_terms(context, split)


def test_the_reference_is_named_by_all_that_decides_it(image_folder: Path) -> None:
    names = [
        terms_of(image_folder)["reference"],
        terms_of(image_folder, split="heldout")["reference"],
        terms_of(image_folder, num_reference=10)["reference"],
        terms_of(image_folder, image_size=16)["reference"],
    ]
    assert len(set(names)) == 4
    assert terms_of(image_folder, memory_gb=1)["reference"] == names[0]


def test_a_split_of_one_row_is_refused(image_folder: Path) -> None:
    data = DataConfig(path=str(image_folder))
    lonely = open_dataset(data).model_copy(update={"num_heldout": 1})
    context = make_context(lonely, data, EvaluationConfig(), seed=0, cache=image_folder)
    with pytest.raises(EvaluationError, match="heldout split has 1 rows"):
        image_terms(context, "heldout")


@pytest.mark.parametrize(
    ("modality", "digest"),
    [
        ("image", "0c27641229ad68e33a015edb031574a157e3e92c5c02cf4947931e26b51da572"),
        ("text", "eb2bc819bc2ab236c095e01e4cee8fa8ed467ed7a815a75340d687628f6cd183"),
    ],
)
def test_references_keep_their_names(modality: str, digest: str) -> None:
    """So that scores of before modalities had sections of their own still compare."""
    shape = ImageShape(channels=1, height=8, width=8, class_names=("a", "b"))
    ref = DatasetRef(
        uri="/data",
        modality=modality,
        content_digest="c" * 64,
        num_train=400,
        num_heldout=100,
        image_shape=shape if modality == "image" else None,
    )
    context = make_context(ref, DataConfig(path="/data"), EvaluationConfig(), seed=0, cache=Path())
    terms = image_terms(context, "train") if modality == "image" else text_terms(context)
    assert terms["reference"] == digest
