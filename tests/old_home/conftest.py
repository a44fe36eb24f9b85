"""The old home, unpacked at its place, and the command line of the code under test in it."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from aigc_ops.data import DataConfig
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.evaluation import EvaluationConfig
from aigc_ops.promotion.config import PromotionConfig
from tests.flows.conftest import Console, Workplace
from tests.old_home.place import FACTS, PLACE, unpacked


@pytest.fixture(scope="session")
def facts() -> Any:
    """What was recorded of the home when it was made."""
    return json.loads(FACTS.read_text())


@pytest.fixture(scope="module")
def old() -> Iterator[Workplace]:
    """The home as it was made; no other test has it meanwhile."""
    with unpacked() as home:
        yield Workplace(home, PLACE / "configs" / "stripes.yaml")


@pytest.fixture(scope="module")
def console(old: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The command line in the old home."""
    console = Console(old, tmp_path_factory.mktemp("console"))
    yield console
    console.close()


RENAMED: dict[str, str] = {
    ".contract.code": ".contract.version",  # the digest of all code
    **{
        f"{stage}.{old}": f"{stage}.{new}"
        for stage, kind in {
            "data": DataConfig,
            "validation": ValidationConfig,
            "evaluation": EvaluationConfig,
            "promotion": PromotionConfig,
        }.items()
        for old, new in kind.former_paths().items()
    },
}
"""Ends of names that were changed on purpose, and what they are now: old records are read still."""


def missing(recorded: dict[str, list[str]], found: dict[str, Any]) -> dict[str, list[str]]:
    """The recorded names that are not among those found, by where they were."""
    lost = {
        what: [name for name in names if not _is_among(name, found.get(what, ()))]
        for what, names in recorded.items()
    }
    return {what: names for what, names in lost.items() if names}


def _is_among(name: str, names: Iterable[str]) -> bool:
    """Whether a name is there; one that had no value may have parts now."""
    now = [name, *(name.removesuffix(o) + n for o, n in RENAMED.items() if name.endswith(o))]
    now += [name.replace(f"{o}.", f"{n}.") for o, n in RENAMED.items() if f"{o}." in name]
    parts = tuple(f"{each}{mark}" for each in now for mark in (".", "[]"))
    return any(each in now or each.startswith(parts) for each in names)
