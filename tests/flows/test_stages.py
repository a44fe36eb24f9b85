"""What a cached stage's result is kept under."""

from pathlib import Path
from typing import Any, cast

from aigc_ops.config import parse_config
from flows.stages import _cache_key


def test_a_cached_result_is_not_believed_once_a_file_that_its_stage_names_has_changed(
    tmp_path: Path,
) -> None:
    (general := tmp_path / "general.txt").write_text("one")
    values = {
        "name": "mine",
        "data": {"path": "d"},
        "model": {"family": "gpt"},
        "evaluation": {"general_path": str(general)},
    }
    config = parse_config(values, source="test")

    def keys() -> list[str]:
        stages = (("data", "model", "training"), ("data", "evaluation"))
        return [_cache_key(sections, cast("Any", None), {"config": config}) for sections in stages]

    training, evaluation = keys()
    assert keys() == [training, evaluation]
    general.write_text("another")
    assert keys()[0] == training
    assert keys()[1] != evaluation
