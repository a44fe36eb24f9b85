"""A run's record speaks for a run that was not made again only while all of it stands."""

from pathlib import Path

import pytest

from aigc_ops.core.artifacts import RunResult, ValidationReport, Verdict
from aigc_ops.core.errors import RegistryError
from aigc_ops.pipeline import run_cache
from aigc_ops.pipeline.run_cache import RunRecord
from aigc_ops.provenance.code_version import code_digest
from aigc_ops.registry.client import connect
from aigc_ops.registry.registration import register
from tests.registry.conftest import DATASET, MakeCheckpoint, crown, scores_of


@pytest.fixture
def result(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> RunResult:
    """Of a run whose version, the second, did not become champion."""
    champion = register(make_checkpoint(1), None, name="digits")
    crown(champion)
    checkpoint = make_checkpoint(2)
    version = register(checkpoint, None, name="digits")
    for name in ("report.json", "index.html", "report.html"):
        (tmp_path / name).write_text(name)
    report = ValidationReport(
        success=True,
        dataset_digest=DATASET.content_digest,
        num_expectations=1,
        num_rows=500,
        json_uri=str(tmp_path / "report.json"),
        html_uri=str(tmp_path / "index.html"),
    )
    scores = scores_of(checkpoint, 9).model_copy(
        update={"report_uri": str(tmp_path / "report.html")}
    )
    return RunResult(
        name="digits",
        dataset=DATASET,
        report=report,
        checkpoint=checkpoint,
        scores=scores,
        version=version,
        verdict=Verdict(
            model=version, promoted=False, alias="challenger", champion=champion, reasons=()
        ),
        bento=None,
    )


def kept(result: RunResult, *references: str) -> None:
    record = RunRecord(
        code_digest=code_digest(),
        data_path="data",
        data_digest=run_cache.quick_digest("data"),
        inputs=run_cache.input_digests(references),
        packaged=False,
        result=result,
    )
    run_cache.save("key", record)


def test_an_unchanged_run_is_recalled(result: RunResult) -> None:
    kept(result, "models:/digits@champion")
    assert run_cache.load_if_valid("key") == result


def test_a_challenger_deleted_by_hand_is_not_recalled(result: RunResult) -> None:
    kept(result)
    connect().delete_model_version("digits", str(result.version.version))
    assert run_cache.load_if_valid("key") is None


def test_a_run_whose_files_are_gone_is_not_recalled(result: RunResult, tmp_path: Path) -> None:
    kept(result)
    folder = Path(result.checkpoint.uri)
    files = [tmp_path / name for name in ("report.json", "index.html", "report.html")]
    for path in (*files, folder / "model.safetensors", folder):
        away = path.rename(path.with_name("away"))
        assert run_cache.load_if_valid("key") is None, path
        away.rename(path)
        assert run_cache.load_if_valid("key") == result


def test_a_run_is_not_recalled_once_an_alias_that_it_names_has_moved(result: RunResult) -> None:
    connect().set_registered_model_alias("digits", "base", "1")
    kept(result, "models:/digits@base")
    assert run_cache.load_if_valid("key") == result
    connect().set_registered_model_alias("digits", "base", "2")
    assert run_cache.load_if_valid("key") is None
    connect().delete_registered_model_alias("digits", "base")
    with pytest.raises(RegistryError, match="digits@base does not exist"):
        run_cache.load_if_valid("key")


def test_a_run_is_not_recalled_once_a_file_that_it_names_has_changed(
    result: RunResult, tmp_path: Path
) -> None:
    (named := tmp_path / "weights.pth").write_bytes(b"one")
    kept(result, str(named))
    assert run_cache.load_if_valid("key") == result
    named.write_bytes(b"another")
    assert run_cache.load_if_valid("key") is None
