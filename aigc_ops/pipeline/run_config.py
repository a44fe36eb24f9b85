"""RunConfig: the configs of all stages in one, read from YAML and overridden by flags."""

import difflib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aigc_ops.compute.random import MAX_SEED
from aigc_ops.core.errors import ConfigError
from aigc_ops.core.project import project_root
from aigc_ops.data.config import DataConfig
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.interfaces.model import FamilyConfig
from aigc_ops.interfaces.sections import with_present_names
from aigc_ops.models import family_names, family_type
from aigc_ops.pipeline.inputs import locate_inputs
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.serving.config import PackagingConfig
from aigc_ops.training.config import TrainingConfig

FamilyConfigT = TypeVar("FamilyConfigT", bound=FamilyConfig)
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class RunConfig(BaseModel, Generic[FamilyConfigT]):
    """The config of one run of the chain, from data to Bento."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Name of the registered model. Default: the config's file name without suffix.",
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Seed of training and sampling.")
    data: DataConfig = Field(description="Dataset and column names.")
    validation: ValidationConfig = Field(
        default=ValidationConfig(), description="Requirements on the data before training."
    )
    model: FamilyConfigT = Field(description="The model family and its networks.")
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="How long and how fast to train."
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="How the trained model is evaluated."
    )
    promotion: PromotionConfig = Field(
        default=PromotionConfig(), description="When a version replaces the champion."
    )
    packaging: PackagingConfig = Field(
        default=PackagingConfig(), description="How the champion is packaged as a Bento."
    )


def run_config_type(family: str) -> type[RunConfig[Any]]:
    """Return the RunConfig type of one family, which defines its YAML keys, flags and form."""
    config_type: Any = family_type(family).config_type
    concrete: type[RunConfig[Any]] = RunConfig[config_type]
    return concrete


class _Loader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys."""

    # PyYAML keeps the last of two equal keys without a warning. `<<` merges may repeat keys by
    # design, so they are not counted.
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {name}", problem_mark=key.start_mark
                )
            seen.append(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises ConfigError for a missing or invalid file."""
    if not path.is_file():
        root = project_root() or Path.cwd()
        known = sorted(os.path.relpath(p) for p in (root / "configs").glob("*.yaml"))
        own = os.path.relpath(root / path)
        near = [own] if own in known else difflib.get_close_matches(str(path), known, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"found: {', '.join(known) or 'none'}"
        raise ConfigError(f"{path}: no such config file; {hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    # ValueError: text that is not UTF-8, or an integer of more digits than Python converts.
    # RecursionError: lists nested too deeply.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping with keys such as data and model")
    return values


def family_of(values: Mapping[str, Any], *, source: str) -> str:
    """Return the value of `model.family`; raises ConfigError if it is not a model family."""
    model = values.get("model")
    family = model.get("family") if isinstance(model, Mapping) else None
    if family not in family_names():
        near = difflib.get_close_matches(str(family), family_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(family_names())}"
        # The key itself may be mistyped: `modle:`, or `famly:` below `model:`.
        keys, expected = (values, "model") if model is None else (model, "family")
        if family is None and isinstance(keys, Mapping):
            near = difflib.get_close_matches(expected, map(str, keys), n=1)
            hint += f"; unknown key {near[0]}, did you mean {expected}?" if near else ""
        raise ConfigError(f"{source}: model.family is {family!r}, not a model family; {hint}")
    return str(family)


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig[Any]:
    """Return the config in a YAML file, updated by `overrides` (nested, as in YAML).

    Former names of fields are accepted with a warning. Relative paths in the file are looked up
    in the working folder, then in the file's project.
    """
    # 1. The family decides the type of the config. A flag may override it.
    values = merged(read_yaml(path), overrides or {})
    kind = run_config_type(family_of(values, source=str(path)))
    # 2. Names in the file are replaced before the overrides are merged: those use present names.
    present, renamed = with_present_names(kind, {"name": path.stem, **read_yaml(path)})
    for old, new in renamed.items():
        warn_of_former_name(f"{path}: {old}", new)
    # 3. Validate, then locate the relative paths that come from the file.
    config = parse_config(merged(present, overrides or {}), source=str(path))
    return locate_inputs(config, path, overrides or {})


def warn_of_former_name(old: str, new: str) -> None:
    """Warn of a field under the name that it had before version 0.2."""
    warnings.warn(
        f"{old} is now {new}; the former name works until the next release",
        FutureWarning,
        stacklevel=3,
    )


def parse_config(values: Mapping[str, Any], *, source: str) -> RunConfig[Any]:
    """Return the validated RunConfig; raises ConfigError that names each wrong field."""
    kind = run_config_type(family_of(values, source=source))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_error_lines(kind, error, source))) from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated by `over`, recursively for nested mappings."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _error_lines(kind: type[BaseModel], error: ValidationError, source: str) -> list[str]:
    # One line per wrong field, so that a config is corrected in one go.
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {path} is not a field{nearest_field(kind, path)}")
        else:
            found = "" if problem["type"] == "missing" else f", found {problem['input']!r}"
            message = problem["msg"][:1].lower() + problem["msg"][1:]
            lines.append(f"{source}: {path}: {message}{found}")
    return lines


def nearest_field(kind: type[BaseModel], path: str) -> str:
    """Return `; did you mean …?` for an unknown dotted field, else the fields of its section."""
    # 1. A similar name in the same section.
    parent, _, last = path.rpartition(".")
    known = field_paths(kind)
    below = [name.removeprefix(f"{parent}.") for name in known if name.startswith(f"{parent}.")]
    siblings = list(dict.fromkeys(n.partition(".")[0] for n in (below if parent else known)))
    if near := difflib.get_close_matches(last, siblings, n=1, cutoff=0.6):
        return f"; did you mean {parent}{'.' * bool(parent)}{near[0]}?"
    # 2. The same name in another section, then a similar path, then a list.
    elsewhere = [name for name in known if name.rsplit(".", 1)[-1] == last]
    if near := elsewhere or difflib.get_close_matches(path, known, n=1, cutoff=0.6):
        return f"; did you mean {near[0]}?"
    return f"; the fields of this section are {', '.join(siblings)}" if siblings else ""


def field_paths(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all leaf fields of a config type."""
    paths = []
    for name, info in kind.model_fields.items():
        nested = nested_type(info.annotation)
        paths += field_paths(nested, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return paths


def nested_type(annotation: Any) -> type[BaseModel] | None:
    """Return the config type in a field's annotation, optional or not; None for a leaf."""
    types = (annotation, *get_args(annotation))
    return next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
