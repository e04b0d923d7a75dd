"""Configuration: nested frozen dataclasses filled from YAML documents and dotted overrides, all mistakes shown at once.

A value's place has a dotted name (`genrec.layers`; an entry of a mapping: `replay.reward.click`). Sources are merged
in order, later ones win; then every name is looked up, every value converted to its annotated type, and each dataclass
built, innermost first, so that its own `__post_init__` checks run. Nothing stops at the first mistake.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

Config = TypeVar("Config")


class ConfigurationError(ValueError):
    """One or more mistakes in a configuration, each on its own line.

    Attributes:
        mistakes: What is wrong, in the order of the sources.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        title = f"{count} mistake{'s' if count > 1 else ''} in the configuration:"
        super().__init__("\n".join([title, *(f"  - {mistake}" for mistake in self.mistakes)]))


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A value for one dotted name and where it came from (a file's name, or the override as typed)."""

    value: Any
    origin: str


def build(config: type[Config], sources: Sequence[Mapping[str, Assignment]]) -> Config:
    """Fill `config`, a dataclass of values and further dataclasses, from merged assignments.

    Args:
        config: The class to build; annotations decide types, defaults fill what no source names.
        sources: Assignments by dotted name; later sources win.

    Raises:
        ConfigurationError: Unknown names (with the nearest known one), values that do not fit their type, relations
            refused by a `__post_init__`; all of them together.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Point:
        ...     x: int = 0
        >>> build(Point, [from_overrides(["x=3"])])
        Point(x=3)
        >>> build(Point, [from_overrides(["y=3"])])
        Traceback (most recent call last):
            ...
        pagewise.configuration.ConfigurationError: 1 mistake in the configuration:
          - unknown name 'y' (y=3); the nearest known name is 'x'
    """
    known = field_types(config)
    merged = _merged(sources, known)
    mistakes = [
        _unknown(name, given, known)
        for name, given in merged.items()
        if name not in known and _mapping_of(name, known) is None
    ]
    built = _build(config, "", merged, mistakes, {})
    if mistakes:
        raise ConfigurationError(mistakes)
    return typing.cast(Config, built)


def from_document(document: Mapping[str, Any], origin: str, config: type) -> dict[str, Assignment]:
    """Flatten a nested mapping, as read from YAML, down to the fields of `config`; a section may be empty."""
    known = field_types(config)
    flat: dict[str, Assignment] = {}

    def visit(prefix: str, node: Mapping[Any, Any]) -> None:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping) and name not in known:
                visit(f"{name}.", value)
            elif value is not None or not any(other.startswith(f"{name}.") for other in known):
                flat[name] = Assignment(value, origin)

    visit("", document)
    return flat


def from_file(path: Path, config: type) -> dict[str, Assignment]:
    """Read assignments from a YAML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not YAML, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {path}: expected a YAML file, there is none")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration file {path} is not YAML: {error}") from error
    if not isinstance(document, Mapping | None):
        raise ValueError(f"configuration file {path}: expected sections and values, got {type(document).__name__}")
    return from_document(document or {}, str(path), config)


def from_overrides(overrides: Sequence[str]) -> dict[str, Assignment]:
    """Read `genrec.layers=2`-like overrides; values are YAML (`true`, `[1, 2]`, `null`).

    Raises:
        ConfigurationError: One or more have no `=`, or a value that is not YAML.
    """
    flat: dict[str, Assignment] = {}
    mistakes = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            mistakes.append(f"{override!r} is no override: expected name=value, for example genrec.layers=2")
            continue
        try:
            flat[name.strip()] = Assignment(yaml.safe_load(text) if text else "", override)
        except yaml.YAMLError:
            mistakes.append(f"{override!r}: {text!r} is not a YAML value; quote it if it is a text")
    if mistakes:
        raise ConfigurationError(mistakes)
    return flat


def field_types(config: type, prefix: str = "") -> dict[str, Any]:
    """Return the annotated type of every value below `config`, by dotted name."""
    types_by_name: dict[str, Any] = {}
    for name, annotation in _annotations(config).items():
        if dataclasses.is_dataclass(annotation):
            types_by_name.update(field_types(typing.cast(type, annotation), f"{prefix}{name}."))
        else:
            types_by_name[f"{prefix}{name}"] = annotation
    return types_by_name


def to_document(config: Any) -> dict[str, Any]:
    """Return a built configuration as plain mappings, lists and scalars: what YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return typing.cast(dict[str, Any], plain(config))


