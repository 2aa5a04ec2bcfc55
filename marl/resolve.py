"""From layers of options to one Config, remembering where each value came from.

Precedence: defaults < preset < configuration file < environment variables < flags. Keys are dotted (`mixer.embed_dim`);
a field's own name alone is accepted where it is unique (`embed_dim`). Values may be texts ("400k", "true").
"""

import dataclasses
import difflib
import math
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from .config import Config
from .errors import ConfigError, suggest

PREFIX = "MARL_"
NOT_OPTIONS = {"MARL_RUNS", "MARL_THREADS"}
"""Environment variables of the command line itself."""


@dataclass(frozen=True)
class Resolved:
    """A configuration and, for each dotted key, which layer set it."""

    config: Config
    sources: dict[str, str]


def option_types() -> dict[str, Any]:
    """Every dotted key with its type, in order; `env` stands for the task's own options (env.NAME)."""
    return _types_of(Config, "")


def option_help() -> dict[str, str]:
    """Every dotted key with the text under its field."""
    return _help_of(Config, "")


def option_defaults() -> dict[str, Any]:
    """Every dotted key with its default (`task` has none)."""
    return flatten_config(Config(task=""))


def flatten_config(config: Config) -> dict[str, Any]:
    """A configuration as dotted keys."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{item.name}.{inner.name}": getattr(value, inner.name) for inner in dataclasses.fields(value)}
        elif item.name == "env":
            flat |= {f"env.{name}": option for name, option in value.items()}
        else:
            flat[item.name] = value
    return flat


def resolve(layers: list[tuple[str, Mapping[str, Any]]]) -> Resolved:
    """Later layers win. Raises ConfigError naming the layer for an unknown key or a value of the wrong kind, and for a broken rule."""
    values, sources = merge(layers)
    return Resolved(build(values), sources)


def merge(layers: list[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Every dotted key's value, defaults included, and which layer set it; the rules between values are not looked at."""
    types_by_key = option_types()
    values, sources = option_defaults(), {}
    for source, layer in layers:
        for raw_key, raw in flatten_mapping(layer).items():
            key = canonical_key(raw_key, types_by_key, source)
            values[key] = raw if key.startswith("env.") else convert(raw, types_by_key[key], f"{source}: {key}")
            sources[key] = source
    return values, sources


