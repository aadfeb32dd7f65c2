"""MAML's policy as an RLlib RLModule: a Gaussian over an environment's own actions, and nothing else."""

import math
from typing import Any

import torch
from gymnasium.spaces import flatdim
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rllib_spirl.envs.tasks import flat_boxes
from rllib_spirl.nets import mlp

# No deviation becomes smaller: inner steps take a policy without exploration nowhere.
LOG_STD_LEAST = math.log(0.05)


class GaussianPolicy(nn.Module):
    """π(a|s) = N(m(s), σ), with a σ that is the same in all states."""

    def __init__(self, state_dim: int, action_dim: int, *, hidden: int, layers: int, initial_std: float) -> None:
        super().__init__()
        # Without LayerNorm, whose second derivative PyTorch gets wrong, without a word, under torch.func.vmap.
        self.mean = mlp(state_dim, action_dim, hidden=hidden, layers=layers, layer_norm=False)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(initial_std)))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (..., S) to the mean and the logarithm of the deviation, (..., A) each."""
        mean = self.mean(states)
        return mean, self.log_std.clamp(min=LOG_STD_LEAST).expand_as(mean)

    @torch.no_grad()
    def keep_wide(self) -> None:
        """Put a deviation that a step took below its least there: below it, it would have no gradient to widen by."""
        self.log_std.clamp_(min=LOG_STD_LEAST)


class AdaptableRLModule(TorchRLModule):
    """A `GaussianPolicy`. What is trained are its parameters before a task is met.

    ``model_config`` (see `MAMLConfig.training`): policy_hidden, policy_layers, initial_std.
    """

    def setup(self) -> None:
        states, actions = flat_boxes("MAML", self.observation_space, self.action_space)
        c: dict[str, Any] = self.model_config
        self.action_dist_cls = TorchDiagGaussian
        self.policy = GaussianPolicy(
            flatdim(states),
            flatdim(actions),
            hidden=c["policy_hidden"],
            layers=c["policy_layers"],
            initial_std=c["initial_std"],
        )

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: torch.cat(self.policy(batch[Columns.OBS].float()), -1)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {}  # the loss asks for other parameters than these, see `maml_loss`