def convert(value: Any, annotation: Any) -> Any:
    """Convert a YAML value to an annotated type.

    Raises:
        ValueError: It does not fit; the message says what was expected and what came.

    Example:
        >>> convert([256, 256, 256], tuple[int, ...]), convert("1e-3", float), convert(None, int | None)
        ((256, 256, 256), 0.001, None)
        >>> convert(True, int)
        Traceback (most recent call last):
            ...
        ValueError: expected a whole number, got True
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, arguments)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ValueError(f"expected one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        return _convert_tuple(value, arguments)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"expected names with values, got {value!r}")
        return {convert(key, arguments[0]): convert(item, arguments[1]) for key, item in value.items()}
    return _convert_scalar(value, annotation)


def _convert_union(value: Any, alternatives: tuple[Any, ...]) -> Any:
    reasons = []
    for alternative in alternatives:
        if alternative is type(None):
            if value is None:
                return None
            continue
        try:
            return convert(value, alternative)
        except ValueError as error:
            reasons.append(str(error))
    null = " (or null)" if type(None) in alternatives else ""
    raise ValueError("; ".join(reasons).replace(", got", f"{null}, got"))


def _convert_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"expected a list, for example [1, 2], got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(item, arguments[0]) for item in value)
    if len(value) != len(arguments):
        raise ValueError(f"expected a list of {len(arguments)} values, got {value!r}")
    return tuple(convert(item, argument) for item, argument in zip(value, arguments, strict=True))


def _convert_scalar(value: Any, annotation: Any) -> Any:
    if annotation is Any:
        return value
    if isinstance(value, bool) or value is None:
        if annotation is bool and value is not None:
            return value
    elif annotation in (int, float):
        number = _number(value)
        if number is not None and annotation is float:
            return number
        if number is not None and number.is_integer():
            return value if isinstance(value, int) else int(number)
    elif annotation is str and isinstance(value, str | int | float | datetime.date):
        return str(value)  # YAML reads 2025-01-01 as a date
    elif annotation is Path and isinstance(value, str):
        return Path(value)
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", Path: "a path"}
    raise ValueError(f"expected {names.get(annotation, annotation)}, got {value!r}")


def _number(value: Any) -> float | None:
    """Return the finite number that `value` is or spells (YAML reads 1e-3 as text), None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _merged(sources: Sequence[Mapping[str, Assignment]], known: Mapping[str, Any]) -> dict[str, Assignment]:
    """Return the last assignment of every name; a mapping set as a whole takes its earlier entries with it."""
    merged: dict[str, Assignment] = {}
    for name, given in ((name, given) for source in sources for name, given in source.items()):
        if _is_mapping(known.get(name)):
            merged = {other: kept for other, kept in merged.items() if not other.startswith(f"{name}.")}
        merged[name] = given
    return merged


def _mapping_of(name: str, known: Mapping[str, Any]) -> str | None:
    """Return the known mapping that `name` is an entry of (`replay.reward` for `replay.reward.click`)."""
    whole = name.rpartition(".")[0]
    return whole if _is_mapping(known.get(whole)) else None


def _is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (dict, Mapping)


def _build(
    config: type, prefix: str, merged: Mapping[str, Assignment], mistakes: list[str], defaults: Mapping[str, Any]
) -> Any:
    """Build one dataclass; a value that does not fit is reported and its default used for the checks that follow.

    `defaults` are what the section around it gives this one, and go before the class's own.
    """
    values: dict[str, Any] = dict(defaults)
    for name, annotation in _annotations(config).items():
        dotted = f"{prefix}{name}"
        if dataclasses.is_dataclass(annotation):
            inside = _section_defaults(config, name, defaults)
            values[name] = _build(typing.cast(type, annotation), f"{dotted}.", merged, mistakes, inside)
            continue
        for place, given in _given(dotted, annotation, merged):
            try:
                if place == dotted:
                    values[name] = convert(given.value, annotation)
                else:
                    entry = convert({place.removeprefix(f"{dotted}."): given.value}, annotation)
                    values[name] = {**_present(config, name, values), **entry}
            except ValueError as error:
                mistakes.append(f"{place}: {error} ({given.origin})")
    missing = [field.name for field in dataclasses.fields(config) if field.name not in values and _is_required(field)]
    mistakes.extend(f"{prefix}{name}: expected a value, there is no default" for name in missing)
    sections = [name for name, annotation in _annotations(config).items() if dataclasses.is_dataclass(annotation)]
    if missing or any(values[name] is None for name in sections):
        return None
    try:
        return config(**values)
    except ValueError as error:
        section = prefix.rstrip(".") or "configuration"
        mistakes.extend(f"{section}: {line}" for line in _mistakes_in(str(error), section))
        return None


def _given(dotted: str, annotation: Any, merged: Mapping[str, Assignment]) -> list[tuple[str, Assignment]]:
    """Return what is assigned to one field, as a whole and then to its entries if it is a mapping."""
    whole = [(dotted, merged[dotted])] if dotted in merged else []
    entries = [(name, given) for name, given in merged.items() if name.startswith(f"{dotted}.")]
    return whole + (entries if _is_mapping(annotation) else [])


def _present(config: type, name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping as it is before an entry of it is set."""
    field = next(field for field in dataclasses.fields(config) if field.name == name)
    if name in values:
        return typing.cast(Mapping[str, Any], values[name])
    return (
        {} if field.default_factory is dataclasses.MISSING else typing.cast(Mapping[str, Any], field.default_factory())
    )


def _mistakes_in(message: str, section: str) -> list[str]:
    """Return the lines of a class's own message without what names the class: a title above, or the section before."""
    title, *lines = message.splitlines()
    if not lines or not title.endswith(":"):
        lines = [title, *lines]
    return [line.strip().removeprefix(f"{section}: ") for line in lines]


def _section_defaults(config: type, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the section `name` where nothing is set; none where it has no default as a whole."""
    factory = next(field.default_factory for field in dataclasses.fields(config) if field.name == name)
    if name in defaults:
        section = defaults[name]
    elif factory is not dataclasses.MISSING:
        section = factory()
    else:
        return {}
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section) if field.init}


def _annotations(config: type) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown(name: str, given: Assignment, known: Mapping[str, Any]) -> str:
    message = f"unknown name {name!r} ({given.origin})"
    inside = [other for other in known if other.startswith(f"{name}.")]
    if inside:
        return f"{message}; it is a section: set its values, for example {inside[0]}"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    same_leaf = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"{message}; the nearest known name is {(same_leaf or nearest)[0]!r}"
