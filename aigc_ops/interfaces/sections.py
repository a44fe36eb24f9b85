"""Configs with one section per modality; older, flat names of fields are still accepted."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, create_model, model_validator

from aigc_ops.core.errors import ConfigError
from aigc_ops.interfaces.discovery import find_modality, modality_names


class SectionConfig(BaseModel):
    """Settings of a modality inside a stage's config."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    former_names: ClassVar[Mapping[str, str]] = {}
    """Field name -> flat name of the field in the configs of version 0.1."""


class SectionedConfig(BaseModel):
    """A stage's config with one section per modality, added by `with_sections`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields added after version 0.1; at their default they are left out of digests."""
    section_types: ClassVar[Mapping[str, type[SectionConfig]]] = {}
    """Section type by modality name; set by `with_sections`."""

    def section(self, name: str) -> Any:
        """Return the settings of a modality; None for a modality without a section."""
        return getattr(self, name) if name in self.section_types else None

    def with_section(self, name: str, **values: Any) -> Self:
        """Return a copy with changed values in a modality's section."""
        return self.model_copy(update={name: self.section(name).model_copy(update=values)})

    @classmethod
    def former_paths(cls) -> dict[str, str]:
        """Return the current dotted path of each former flat name."""
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
        # A copy: pydantic passes the caller's own mapping.
        moved = dict(values)
        for former, path in cls.former_paths().items():
            if former in moved and former not in cls.model_fields:
                name, field = path.split(".")
                section = moved.get(name) or {}
                # Unset fields are left out, or a default would count as a second value.
                if isinstance(section, BaseModel):
                    section = section.model_dump(exclude_unset=True)
                if not isinstance(section, Mapping):
                    continue  # pydantic reports the wrong type of the section
                if field in section:
                    raise ValueError(f"{former} is the former name of {path}; give only {path}")
                moved[name] = {**section, field: moved.pop(former)}
        return moved

    def stable_dump(self) -> dict[str, Any]:
        """Return the values for digests, by the field names of version 0.1.

        Later fields are included only if they differ from their default.
        """
        # Digests name runs, checkpoints and cached results. So neither a new field, nor a new
        # section, nor a field moved into a section may change the digest of a config that
        # leaves it at its default.
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
    # From the fields, because a config with required fields has no instance of defaults.
    fields = kind.model_fields.items()
    return {name: info.get_default(call_default_factory=True) for name, info in fields}


def with_sections(base: type[SectionedConfig], stage: str) -> Any:
    """Return the config type completed by a section for each modality with settings for `stage`.

    `stage` is the modality's attribute with the section's type, such as `data_section`. The
    section becomes a field named after the modality.
    """
    # 1. Build a subclass of the same name, with the modalities installed here.
    sections: dict[str, type[SectionConfig]] = {}
    for name in modality_names():
        if section := getattr(find_modality(name), stage):
            sections[name] = section
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in sections.items()}
    make: Any = create_model
    completed = make(base.__name__, __base__=base, __doc__=base.__doc__, **fields)
    # 2. Forms and --help show a section's description: the first line of its docstring.
    for name, kind in sections.items():
        completed.model_fields[name].description = f"{(kind.__doc__ or name).splitlines()[0]}"
    # 3. Pickling finds a class by module and name, so it must seem defined beside its base.
    completed.section_types = sections
    completed.__module__ = base.__module__
    completed.model_rebuild(force=True)
    return completed


def former_field_paths(kind: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Return the current dotted path of each renamed field by its former dotted path."""
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
    """Return nested config values under current names, and the paths that were renamed.

    Raises ConfigError when a field is given under both names.
    """
    # 1. Copy two levels: sections are changed below, and the caller's values must not be.
    moved: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    renamed = {}
    # 2. Move each value that has a former name.
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
            raise ConfigError(f"{old} is the former name of {new}; give only {new}")
        target[field] = _below(moved, above).pop(last)  # type: ignore[union-attr]
        renamed[old] = new
    return moved, renamed


def _below(values: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
    """Return the mapping at a path, or None."""
    for name in path:
        section = values.get(name)
        if not isinstance(section, dict):
            return None
        values = section
    return values