def build(values: Mapping[str, Any]) -> Config:
    """A Config from dotted keys of the right types; ConfigError carries the sentence of the broken rule."""
    if not values["task"]:
        raise ConfigError("no task was named", remedy="marl train TASK; marl envs list shows the tasks")
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        if name:
            groups.setdefault(group, {})[name] = value
        else:
            top[key] = value
    hints = get_type_hints(Config)
    try:
        parts: dict[str, Any] = {group: (fields if group == "env" else hints[group](**fields)) for group, fields in groups.items()}
        return Config(**top, **parts)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def canonical_key(raw: str, known: Mapping[str, Any], source: str) -> str:
    """The dotted key a user meant; ConfigError with the nearest one otherwise."""
    key = raw.replace("-", "_")
    if key in known or key.startswith("env."):
        return key
    owners = owners_of(key, known)
    if len(owners) == 1:
        return owners[0]
    if owners:
        raise ConfigError(f'{source}: "{raw}" could be any of {", ".join(owners)}: write it in full')
    close = difflib.get_close_matches(key, known, 1) or difflib.get_close_matches(key, [name.rpartition(".")[2] for name in known], 1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise ConfigError(f'{source}: unknown key "{raw}".{hint}', remedy="marl config show lists every key")


def owners_of(name: str, known: Iterable[str]) -> list[str]:
    """The dotted keys a bare name may stand for; the critic's and the redistribution's are meant only where nothing else has the name."""
    owners = [key for key in known if key.rpartition(".")[2] == name]
    return [key for key in owners if not key.startswith(("critic.", "redistribution."))] or owners


def flatten_mapping(layer: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys (a mapping under env.NAME stays a value)."""
    flat: dict[str, Any] = {}
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not name.startswith("env."):
            flat |= flatten_mapping(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def read_file(path: Path) -> dict[str, Any]:
    """A YAML configuration file's mapping."""
    if not path.is_file():
        raise ConfigError(f"no configuration file {path}", remedy="marl config show > c.yaml writes one to start from")
    try:
        loaded = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not readable YAML: {str(error).splitlines()[0]}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path.name} must hold keys and values, not a {type(loaded).__name__}")
    return loaded


def read_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Options set as MARL_<KEY>, dots written as underscores: MARL_LEARNER_LR=1e-3."""
    names = {PREFIX + key.replace(".", "_").upper(): key for key in option_types()}
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in NOT_OPTIONS:
            continue
        if variable in names:
            found[names[variable]] = value
            continue
        close = difflib.get_close_matches(variable, names, 1, cutoff=0.8)
        if close:
            raise ConfigError(f"environment variable {variable} is no option. Did you mean {close[0]}?")
    return found


def convert(raw: Any, wanted: Any, where: str) -> Any:
    """`raw` as the wanted type: numbers may be texts (400k, 3M, 1e-3), booleans true/false, lists comma-separated."""
    origin, options = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if type(None) in options and (raw is None or raw == "none"):
            return None
        for option in (item for item in options if item is not type(None)):
            try:
                return convert(raw, option, where)
            except ConfigError:
                continue
        raise ConfigError(f"{where}: {raw!r} is not {_describe(wanted)}")
    if origin is Literal:
        text = {True: "true", False: "false", None: "none"}.get(raw, raw) if isinstance(raw, bool | None) else raw
        if text in options:
            return text
        known = [str(option) for option in options]
        raise ConfigError(f"{where}: {raw!r} is not one of {', '.join(known)}.{suggest(str(text), known)}")
    if origin is tuple:
        if raw is not None and not isinstance(raw, str | list | tuple):
            raise ConfigError(f"{where}: {raw!r} is not a list (write A,B)")
        items = raw.split(",") if isinstance(raw, str) else raw or ()
        return tuple(str(item).strip() for item in items if str(item).strip())
    if wanted is bool:
        return _convert_bool(raw, where)
    if wanted in (int, float):
        return _convert_number(raw, wanted, where)
    if isinstance(raw, str):
        return raw
    raise ConfigError(f"{where}: {raw!r} is not text")


def _convert_bool(raw: Any, where: str) -> bool:
    if isinstance(raw, bool):
        return raw
    text = str(raw).lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise ConfigError(f"{where}: {raw!r} is not true or false")


def _convert_number(raw: Any, wanted: type, where: str) -> int | float:
    if isinstance(raw, bool):
        raise ConfigError(f"{where}: {raw!r} is not a number")
    match = re.fullmatch(r"\s*([-+]?[\d_.]+(?:[eE][-+]?\d+)?)\s*([kKmMgG]?)\s*", str(raw))
    try:
        number = float(match.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match.group(2).lower()] if match else None
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        raise ConfigError(f"{where}: {raw!r} is not a number (400000, 400k, 3M and 1e-3 are)")
    if wanted is int:
        if re.fullmatch(r"[-+]?\d+", str(raw)):
            return int(raw)  # exactly, above 2**53 too
        if number != int(number):
            raise ConfigError(f"{where}: {raw!r} is not a whole number")
        return int(number)
    return number


def _describe(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}
    return " or ".join(names.get(option, " or ".join(map(str, get_args(option)))) for option in get_args(wanted))


def _types_of(cls: type, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= _types_of(hint if isinstance(hint, type) else type(hint), f"{name}.")
        elif prefix or name != "env":
            found[prefix + name] = hint
    return found


def _help_of(cls: type, prefix: str) -> dict[str, str]:
    """Field docstrings are kept in the source only: read them from there once."""
    import ast
    import inspect
    import textwrap

    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    hints = get_type_hints(cls)
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        hint = hints[field.target.id]
        if dataclasses.is_dataclass(hint):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[prefix + field.target.id] = str(text.value.value)
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            found |= _help_of(hint if isinstance(hint, type) else type(hint), f"{name}.")
    return found
