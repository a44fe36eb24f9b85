"""Configs with a section for each modality, which also take the former flat names of fields."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, create_model, model_validator

from aigc_ops.core.errors import ConfigError
from aigc_ops.interfaces.discovery import find_modality, modality_names


class SectionConfig(BaseModel):
    """One modality's settings inside a stage's config."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    former_names: ClassVar[Mapping[str, str]] = {}
    """Name of a field -> its flat name in the stage's config before there were sections."""


class SectionedConfig(BaseModel):
    """A stage's config with one section per modality, as `with_sections` completes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after version 0.1; at their default they are left out of digests."""
    section_types: ClassVar[Mapping[str, type[SectionConfig]]] = {}

    def section(self, name: str) -> Any:
        """Return the settings of one modality; raises KeyError for a modality without any."""
        return getattr(self, name) if name in self.section_types else None

    def with_section(self, name: str, **values: Any) -> Self:
        """Return a copy with other values in one modality's section."""
        return self.model_copy(update={name: self.section(name).model_copy(update=values)})

    @classmethod
    def former_paths(cls) -> dict[str, str]:
        """Return the dotted path of today by the former flat name."""
        return {
            former: f"{name}.{field}"
            for name, section in cls.section_types.items()
            for field, former in section.former_names.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, values: Any) -> Any:
        """Move values under former flat names into their sections.

        Raises ValueError where both names are given.
        """
        if not isinstance(values, Mapping):
            return values
        moved = dict(values)
        for former, path in cls.former_paths().items():
            if former in moved and former not in cls.model_fields:
                name, field = path.split(".")
                section = moved.get(name) or {}
                if isinstance(section, BaseModel):
                    section = section.model_dump(exclude_unset=True)
                if not isinstance(section, Mapping):
                    continue  # which is reported as what it is
                if field in section:
                    raise ValueError(f"{former} is the former name of {path}; give {path} alone")
                moved[name] = {**section, field: moved.pop(former)}
        return moved

    def stable_dump(self) -> dict[str, Any]:
        """Return the values for digests: by the names of version 0.1, later fields if not default.

        So neither a new field nor a new section changes the digest of a config that does not
        use it.
        """
        dumped = self.model_dump(mode="json")
        defaults = _defaults(type(self))
        flat = {
            name: value
            for name, value in dumped.items()
            if name not in self.section_types
            and not (name in self.added_fields and value == defaults.get(name))
        }
        for name, section in self.section_types.items():
            unchanged = section().model_dump(mode="json")
            for field, value in dumped[name].items():
                if field in section.former_names:
                    flat[section.former_names[field]] = value
                elif value != unchanged[field]:
                    flat[f"{name}.{field}"] = value
        return flat


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    fields = kind.model_fields.items()
    return {name: info.get_default(call_default_factory=True) for name, info in fields}


def with_sections(base: type[SectionedConfig], stage: str) -> Any:
    """Return the config type with a section for each modality that has settings for the stage.

    `stage` names the modality's attribute that holds the section's type, such as
    `data_section`. The section is a field under the modality's name.
    """
    sections: dict[str, type[SectionConfig]] = {}
    for name in modality_names():
        if section := getattr(find_modality(name), stage):
            sections[name] = section
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in sections.items()}
    make: Any = create_model
    completed = make(base.__name__, __base__=base, __doc__=base.__doc__, **fields)
    for name, kind in sections.items():
        completed.model_fields[name].description = f"{(kind.__doc__ or name).splitlines()[0]}"
    completed.section_types = sections
    completed.__module__ = base.__module__
    completed.model_rebuild(force=True)
    return completed


def former_field_paths(kind: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Return the dotted path of every renamed field of a config by its former dotted path."""
    paths = {}
    if issubclass(kind, SectionedConfig):
        paths = {f"{prefix}{old}": f"{prefix}{new}" for old, new in kind.former_paths().items()}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths |= former_field_paths(info.annotation, f"{prefix}{name}.")
    return paths


def with_present_names(
    kind: type[BaseModel], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a config's nested values by the names of today, and the renamed paths among them.

    Raises ConfigError where a value is given by both names.
    """
    moved: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    renamed = {}
    for old, new in former_field_paths(kind).items():
        *above, last = old.split(".")
        holder = _below(moved, above)
        if holder is None or last not in holder:
            continue
        *sections, field = new.split(".")
        target = moved
        for section in sections:
            present = target.get(section)
            target[section] = dict(present) if isinstance(present, Mapping) else {}
            target = target[section]
        if field in target:
            raise ConfigError(f"{old} is the former name of {new}; give {new} alone")
        target[field] = _below(moved, above).pop(last)  # type: ignore[union-attr]
        renamed[old] = new
    return moved, renamed


def _below(values: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
    """Return the mapping at a path; None where there is none."""
    for name in path:
        found = values.get(name)
        if not isinstance(found, dict):
            return None
        values = found
    return values
