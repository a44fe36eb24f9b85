"""RunConfig: every stage's own config in one, read from YAML and overridden by flags."""

import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aigc_ops.compute.random import MAX_SEED
from aigc_ops.core.errors import ConfigError
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
    """One run of the chain, from data to Bento."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Registered model's name; a config file's own name unless it says otherwise.",
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Seed of training and sampling.")
    data: DataConfig = Field(description="Which data, and how its parts are named.")
    validation: ValidationConfig = Field(
        default=ValidationConfig(), description="What the data must satisfy before training."
    )
    model: FamilyConfigT = Field(description="The model family and its networks.")
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="How long and how fast to train."
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="How the trained model is judged."
    )
    promotion: PromotionConfig = Field(
        default=PromotionConfig(), description="When a version takes the champion's place."
    )
    packaging: PackagingConfig = Field(
        default=PackagingConfig(), description="How the champion becomes a Bento."
    )


def run_config_type(family: str) -> type[RunConfig[Any]]:
    """The concrete RunConfig of one family: its YAML keys, flags and form fields."""
    config_type: Any = family_type(family).config_type
    concrete: type[RunConfig[Any]] = RunConfig[config_type]
    return concrete


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{name} stands twice", problem_mark=key.start_mark
                )
            seen.append(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError with what to do about it."""
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.yaml"))
        near = difflib.get_close_matches(str(path), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"ready-made: {', '.join(known) or 'none'}"
        raise ConfigError(f"{path}: no such config file; {hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also UTF-8, endless integers
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping with keys such as data and model")
    return values


def family_of(values: Mapping[str, Any], *, source: str) -> str:
    """The family that a config's `model.family` names; raises ConfigError if it names none."""
    model = values.get("model")
    family = model.get("family") if isinstance(model, Mapping) else None
    if family not in family_names():
        near = difflib.get_close_matches(str(family), family_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(family_names())}"
        keys, wanted = (values, "model") if model is None else (model, "family")
        if family is None and isinstance(keys, Mapping):
            near = difflib.get_close_matches(wanted, map(str, keys), n=1)
            hint += f"; {near[0]} is no key: did you mean {wanted}?" if near else ""
        raise ConfigError(f"{source}: model.family is {family!r}, not a model family; {hint}")
    return str(family)


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig[Any]:
    """Return the run that a YAML file describes, with `overrides` (nested, as in YAML) on top.

    Fields under former names are taken with a warning. Relative paths in the file are looked up
    from the working folder, then from its project.
    """
    values = merged(read_yaml(path), overrides or {})
    kind = run_config_type(family_of(values, source=str(path)))
    present, renamed = with_present_names(kind, {"name": path.stem, **read_yaml(path)})
    for old, new in renamed.items():
        warn_of_former_name(f"{path}: {old}", new)
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
    """A validated RunConfig; each wrong field is named with its path and nearest name."""
    kind = run_config_type(family_of(values, source=source))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(kind, error, source))) from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` put in its place, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _explained(kind: type[BaseModel], error: ValidationError, source: str) -> list[str]:
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {path} is not a field{nearest_field(kind, path)}")
        else:
            found = "" if problem["type"] == "missing" else f", found {problem['input']!r}"
            told = problem["msg"][:1].lower() + problem["msg"][1:]
            lines.append(f"{source}: {path}: {told}{found}")
    return lines


def nearest_field(kind: type[BaseModel], path: str) -> str:
    """`; did you mean …?` for an unknown dotted field, or the fields there are."""
    parent, _, last = path.rpartition(".")
    known = field_paths(kind)
    below = [name.removeprefix(f"{parent}.") for name in known if name.startswith(f"{parent}.")]
    siblings = list(dict.fromkeys(n.partition(".")[0] for n in (below if parent else known)))
    if near := difflib.get_close_matches(last, siblings, n=1, cutoff=0.6):
        return f"; did you mean {parent}{'.' * bool(parent)}{near[0]}?"
    elsewhere = [name for name in known if name.rsplit(".", 1)[-1] == last]
    if near := elsewhere or difflib.get_close_matches(path, known, n=1, cutoff=0.6):
        return f"; did you mean {near[0]}?"
    return f"; the fields there are {', '.join(siblings)}" if siblings else ""


def field_paths(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every leaf field of a config."""
    paths = []
    for name, info in kind.model_fields.items():
        nested = nested_type(info.annotation)
        paths += field_paths(nested, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return paths


def nested_type(annotation: Any) -> type[BaseModel] | None:
    """The config that a field of this type holds, empty or not; None for a leaf."""
    types = (annotation, *get_args(annotation))
    return next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
