"""Check a file against a model, and say what is wrong the way an operator needs it.

Every file that an operator writes comes through here. Types are strict: nothing
is guessed from a string, an unknown key is an error. A `description` in a model
is the remedy of a wrong value, so it is written as an instruction.
"""

import difflib
import os
import stat
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from webguard.errors import ConfigError
from webguard.policy import yaml


class Section(BaseModel):
    """Keys of a file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def sequence(value: object) -> object:
    """Take a list of the file as a tuple, which cannot be changed."""
    return tuple(value) if isinstance(value, list) else value


def one_or_more(value: object) -> object:
    """Take a single word as a list of it."""
    return (value,) if isinstance(value, str) else sequence(value)


def unique[T](values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a value that is there twice: one of them is a mistake."""
    seen: set[T] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value!r} is here twice")
        seen.add(value)
    return values


def section(value: object) -> object:
    """Take a section whose keys are all commented out as one that says nothing."""
    return {} if value is None else value


def read(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file, at most one more than `most`.

    Raises `FileNotFoundError`, and `ConfigError` for everything else.
    """
    try:
        # Non-blocking, so that a FIFO in the file's place cannot hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path}:1", "this is not a regular file (put a file in its place)")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def folder(path: Path) -> list[Path]:
    """Return the YAML files of a folder in the order of their names; none if it is not there."""
    try:
        names = sorted(each.name for each in path.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, error) from error
    for name in names:
        # Passed over in silence, it would be a policy that somebody believes in.
        if name.lower().endswith((".yml", ".json")) and not name.startswith("."):
            raise ConfigError(
                f"{path / name}:1", "only files called *.yaml are read (rename or remove it)"
            )
    return [path / name for name in names if name.endswith(".yaml") and not name.startswith(".")]


def parse[M: BaseModel](model: type[M], content: bytes, name: str) -> tuple[M, yaml.Document]:
    """Return what the file called `name` says, and where it says it, or raise `ConfigError`."""
    document = yaml.parse(content, name)
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}:{document.line(())}", "the file must hold keys (write `key: value` lines)"
        )
    try:
        return model.model_validate(value), document
    except ValidationError as error:
        typos = _typos(model, error.errors())
        # A missing key has no line of its own; its typo, which has, tells of both.
        told = [each for each in error.errors() if tuple(each["loc"]) not in typos.values()]
        found = [(document.line(tuple(each["loc"])), each) for each in told]
        line, first = min(found, key=lambda each: each[0])
        raise ConfigError(f"{name}:{line}", _explain(model, first)) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}:1", f"cannot read it: {error.strerror} (correct its owner, mode and path)"
    )


def _typos(model: type[BaseModel], errors: list[ErrorDetails]) -> dict[yaml.Path, yaml.Path]:
    """Return the unknown keys that are meant to be missing ones, and these."""
    missing = {tuple(each["loc"]) for each in errors if each["type"] == "missing"}
    unknown = [tuple(each["loc"]) for each in errors if each["type"] == "extra_forbidden"]
    meant = {each: (*each[:-1], _near(model, each)) for each in unknown}
    return {each: key for each, key in meant.items() if key in missing}


def _explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say what is wrong with one value, and what to write instead."""
    path = tuple(error["loc"])
    dotted = ".".join(str(part) for part in path)[:128]
    if error["type"] == "extra_forbidden":
        return f"unknown key {dotted!r} ({_suggest(model, path)})"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{dotted}: this is not a section ({_remedy(model, path)})"
    if error["type"] == "missing":
        return f"there is no key {dotted!r} ({_remedy(model, path)})"
    said = error["msg"].removeprefix("Value error, ")
    said = f"{said[:1].lower()}{said[1:]}"
    # Our own messages carry their remedy.
    if not said.endswith(")"):
        said = f"{said} ({_remedy(model, path)})"
    return f"{dotted}: {said}" if dotted else said


def _suggest(model: type[BaseModel], path: yaml.Path) -> str:
    known = list(_model_at(model, path[:-1]).model_fields)
    near = _near(model, path)
    if not near:
        return f"the keys here are {', '.join(known)}"
    field = _model_at(model, path[:-1]).model_fields[near]
    # What may stand there is worth saying where a value must.
    needs = f" {field.description}" if field.is_required() and field.description else ""
    return f"did you mean {near}?{needs}"


def _near(model: type[BaseModel], path: yaml.Path) -> str:
    """Return the key that an unknown one resembles, or ""."""
    known = list(_model_at(model, path[:-1]).model_fields)
    return next(iter(difflib.get_close_matches(str(path[-1])[:64], known, n=1)), "")


def _remedy(model: type[BaseModel], path: yaml.Path) -> str:
    remedy = ""
    for index, part in enumerate(path):
        found = _model_at(model, path[:index]).model_fields.get(str(part))
        if found is None:  # an item of a list
            continue
        remedy = found.description or remedy
    return remedy or "correct it"


def _model_at(model: type[BaseModel], path: yaml.Path) -> type[BaseModel]:
    for part in path:
        found = model.model_fields.get(str(part))
        if found is not None:
            model = _section_in(found.annotation) or model
    return model


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Return the model in `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section_in(each))), None)
