"""Read YAML the way we want operators to be able to rely on it.

One loader for every file an operator writes. It differs from PyYAML's safe
loader on purpose:

- the words of YAML 1.2: only `true` and `false` are booleans; `on`, `off`,
  `yes` and `no` are words, so `on_failure: off` is a wrong word and not False;
- a key written twice is an error: the one that loses would be a setting that
  somebody believes to be in force;
- no aliases, no tags, no merge keys, bounded depth: a small file stays small;
- the line of every value is kept, so that an error can name it.

Whatever is wrong is a `ConfigError` that names file, line and remedy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import override

import yaml

from webguard.errors import ConfigError

MAX_BYTES = (
    256 * 1024
)  # PyYAML reads about 100 KiB a second at its worst: no file holds us up for long
MAX_DEPTH = 20

type Value = str | int | float | bool | list[Value] | dict[str, Value] | None
type Path = tuple[str | int, ...]

_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a file says, and on which line it says it. Lines count from 1."""

    value: Value
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """Return the line of the value at `path`, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(content: bytes, name: str) -> Document:
    """Parse the bytes of the file called `name`. An empty file is a document of None."""
    text = _decode(content, name)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        lines: dict[Path, int] = {}
        value = _convert(node, (), lines) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = error.problem or error.context or "not YAML"
        raise ConfigError(f"{name}:{line}", _with_remedy(said)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{name}:{line}",
            f"the character U+{ord(text[error.position]):04X} may not stand in YAML"
            " (is this the right file? Remove the character)",
        ) from error
    return Document(value=value, lines=lines)


def _decode(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"{name}:1",
            f"the file is larger than {MAX_BYTES // 1024} KiB (is this the right file?)",
        )
    try:
        # -sig: an editor's byte order mark is not a mistake of the operator's.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}:{line}", "this is not UTF-8 text (is this the right file? Save it as UTF-8)"
        ) from error


def _with_remedy(said: str) -> str:
    """Add what to do, unless the message (one of ours) says so already."""
    if said.endswith(")"):
        return said
    if "another document" in said:
        return "a second document starts here (keep one, without --- lines)"
    if r"'\t'" in said:
        return f"{said} (indent with spaces, never with tabs)"
    return f"{said} (check quotes, colons and indentation on this line and the one before)"


class _Loader(yaml.SafeLoader):
    """The safe loader with the rules of this module."""

    # A dictionary of our own, or we would change PyYAML's for everybody.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None,
                None,
                "aliases (*name) are not allowed (write the value out, or put it in quotes)",
                event.start_mark,
            )
        if self._depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {MAX_DEPTH} (no setting is)", event.start_mark
            )
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


# YAML 1.2.2, section 10.3.2 (core schema). The second argument lists the
# characters such a scalar can start with.
for _tag, _pattern, _first in (
    ("null", r"|null|Null|NULL|~", ["", "n", "N", "~"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"{_PREFIX}{_tag}", re.compile(rf"^(?:{_pattern})\Z"), _first)


def _convert(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Value:
    lines[path] = node.start_mark.line + 1
    kind = node.tag.removeprefix(_PREFIX)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, kind)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_convert(each, (*path, index), lines) for index, each in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, path, lines)
    raise _refuse(node, "this tag is not allowed (remove the word that starts with !)")


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for key_node, value_node in node.value:
        key = (
            _scalar(key_node, key_node.tag.removeprefix(_PREFIX)) if _is_scalar(key_node) else None
        )
        if not isinstance(key, str):
            raise _refuse(key_node, "a key must be a word (put it in quotes if it is one)")
        if key in result:
            first = lines[(*path, key)]
            raise _refuse(
                key_node, f"{key[:64]!r} is here twice, first on line {first} (keep one of them)"
            )
        result[key] = _convert(value_node, (*path, key), lines)
        # The line of an entry is its key's: the value may start further down.
        lines[(*path, key)] = key_node.start_mark.line + 1
    return result


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _scalar(node: yaml.ScalarNode, kind: str) -> Value:
    text: str = node.value
    try:
        match kind:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "int":
                base = {"0o": 8, "0x": 16}.get(text[:2], 10)
                return int(text, base)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case _:
                pass
    except (ValueError, KeyError) as error:
        # An explicit tag that does not fit, or a number of thousands of digits.
        raise _refuse(
            node, f"this is not a valid {kind} (correct it, or put it in quotes)"
        ) from error
    raise _refuse(node, "this tag is not allowed (remove the word that starts with !)")


def _refuse(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
