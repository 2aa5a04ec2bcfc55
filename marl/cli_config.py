"""`marl config show`: a resolved configuration as YAML, with where each value came from as a comment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .resolve import Resolved, flatten_config, flatten_mapping

EXAMPLE_TASK = "native/spread"
"""Stands in the text when no task was named, so that the file can be used as it is."""


def of_options(flags: Mapping[str, Any], preset: str | None, file: Path | None) -> Resolved:
    """What `marl train` would use."""
    from .presets import NO_PRESET, preset_layers
    from .resolve import read_environment, read_file
    from .run import configure

    presets = [] if preset is None else [layer for _, layer in preset_layers(preset)]
    layers = [*presets, {} if file is None else read_file(file), read_environment(), flags]
    if any("task" in flatten_mapping(layer) for layer in layers):
        return configure(preset=preset, file=file, options=flags)
    resolved = configure(preset=preset or NO_PRESET, file=file, options={**flags, "task": EXAMPLE_TASK})
    return Resolved(resolved.config, resolved.sources | {"task": "example"})


def of_run(name: str) -> Resolved:
    """What a run was made with."""
    from .folder import find_folder, read_config
    from .resolve import read_file

    folder = find_folder(name.partition("@")[0])
    return Resolved(read_config(folder), read_file(folder / "sources.yaml"))


def to_text(resolved: Resolved, *, with_sources: bool) -> str:
    """YAML that `--config` reads back, one key a line."""
    lines: list[tuple[str, str]] = []
    section = ""
    for key, value in flatten_config(resolved.config).items():
        head, _, leaf = key.rpartition(".")
        if head != section and head:
            lines.append((f"{head}:", ""))
        section = head
        plain = list(value) if isinstance(value, tuple) else value
        text = f"{leaf}: {_in_one_line(plain)}"
        lines.append((f"  {text}" if head else text, resolved.sources.get(key, "default")))
    if not with_sources:
        return "\n".join(text for text, _ in lines)
    width = max(len(text) for text, source in lines if source)
    return "\n".join(f"{text.ljust(width)}  # {source}" if source else text for text, source in lines)


def _in_one_line(value: Any) -> str:
    """A value in YAML's flow style, so that each key keeps to its line."""
    end_of_document = "...\n"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix(end_of_document).strip()
