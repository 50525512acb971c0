"""Fields of a config: types, ranges, and access by dotted name.

A config is a tree of dataclasses. A leaf is a bool, int, float, str, tuple of ints, `Literal`
string, dict entry, or network option. A network is an unbound Linen module, and its options are the
fields of its class. The option 'name' is the registry name of the class.
"""

import ast
import dataclasses
import difflib
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from flax import linen as nn

from chromagan_jax.errors import UserError

T = TypeVar('T')

# Fields of networks that are set from other config fields.
DERIVED = ('channels', 'size', 'dtype', 'remat')


class Group(Protocol):
    """A config or a group of fields: any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Range(NamedTuple):
    """The allowed values of a number."""

    text: str
    contains: Callable[[Any], bool]


class Registry(NamedTuple):
    """The networks of a kind, or the allowed keys of a dict."""

    kind: str
    entries: Mapping[str, Any]


Positive = Annotated[int, Range('1 or more', lambda x: x >= 1)]
Count = Annotated[int, Range('0 or more', lambda x: x >= 0)]
NonNegative = Annotated[float, Range('0 or more', lambda x: x >= 0)]
Fraction = Annotated[float, Range('0 <= x <= 1', lambda x: 0 <= x <= 1)]
Decay = Annotated[float, Range('0 <= x < 1', lambda x: 0 <= x < 1)]


class Leaf(NamedTuple):
    """One value of a config."""

    name: str  # 'group.field'
    hint: Any  # type; `Annotated` if it has a range
    value: Any


def leaves(node: Group, prefix: str = '') -> Iterator[Leaf]:
    """All leaves of a config or group, in order of declaration."""
    for name, hint in type_hints(type(node)).items():
        yield from _leaves(prefix + name, hint, getattr(node, name))


def flatten(node: Group) -> dict[str, Any]:
    """{'group.field': value} of all leaves, in order of declaration."""
    return {leaf.name: leaf.value for leaf in leaves(node)}


def to_dict(node: Group) -> dict[str, Any]:
    """Converts a config to nested dicts of JSON values."""
    nested: dict[str, Any] = {}
    for name, hint in type_hints(type(node)).items():
        value = getattr(node, name)
        if isinstance(value, nn.Module):
            nested[name] = {leaf.name: leaf.value for leaf in _network_leaves(hint, value)}
        elif _is_group(value) and not isinstance(value, dict):
            nested[name] = to_dict(value)
        else:
            nested[name] = dict(value) if isinstance(value, dict) else value
    return nested


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`. Missing fields get their defaults; unknown fields are ignored.

    Raises:
        UserError: for an unknown network.
    """
    made: dict[str, Any] = {}
    for name, hint in type_hints(cls).items():
        if name not in values:
            continue
        value, kind = values[name], _plain(hint)
        if kind is nn.Module:
            made[name] = _make_network(hint, value)
        elif dataclasses.is_dataclass(kind):
            made[name] = from_dict(typing.cast(type, kind), value)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


def set_field(config: Group, name: str, value: Any) -> None:
    """Sets one leaf by its dotted name. 'generator.name' selects a network with its defaults.

    Raises:
        UserError: if there is no such field.
    """
    _find(config, name).put(value)


def set_text(config: Group, name: str, text: str) -> None:
    """Sets one leaf from command-line text.

    Raises:
        UserError: if there is no such field, or the text does not match its type.
    """
    field = _find(config, name)
    field.put(parse(f'--config.{name}', field.hint, text))


def has_type(config: Group, name: str, kind: type) -> bool:
    """Whether a leaf has the type `kind`; raises UserError if there is no such field."""
    return _plain(_find(config, name).hint) is kind


def parse(flag: str, hint: Any, text: str) -> Any:
    """Parses `text` as a value of type `hint`; raises UserError, naming `flag`, if it cannot."""
    kind = _plain(hint)
    if kind is bool:
        if text.lower() in ('true', '1', 'false', '0'):
            return text.lower() in ('true', '1')
    elif typing.get_origin(kind) is tuple:
        try:
            value = ast.literal_eval(text)
            return tuple(map(int, value)) if isinstance(value, tuple | list) else (int(value),)
        except (ValueError, SyntaxError, TypeError):
            pass
    elif kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    else:
        return text
    raise UserError(f'{flag} must be {_described(kind)}, not {text!r}.')


def check_names(config: Group) -> None:
    """Raises UserError for an attribute that is no field, such as a misspelled one."""
    for name in _attributes(config):
        if not _find_below(config, None, lambda value: None, name.split('.')):
            raise unknown_field(config, name)


