"""The command that asks what one other action would have changed in one episode."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_errors import OK
from .cli_options import NO_COMMON, CommonOptions, Output
from .cli_output import number, table

if TYPE_CHECKING:
    from .run import Run
    from .whatif import WhatIf

_WAYS = {
    "rows": "rows of tensors",
    "copy": "an exact copy of the live environment",
    "replay": "a replay of the episode, compared with what was seen",
    "select": "the task's own select",
}


def whatif(
    run: str,
    /,
    *,
    episode: int,
    step: int,
    agent: str,
    action: str,
    hold: int = 1,
    out: Path | None = None,
    no_pictures: bool = False,
    scale: float = 1.0,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Play one episode twice, in the second world with one agent's action replaced, and say what that changes.

    Both worlds draw the same random numbers, so what differs is the effect of that one choice in this one episode.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    episode
        Which of the episodes of marl credit, from 0.
    step
        The env step at which the action is replaced, from 0.
    agent
        The agent's name.
    action
        What it does instead: an action's name or number.
    hold
        Env steps for which it does so; where the action is not available its own is taken.
    out
        FILE.webp or FILE.gif: both worlds side by side; FILE.png: a strip of moments. Default: a .webp in the run folder.
    no_pictures
        Figures alone.
    scale
        Of the pictures' size.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .run import load
    from .whatif import what_if

    opened = load(run)
    path = None if no_pictures else out or default_path(opened, f"episode_{episode}-step_{step}-{agent}-{action}")
    found = what_if(opened, episode=episode, step=step, agent=agent, action=action, hold=hold, out=path, scale=scale)
    screen.say(f"{opened.folder} at {opened.env_steps:,} env steps, episode {episode} (seed {found.seed})")
    screen.result(whatif_text(opened, found))
    screen.document(whatif_document(opened, found, episode))
    return OK


def default_path(run: "Run", name: str) -> Path:
    """Where pictures go when nobody says where: the folder of the run's findings."""
    from .checkpoint import disk_error

    path = run.folder / "credit" / f"whatif-at_{run.env_steps}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.webp"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    return path


def whatif_document(run: "Run", found: "WhatIf", episode: int) -> dict[str, Any]:
    """`marl whatif --json`."""
    worlds = {
        name: {"return": world.team_return, "return_from_step": world.return_from_step, "env_steps": world.env_steps, "end": world.end}
        for name, world in (("as_played", found.as_played), ("what_if", found.replaced))
    }
    return {
        "run": str(run.folder),
        "env_steps": run.env_steps,
        "episode": episode,
        "seed": found.seed,
        "step": found.step,
        "agent": found.agent,
        "action": _named(run, found, found.action),
        "taken": _named(run, found, found.taken),
        "hold": found.hold,
        "held": found.held,
        **worlds,
        "difference": found.difference,
        "worlds_part": found.worlds_part,
        "others_react": found.others_react,
        "first_to_react": found.first_to_react,
        "second_world": found.way,
        "out": None if found.pictures is None else str(found.pictures),
        "frames": found.frames,
        "no_pictures": found.no_pictures or None,
    }


def whatif_text(run: "Run", found: "WhatIf") -> str:
    """`marl whatif`."""
    action, taken = (_word(run, found, number) for number in (found.action, found.taken))
    held = f", held for {found.held} of {found.hold} env steps" if found.hold > 1 or found.held != found.hold else ""
    rows = [
        (name, number(world.team_return), number(world.return_from_step), f"{world.end} after {world.env_steps:,} env steps")
        for name, world in ((f"as played ({taken})", found.as_played), (f"what if ({action})", found.replaced))
    ]
    rows.append(("difference", f"{found.difference:+.6g}", "", ""))
    lines = [f"{found.agent} at step {found.step}: {action} instead of {taken}{held}"]
    lines.append(table(("world", "team return", f"from step {found.step} on", "end"), rows))
    lines.append(_parting(found))
    lines.append(f"The second world is {_WAYS[found.way]}.")
    if found.pictures is not None:
        lines.append(f"{found.pictures}  {found.frames:,} {'picture' if found.frames == 1 else 'pictures'}")
    if found.no_pictures:
        lines.append(f"No pictures: {found.no_pictures}")
    return "\n".join(lines)


def _parting(found: "WhatIf") -> str:
    if found.worlds_part is None:
        return "The two worlds never part: nothing that is seen or paid differs."
    react = (
        "No other agent ever acts otherwise."
        if found.others_react is None
        else f"The first other agent to act otherwise is {found.first_to_react}, at step {found.others_react}."
    )
    return f"The worlds part at step {found.worlds_part}. {react}"


def _word(run: "Run", found: "WhatIf", action: int) -> str:
    named = _named(run, found, action)
    return str(action) if named["name"] is None else f"{named['name']}"


def _named(run: "Run", found: "WhatIf", action: int) -> dict[str, Any]:
    """An action's number, and its name where it has one."""
    spec = run.env.spec
    names: tuple[str, ...] = spec.action_names[spec.agents.index(found.agent)] if spec.action_names else ()
    return {"number": action, "name": names[action] if action < len(names) else None}
