"""What the command line's options are: one flag per key of a configuration, made from config.py, and those all commands share.

Values stay texts here: `resolve` converts those of every layer (file, environment, flag) alike, with one set of messages.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import yaml
from cyclopts import Group, Parameter

from .errors import ConfigError
from .resolve import option_defaults, option_help, option_types, owners_of

_BOOLEAN_WORDS = ("true", "false", "yes", "no", "on", "off", "1", "0")
RUN = Group("Run", sort_key=1)
OUTPUT = Group("Output", sort_key=99)

Method = Literal["shapley", "difference", "banzhaf", "critic", "mixer", "mixer-ig", "interactions", "switch-off", "temporal", "inputs"]


@dataclass(frozen=True)
class Common:
    """Options of every command."""

    json: bool = False
    """One JSON document on standard output instead of text (train: one JSON object per line), errors included."""
    quiet: Annotated[bool, Parameter(alias="-q")] = False
    """Results and errors only."""
    verbose: Annotated[bool, Parameter(alias="-v")] = False
    """More: where settings come from, every line of metrics, warnings of packages, the trace of an internal error."""
    no_progress: bool = False
    """Plain lines instead of a progress bar (as on anything that is no terminal, and with NO_COLOR set)."""
    threads: Annotated[int, Parameter(env_var="MARL_THREADS", metavar="N")] = 1
    """Threads of the tensor library. Small networks run slower on more than one."""

    def __post_init__(self):
        if self.threads < 1:
            raise ConfigError(f"--threads {self.threads} must be at least 1")


CommonOptions = Annotated[Common, Parameter(name="*", group=OUTPUT)]
TaskOptions = Annotated[
    dict[str, str] | None, Parameter(name="--env", group=RUN, metavar="VALUE", help="Options of the task itself: --env.NAME VALUE.")
]


def _dashes(name: str) -> str:
    return name.replace("_", "-")


def _default(value: Any) -> str:
    """How a default reads in the help; nothing for one that is not set."""
    if value is None or value == ():
        return ""
    return f" [default: {str(value).lower() if isinstance(value, bool) else value}]"


def _metavar(kind: Any) -> str:
    """What a value looks like, in a word."""
    origin, options = get_origin(kind), [option for option in get_args(kind) if option is not type(None)]
    if origin is Literal:
        return "|".join(map(str, options))
    if origin is tuple:
        return "A,B"
    if options:
        return "|".join(_metavar(option) for option in options)
    return {int: "N", float: "X", bool: "true|false"}.get(kind, "TEXT")


def make_option_class() -> type:
    """A dataclass with one optional text per configuration key; the key's own last name is an alias where it is unique."""
    defaults, texts = option_defaults(), option_help()
    groups = {"": RUN}
    members = []
    for key, kind in option_types().items():
        if key == "task":
            continue
        section, _, leaf = key.rpartition(".")
        if section not in groups:
            groups[section] = Group(section.capitalize(), sort_key=1 + len(groups))
        names = list(dict.fromkeys([f"--{key}", f"--{leaf}"])) if owners_of(leaf, option_types()) == [key] else [f"--{key}"]
        parameter = Parameter(
            name=[_dashes(name) for name in names],
            help=texts[key] + _default(defaults[key]),
            group=groups[section],
            metavar=_metavar(kind),
            show_default=False,
        )
        members.append((key.replace(".", "__"), Annotated[str | None, parameter], field(default=None)))
    # The module is said because cyclopts takes a class of `types`, where make_dataclass would put it, for a built-in.
    return make_dataclass("ConfigOptions", members, namespace={"__module__": __name__}, frozen=True)


if TYPE_CHECKING:
    from .cli_output import Screen

    ConfigOptions = Any
else:
    ConfigOptions, Screen = make_option_class(), Any

NO_COMMON = Common()
Options = Annotated[ConfigOptions, Parameter(name="*")]
Output = Annotated[Screen, Parameter(parse=False)]
"""The screen, which `main` hands to every command."""
Preset = Annotated[str | None, Parameter(group=RUN)]
ConfigFile = Annotated[Path | None, Parameter(name="--config", group=RUN)]


def flags_layer(task: str | None, options: Any, env: Mapping[str, str] | None) -> dict[str, Any]:
    """What was said on the command line itself, by dotted key."""
    return ({} if task is None else {"task": task}) | ({} if options is None else given(options)) | task_options(env)


def given(options: Any) -> dict[str, str]:
    """The flags that were set, by dotted key."""
    values = {item.name.replace("__", "."): getattr(options, item.name) for item in fields(options)}
    return {key: value for key, value in values.items() if value is not None}


def task_options(env: Mapping[str, str] | None) -> dict[str, Any]:
    """`--env.NAME VALUE` as keys of a configuration; values are read as YAML, so 5 is a number and true a truth value."""
    return {f"env.{name.replace('-', '_')}": _yaml_value(name, text) for name, text in (env or {}).items()}


def complete_flags(tokens: Sequence[str]) -> list[str]:
    """Tokens in which every flag that may stand alone has its value: `--learner.double` is `--learner.double=true`.

    For yes-or-no keys (also `--no-learner.double`) and for `--env.NAME`, whose value is missing when another option or nothing follows.
    """
    switches = _switches()
    whole: list[str] = []
    for position, token in enumerate(tokens):
        if token == "--":
            return [*whole, *tokens[position:]]
        following = tokens[position + 1] if position + 1 < len(tokens) else None
        name = token.replace("_", "-")
        if name in switches and (following is None or following.lower() not in _BOOLEAN_WORDS):
            whole.append(f"{token}=true")
        elif name.startswith("--no-") and f"--{name[5:]}" in switches:
            whole.append(f"--{name[5:]}=false")
        elif token.startswith("--no-env.") and "=" not in token:
            whole.append(f"--env.{token[9:]}=false")
        elif token.startswith("--env.") and "=" not in token and (following is None or re.match(r"--|-[A-Za-z]", following)):
            whole.append(f"{token}=true")
        else:
            whole.append(token)
    return whole


def parse_numbers(text: str, option: str) -> list[int]:
    """ "0-4" or "0,3,5" or both mixed, as numbers in that order, each once."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if high < low:
            raise ConfigError(f'{option}: "{text}" is no list of seeds', remedy=f"write {option} 0-4 or {option} 0,3,5")
        numbers += range(low, high + 1)
    return list(dict.fromkeys(numbers))


def _switches() -> set[str]:
    """Every name of a yes-or-no key."""
    kinds = option_types()
    keys = [key for key, kind in kinds.items() if kind is bool]
    alone = [leaf for key in keys if owners_of(leaf := key.rpartition(".")[2], kinds) == [key]]
    return {_dashes(f"--{key}") for key in [*keys, *alone]}


def _yaml_value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--env.{name}: {text!r} is not readable as YAML: {str(error).splitlines()[0]}") from error