def check_types(node: Group, prefix: str = '') -> None:
    """Raises UserError for the first leaf with a wrong type or a value outside its range."""
    for name, hint, value in leaves(node, prefix):
        kind = _plain(hint)
        if not _has_type(kind, value):
            is_choice = typing.get_origin(kind) is Literal
            start = f'is {value!r}; choose' if is_choice else 'must be'
            end = '' if is_choice else f', not {value!r}'
            raise UserError(f'{name} {start} {_described(kind)}{end}.')
        for note in getattr(hint, '__metadata__', ()):
            if isinstance(note, Range) and not note.contains(value):
                raise UserError(f'{name} must be {note.text}, not {value!r}.')


def unknown_field(config: Group, name: str) -> UserError:
    """The error for an unknown field, with the closest known names."""
    names = list(flatten(config))
    close = difflib.get_close_matches(name, names, 1)
    if not close and '.' not in name:
        close = [n for n in names if difflib.get_close_matches(name, [n.split('.')[-1]])]
    hint = f': did you mean {" or ".join(map(repr, close[:2]))}?' if close else '.'
    return UserError(f'There is no field {name!r} in the config{hint}')


def type_hints(cls: Any) -> dict[str, Any]:
    """Types of a dataclass's fields, in order of declaration."""
    return typing.get_type_hints(cls, include_extras=True)


def options(network: Any) -> dict[str, Any]:
    """Types of a network's options, in order of declaration."""
    fields = dataclasses.fields(network)
    return {f.name: f.type for f in fields if f.name not in ('parent', 'name', *DERIVED)}


class _Field(NamedTuple):
    hint: Any
    put: Callable[[Any], None]


def _find(config: Group, name: str) -> _Field:
    if field := _find_below(config, None, lambda value: None, name.split('.')):
        return field
    raise unknown_field(config, name)


def _find_below(
    node: Any, hint: Any, put: Callable[[Any], None], parts: list[str]
) -> _Field | None:
    if not parts:
        return None if _is_group(node) else _Field(hint, put)
    part, rest = parts[0], parts[1:]
    if isinstance(node, nn.Module):
        kinds = {'name': str} | options(type(node))
        if rest or part not in kinds:
            return None
        if part == 'name':
            return _Field(str, lambda name: put(_make_network(hint, {'name': name})))
        return _Field(kinds[part], lambda value: put(node.clone(**{part: value})))
    if isinstance(node, dict):
        if rest or not _has_key(hint, part):
            return None
        return _Field(typing.get_args(_plain(hint))[1], functools.partial(node.__setitem__, part))
    if not _is_group(node) or part not in type_hints(type(node)):
        return None
    below = functools.partial(setattr, node, part)
    return _find_below(getattr(node, part), type_hints(type(node))[part], below, rest)


def _attributes(node: Any, prefix: str = '') -> Iterator[str]:
    """Dotted names of all attributes of the groups of a config, and of the keys of its dicts."""
    known = node if isinstance(node, dict) else type_hints(type(node))
    for name, value in (node if isinstance(node, dict) else vars(node)).items():
        if name not in known or not _is_group(value):
            yield f'{prefix}{name}'
        elif not isinstance(value, nn.Module):
            yield from _attributes(value, f'{prefix}{name}.')


def _leaves(name: str, hint: Any, value: Any) -> Iterator[Leaf]:
    if isinstance(value, nn.Module):
        for leaf in _network_leaves(hint, value):
            yield leaf._replace(name=f'{name}.{leaf.name}')
    elif _is_group(value):
        if isinstance(value, dict):
            kind = typing.get_args(_plain(hint))[1]
            yield from (Leaf(f'{name}.{key}', kind, each) for key, each in value.items())
        else:
            yield from leaves(value, f'{name}.')
    else:
        yield Leaf(name, hint, value)


def _network_leaves(hint: Any, network: nn.Module) -> Iterator[Leaf]:
    names = [name for name, cls in _registry(hint).entries.items() if cls is type(network)]
    yield Leaf('name', str, names[0] if names else type(network).__name__)
    for name, kind in options(type(network)).items():
        yield Leaf(name, kind, getattr(network, name))


def _make_network(hint: Any, values: Mapping[str, Any]) -> nn.Module:
    registry, name = _registry(hint), values['name']
    if name not in registry.entries:
        choices = ', '.join(registry.entries)
        raise UserError(f'{registry.kind}.name is {name!r}; choose one of {choices}.')
    known = {k: values[k] for k in options(registry.entries[name]) if k in values}
    return registry.entries[name](
        **{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
    )


def _registry(hint: Any) -> Registry:
    return next(note for note in hint.__metadata__ if isinstance(note, Registry))


def _has_key(hint: Any, key: str) -> bool:
    notes = [note for note in getattr(hint, '__metadata__', ()) if isinstance(note, Registry)]
    return all(key in note.entries for note in notes)


def _is_group(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, dict)


def _plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _has_type(kind: Any, value: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_has_type(int, item) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f'one of {", ".join(typing.get_args(kind))}'
    if typing.get_origin(kind) is tuple:
        return 'whole numbers separated by commas'
    return {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a string'}[kind]
