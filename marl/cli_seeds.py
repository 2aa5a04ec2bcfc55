"""Several seeds that train together, shown as one: a bar, the mean over the seeds, then a line per seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cli_output import Screen, number, with_interval
from .cli_progress import TrainView, catching_signals
from .cli_train import conclude_seeds
from .resolve import Resolved


class SeedsView(TrainView):
    """`TrainView` of all seeds: the first one's progress stands for all, figures are means over the seeds."""

    def __init__(self, screen: Screen):
        super().__init__(screen)
        self.lead: str | None = None
        self.figures: dict[str, dict[int, float]] = {"return": {}, "loss": {}}
        self.owes_line = False

    def __call__(self, event: dict[str, Any]) -> None:
        if "run" in event:
            self.screen.folder = Path(event["run"])
        super().__call__(event)

    def _on_start(self, event: dict[str, Any]) -> None:
        if self.lead is None:
            self.lead = event["run"]
            super()._on_start(event)
        else:
            self.screen.say(f"run folder  {event['run']}")
            self.screen.log(f"start at {event['env_steps']} of {event['steps']} env steps")

    def _on_progress(self, event: dict[str, Any]) -> None:
        if event["run"] != self.lead:
            return
        super()._on_progress(event)
        if self.owes_line and self.bar is None:
            self._line()
        self.owes_line = False

    def _on_train(self, event: dict[str, Any]) -> None:
        super()._on_train(event)
        self._show("loss", event["seed"], event["loss"])

    def _on_evaluation(self, event: dict[str, Any]) -> None:
        self._show("return", event["seed"], event["return"])
        text = f"{with_interval(event['return'], event['interval'])} over {event['episodes']} episodes"
        self.screen.log(f"evaluation at {event['env_steps']} env steps: {text}")
        self.owes_line = not event["final"]

    def _show(self, name: str, seed: int, value: float | None) -> None:
        if value is not None:
            self.figures[name][seed] = value
            self.shown[name] = sum(self.figures[name].values()) / len(self.figures[name])


def train_together(screen: Screen, layers: Sequence[Resolved], out: Path | None) -> None:
    """Train all seeds in this process, in view and under Ctrl-C, and say what each reached."""
    from .seed_runs import start_together

    finals: list[dict[str, Any]] = []
    with SeedsView(screen) as view, catching_signals() as stop:

        def on_event(event: dict[str, Any]) -> None:
            view(event)
            if event["event"] == "done":
                finals.append(event)

        start_together(layers, out=out, on_event=on_event, stop_signal=stop)
    for final in finals:
        outcome = final["return"]
        screen.result(f"seed {final['seed']}  final return {number(outcome['mean'])} ({outcome['episodes']} episodes)  {final['run']}")
    conclude_seeds(screen, finals)
    screen.say(f"next        marl eval {finals[0]['run']}  (each is a run of its own: eval, credit, lazy and resume work on it)")
