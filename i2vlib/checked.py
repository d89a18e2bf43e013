"""What configurations share: dataclasses that check their types, strict JSON in and out, and a notebook's parameters."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import typing


class ConfigError(ValueError):
    """A field of a configuration has a value that is not allowed."""


class Config:
    """What the configurations share: type checks at construction, no number that is not finite, strict JSON in and out."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value, hint = getattr(self, f.name), hints[f.name]
            if isinstance(value, list):  # JSON has no tuples
                value = _as_tuple(value)
            if isinstance(value, int) and not isinstance(value, bool) and hint is float and _finite(value):
                value = float(value)
            object.__setattr__(self, f.name, value)
            if not _is_a(value, hint):
                raise ConfigError(f"{type(self).__name__}.{f.name} = {value!r}: allowed is {_words(hint)}")
            self.need(hint is int or _finite(value), f.name, "finite: neither nan nor infinity")
        self.check()

    def check(self) -> None:
        """Raise ConfigError where values do not fit each other."""

    def need(self, ok: bool, name: str, allowed: str) -> None:
        if not ok:
            raise ConfigError(f"{type(self).__name__}.{name} = {getattr(self, name)!r}: allowed is {allowed}")

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, data: dict):
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(data) - set(hints))
        if unknown:
            raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}: allowed are {', '.join(hints)}")
        values = {}
        for name, value in data.items():
            nested = isinstance(hints[name], type) and issubclass(hints[name], Config)
            values[name] = hints[name].from_dict(value) if nested and isinstance(value, dict) else value
        return cls(**values)

    @classmethod
    def from_json(cls, text: str):
        return cls.from_dict(json.loads(text))


def _as_tuple(value):
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


def _is_a(value, hint) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return isinstance(value, tuple) and all(_is_a(v, args[0]) for v in value)
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_is_a, value, args))
    if args:  # a union such as bool | None
        return any(_is_a(value, a) for a in args)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _finite(value) -> bool:
    """Whether a number, or each in a tuple of them, is one that a float can hold; True for what is no number."""
    if isinstance(value, tuple):
        return all(map(_finite, value))
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _words(hint) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


INDIFFERENT = ("out", "workers")  # parameters that no measured number depends on


def check_parameters(namespace: dict, **expected: object) -> dict[str, object]:
    """Stop a notebook whose parameters are unknown or of the wrong type; return {name: value} of those that are not the defaults.

    papermill only warns about a parameter that the notebook does not have, and leaves exit code 0. A notebook calls
    this below its `parameters` cell with `globals()` and the name and default of each parameter: the default gives the
    type, None stands for a yes or no that may stay open, and a type is a type without a default. Unknown names are read
    from the cell that papermill injects (`In` holds its source). What is returned the notebook keeps as
    `parameters_changed`, by which i2vlib.course.claims judges its claims. Raises ConfigError, also for nan and infinity.
    """
    injected = [s for s in namespace.get("In", []) if s.startswith("# Parameters")]
    names = {t.id for s in injected[-1:] for node in ast.parse(s).body if isinstance(node, ast.Assign)
             for t in node.targets if isinstance(t, ast.Name)}
    unknown = sorted(names - set(expected))
    if unknown:
        raise ConfigError(f"this notebook has no parameter {unknown[0]!r}: allowed are {', '.join(expected)}")
    for name, want in expected.items():
        kind = want if isinstance(want, type) else bool | None if want is None else type(want)
        if not _is_a(namespace[name], kind):
            raise ConfigError(f"parameter {name} = {namespace[name]!r}: allowed is {_words(kind)}")
        if not _finite(namespace[name]):
            raise ConfigError(f"parameter {name} = {namespace[name]!r}: allowed is finite: neither nan nor infinity")
    return {name: namespace[name] for name, default in expected.items()
            if not isinstance(default, type) and name not in INDIFFERENT and namespace[name] != default}
