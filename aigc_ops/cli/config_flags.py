"""Command-line flags and their help, generated from the fields of a config type."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, create_model
from pydantic_settings import CliSettingsSource

from aigc_ops.core.errors import ConfigError
from aigc_ops.interfaces.sections import former_field_paths
from aigc_ops.pipeline.run_config import (
    field_paths,
    nearest_field,
    nested_type,
    warn_of_former_name,
)

SUBJECTS = dict.fromkeys(("run", "validate", "train"), "CONFIG") | {"register": "CHECKPOINT"}


def parse_flags(kind: type[BaseModel], flags: Sequence[str]) -> dict[str, Any]:
    """Return the nested values of `--a.b-c=value` flags as text; the config validates them.

    Raises ConfigError, which names the most similar flag, for a flag that is not a field.
    """
    # No abbreviations: `--training.ste` would set `steps` only until a later release adds another
    # field that begins like this. No exit: the caller reports errors, as JSON with --json.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    source = _flag_source(kind, parser)
    # Users may type YAML's `latent_dim` or the flag's `latent-dim`, and names of earlier releases.
    spelt = [_present_name(kind, _kebab(flag)) for flag in flags]
    _check_no_section(kind, spelt)
    try:
        values, unknown = parser.parse_known_args(spelt)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from error
    if unknown:
        raise ConfigError(_unknown_flag(kind, unknown[0]))
    return _empty_to_none(kind, source(parsed_args=vars(values))())


def _empty_to_none(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with None for empty text, for fields that may be None."""
    # `--training.init-from=` unsets a field that the YAML file sets.
    result: dict[str, Any] = {}
    for name, value in values.items():
        annotation = kind.model_fields[name].annotation
        if isinstance(value, Mapping) and (nested := nested_type(annotation)):
            result[name] = _empty_to_none(nested, value)
        else:
            result[name] = None if value == "" and type(None) in get_args(annotation) else value
    return result


def family_flag(flags: Sequence[str]) -> dict[str, Any]:
    """Return `{"model": {"family": …}}` if a flag names the family, else an empty dict."""
    # Read before all other flags: the family decides which flags there are.
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--model.family=")]
    return {"model": {"family": named[-1]}} if named else {}


def control_values(words: Sequence[str]) -> dict[str, float]:
    """Return the numbers of `NAME=NUMBER` words by name; the model checks the names.

    Raises ConfigError for another format and for a repeated name.
    """
    values: dict[str, float] = {}
    for word in words:
        name, _, number = word.partition("=")
        if name in values:
            raise ConfigError(f"--set {word}: {name} is set already; give it once")
        try:
            values[name] = float(number)
        except ValueError:
            raise ConfigError(
                f"--set {word}: expected NAME=NUMBER, such as truncation=0.7"
            ) from None
    return values


def type_with_defaults(config: BaseModel) -> type[BaseModel]:
    """Return the config's type with its values as defaults, which help displays."""
    values = {
        name: (info.annotation, info.merge_field_infos(info, default=getattr(config, name)))
        for name, info in type(config).model_fields.items()
    }
    return create_model(type(config).__name__, __base__=type(config), **values)  # type: ignore[call-overload, no-any-return]


def help_text(command: str, summary: str, kind: type[BaseModel], hint: str) -> str:
    """Return a command's help text, with a flag for each field of the config."""
    parser = argparse.ArgumentParser(
        prog=f"aigc-ops {command}",
        description=f"{summary}\n\n{hint}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        usage=f"aigc-ops {command} {SUBJECTS.get(command, 'MODEL')} [--json] [--FIELD VALUE ...]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if command == "run":
        parser.add_argument("--force", action="store_true", help="run every stage again")
    _flag_source(kind, parser)
    return parser.format_help()


def _flag_source(kind: type[BaseModel], parser: argparse.ArgumentParser) -> Any:
    return CliSettingsSource(
        kind,  # type: ignore[arg-type]
        root_parser=parser,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


def _kebab(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else flag


def _present_name(kind: type[BaseModel], flag: str) -> str:
    """Return the flag under its field's present name, with a warning for a former name."""
    name, equals, value = flag.partition("=")
    path = name.removeprefix("--").replace("-", "_")
    new = former_field_paths(kind).get(path)
    if new is None:
        return flag
    present = "--" + new.replace("_", "-")
    warn_of_former_name(name, present)
    return f"{present}{equals}{value}"


def _check_no_section(kind: type[BaseModel], flags: Sequence[str]) -> None:
    """Raise ConfigError for a flag that names a section instead of a field, such as `--model`."""
    # pydantic-settings would read its value as JSON.
    paths = ["--" + path.replace("_", "-") for path in field_paths(kind)]
    for flag in flags:
        name, _, value = flag.partition("=")
        if value and (inside := [path for path in paths if path.startswith(f"{name}.")]):
            raise ConfigError(f"{name} is a section, not a field; give {', '.join(inside[:3])}, …")


def _unknown_flag(kind: type[BaseModel], flag: str) -> str:
    name = flag.partition("=")[0]
    if not name.startswith("--"):
        return f"unexpected argument {flag!r}"
    hint = nearest_field(kind, name.removeprefix("--").replace("-", "_"))
    near = hint.replace("_", "-").replace("did you mean ", "did you mean --")
    return f"{name} is not a flag{near}"
