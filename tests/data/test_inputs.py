"""Every input of the table in docs/data.md is read rightly or refused by name."""

from pathlib import Path

import pytest

from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.data.reading import describe
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.manifest import read_manifest
from aigc_ops.data.validation.suite import validate
from aigc_ops.interfaces.ingestion import SPLITS
from aigc_ops.modalities.text.model import TextData
from tests.conftest import ROOT
from tests.data.inputs import INPUTS, table_of_inputs
from tests.data.inputs.making import Input, Read, Refused


def read_all(config: DataConfig) -> None:
    ref = open_dataset(config)
    for split in SPLITS:
        read_split(ref, config, split)


@pytest.mark.parametrize("case", INPUTS, ids=lambda case: case.name)
def test_an_input_is_read_rightly_or_refused_by_name(tmp_path: Path, case: Input) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = case.make(folder) or folder
    config = DataConfig(path=str(path), **{"heldout_fraction": 0.3, **case.settings})
    if isinstance(case.result, Refused) and case.result.by_validation:
        rules, ref = ValidationConfig(), open_dataset(config)
        failures = validate(ref, config, rules, folder=tmp_path / "report").failures
        assert any(failure.endswith(case.result.words) for failure in failures)
        return
    if isinstance(case.result, Refused):
        with pytest.raises(DataError) as error:
            read_all(config)
        assert case.result.words in str(error.value)
        return
    ref = open_dataset(config)
    found = describe(ref, config)
    expected: Read = case.result
    assert found.num_rows == expected.rows
    assert found.columns == expected.columns
    assert found.labels_from == expected.labels
    assert {group.reason for group in found.unread} == {*expected.unread}
    assert sum(group.count for group in found.dropped) == expected.left_out
    assert bool(found.noted) == bool(expected.noted)
    assert all(expected.noted in group.reason for group in found.noted)
    splits = [read_split(ref, config, split) for split in SPLITS]
    assert sum(map(len, splits)) == expected.rows
    prompts = [p for data in splits if isinstance(data, TextData) for p in data.prompts or ()]
    assert (expected.prompt in prompts) if expected.prompt else not prompts
    manifest = read_manifest(ref, config)
    assert manifest["error"].isna().all()
    assert manifest["split"].notna().sum() == expected.rows
    if ref.class_names:
        assert manifest["label"].notna().all()
    assert len(manifest) >= ValidationConfig().min_train_rows


def test_the_table_of_the_docs_is_that_of_the_inputs() -> None:
    assert len(INPUTS) >= 100
    assert len({case.name for case in INPUTS}) == len(INPUTS)
    assert table_of_inputs() in (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
