"""Models to compact JSON and back.

Unknown fields are ignored on reading, so that an older process survives a newer writer for the time of an upgrade;
missing fields take the model's default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


class DecodeError(ValueError):
    """The stored bytes are not what the model says."""


def encode(value: Any) -> bytes:
    """A frozen dataclass as JSON; fields that have their default are left out."""
    return _encoder.encode(_plain(value)).encode()


def decode(model: type[T], data: bytes) -> T:
    """The inverse of `encode`. Raises DecodeError."""
    try:
        return typing.cast("T", _reader(typing.cast("Any", model))(json.loads(data)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DecodeError(f"{model.__name__}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(item)
            for f in dataclasses.fields(value)
            if not _is_default(f, item := getattr(value, f.name))
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default) and type(value) is type(field.default)
    return field.default_factory is not dataclasses.MISSING and bool(value == field.default_factory())


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """A function that turns parsed JSON into a value of the type `hint`."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(hint)}

        def read_model(data: Any) -> Any:
            return hint(**{name: readers[name](item) for name, item in data.items() if name in readers})

        return read_model
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = _reader(next(a for a in args if a is not type(None)))
        return lambda data: None if data is None else inner(data)
    if origin is tuple:
        item_reader = _reader(args[0])
        return lambda data: tuple(item_reader(item) for item in data)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    if hint in (str, int, bool, float):
        return functools.partial(_exactly, hint)
    return lambda data: data


def _exactly(hint: type, data: Any) -> Any:
    if type(data) is not hint and not (hint is float and type(data) is int):
        raise TypeError(f"expected {hint.__name__}, found {type(data).__name__}")
    return data
