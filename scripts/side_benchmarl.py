"""BenchMARL's experiment as a side of scripts/bench_peers.py: its default QMIX on PettingZoo's spread.

    python scripts/side_benchmarl.py qmix|vdn

Its default ratio of 1,000 updates of 128 to 6,000 frames is kept in portions of 60 updates to 360 frames, so that a turn is short. Needs
benchmarl 1.5.2 with torchrl 0.11.1; it asks for torchvision too, which it does not use here (pip install --no-deps benchmarl). Its
PettingZoo task asks for pettingzoo.mpe, which is mpe2 now.
"""

# pyright: reportMissingImports=false
import importlib
import sys
import tempfile
import types
from typing import Any

import torch
from side_epymarl import Handover
from teamcredit.marl.bench.child import serve
from teamcredit.marl.bench.clock import Side

FRAMES, UPDATES = 360, 60


def make(algo: str) -> tuple[Side, dict[str, Any]]:
    """The side, before its first portion."""
    torch.set_num_threads(1)
    everything: Any = types.ModuleType("pettingzoo.mpe.all_modules")
    everything.mpe_environments = {"mpe/simple_spread_v3": importlib.import_module("mpe2.simple_spread_v3")}
    sys.modules.update({"pettingzoo.mpe": importlib.import_module("mpe2"), "pettingzoo.mpe.all_modules": everything})
    from benchmarl.algorithms import QmixConfig, VdnConfig
    from benchmarl.environments import PettingZooTask
    from benchmarl.experiment import Callback, Experiment, ExperimentConfig
    from benchmarl.models.mlp import MlpConfig

    handover = Handover()

    class Waiting(Callback):
        def on_train_end(self, training_td: Any, group: str) -> None:
            handover.step(FRAMES)

    config = ExperimentConfig.get_from_yaml()
    config.loggers, config.create_json, config.evaluation = [], False, False
    config.save_folder = tempfile.mkdtemp()
    config.off_policy_collected_frames_per_batch, config.off_policy_n_optimizer_steps = FRAMES, UPDATES
    config.off_policy_memory_size, config.max_n_frames = 50_000, 10**9
    experiment = Experiment(
        task=PettingZooTask.SIMPLE_SPREAD.get_from_yaml(),
        algorithm_config={"qmix": QmixConfig, "vdn": VdnConfig}[algo].get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(), critic_model_config=MlpConfig.get_from_yaml(),
        seed=0, config=config,
    )  # fmt: skip
    experiment.callbacks.append(Waiting())  # afterwards, since those given to it are pickled
    handover.start(experiment.run)
    return handover.turn, {"torch": torch.__version__, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    serve(lambda: make(sys.argv[1]))
