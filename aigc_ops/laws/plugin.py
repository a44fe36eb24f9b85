"""Options of `pytest --pyargs aigc_ops.laws`, as a pytest plugin.

pytest reads the `conftest.py` of an installed package after the command line, too late for
options. So an entry point in the group `pytest11` names this module, and every run of pytest
imports it: keep its imports few.
"""

from typing import NamedTuple

import pytest

_FAMILIES, _SETTINGS = "aigc_ops_families", "aigc_ops_family_config"


class Selection(NamedTuple):
    """Families to test."""

    families: list[str]
    settings: str | None
    """Config fields of the only family as JSON; None for the settings of `cases.CONFIGS`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--family` and `--family-config`."""
    group = parser.getgroup("aigc-ops", "laws of model families (--pyargs aigc_ops.laws)")
    group.addoption(
        "--family",
        action="append",
        dest=_FAMILIES,
        metavar="NAME",
        help="model family to test; may be repeated (default: all families)",
    )
    group.addoption(
        "--family-config",
        dest=_SETTINGS,
        metavar="JSON",
        help="config fields of the family, such as '{\"width\": 8}'",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Raise pytest.UsageError for an unknown family or invalid settings."""
    # Before tests are collected: an error in collection would be shown with its traceback.
    if config.getoption(_FAMILIES) or config.getoption(_SETTINGS):
        selection(config)


def selection(config: pytest.Config) -> Selection:
    """Return the selected families; raises pytest.UsageError for an invalid option."""
    from pydantic import ValidationError

    from aigc_ops.core.errors import AigcOpsError
    from aigc_ops.laws.cases import small_configs
    from aigc_ops.models import family_names

    named: list[str] = config.getoption(_FAMILIES, default=None) or family_names()
    families = list(dict.fromkeys(named))
    settings: str | None = config.getoption(_SETTINGS, default=None)
    if settings is not None and len(families) != 1:
        raise pytest.UsageError("--family-config needs exactly one --family NAME")
    for family in families:
        try:
            small_configs(family, settings)
        except AigcOpsError as error:
            raise pytest.UsageError(str(error)) from error
        except ValidationError as error:
            raise pytest.UsageError(
                f"{error}\ngive valid settings with --family {family} --family-config JSON"
            ) from error
    return Selection(families, settings)
