"""Images to features: a small convolutional encoder that stands before an agent's first layer.

    x_{l+1} = relu(conv3x3, stride 2, padding 1 (x_l)),     l = 0, 1, 2

Each step halves height and width (rounded up), so any image, down to a single pixel, has an output. Every agent's image is
encoded by itself: by the same filters for all agents, or by filters of its own.
"""

from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..envs.base import TeamSpec
from .config import NetworkConfig
from .errors import ConfigError

CHANNELS = (16, 32, 32)


class ImageEncoder(nn.Module):
    """Flattened images (row, column, channel) to flat features, agent by agent."""

    def __init__(self, num_agents: int, shape: tuple[int, ...], *, share: bool):
        """`shape` is (height, width, channels); with `share` off each agent has filters of its own (grouped convolution)."""
        super().__init__()
        self.num_agents, self.shape = num_agents, shape
        self.groups = 1 if share else num_agents
        height, width, inputs = shape
        self.layers = nn.ModuleList()
        for outputs in CHANNELS:
            self.layers.append(
                nn.Conv2d(inputs * self.groups, outputs * self.groups, kernel_size=3, stride=2, padding=1, groups=self.groups)
            )
            height, width, inputs = (height + 1) // 2, (width + 1) // 2, outputs
        self.features = prod((height, width, inputs))

    def forward(self, obs: Float[Tensor, "*batch agent pixel"]) -> Float[Tensor, "*batch agent feature"]:
        lead = obs.shape[:-1]
        x = obs.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        if self.groups > 1:
            x = x.unflatten(0, (-1, self.num_agents)).flatten(1, 2)
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.reshape(*lead, self.features)


def image_shape(config: NetworkConfig, spec: TeamSpec) -> tuple[int, ...] | None:
    """(height, width, channels) where the agents look at images with convolutions, None where observations enter flat.

    Raises ConfigError for `network.encoder cnn` on a task whose agents do not all observe images of one shape.
    """
    if config.encoder == "cnn" and spec.obs_shape is None:
        raise ConfigError(
            f"network.encoder cnn needs images: the agents of {spec.name} observe {spec.obs_dim} numbers each, not images of one shape",
            remedy="network.encoder auto chooses by the task",
        )
    images = config.encoder == "cnn" or (config.encoder == "auto" and spec.obs_dtype == torch.uint8)
    return spec.obs_shape if images else None
