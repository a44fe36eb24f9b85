"""What a stage's result is kept under."""

from pathlib import Path

from aigc_ops.pipeline import stage_records
from aigc_ops.pipeline.run_config import parse_config


def test_a_result_is_not_reused_once_a_file_that_its_stage_names_has_changed(
    tmp_path: Path,
) -> None:
    (general := tmp_path / "general.txt").write_text("one")
    values = {
        "name": "mine",
        "data": {"path": "d"},
        "model": {"family": "gpt"},
        "evaluation": {"text": {"general_path": str(general)}},
    }
    config = parse_config(values, source="test")

    def keys() -> list[str]:
        stages = {"train": ("data", "model", "training"), "evaluate": ("data", "evaluation")}
        return [stage_records.key(name, config, parts, []) for name, parts in stages.items()]

    training, evaluation = keys()
    assert keys() == [training, evaluation]
    general.write_text("another")
    assert keys()[0] == training
    assert keys()[1] != evaluation
