"""Skills that are chunks of an environment's own actions: there is nothing to learn, and no data is needed."""

from pathlib import Path

import torch
from torch import nn

from rllib_spirl.skills.checkpoint import SkillCard, save_skills
from rllib_spirl.skills.model import SkillModel, SkillModelConfig


def chunk_config(state_dim: int, action_dim: int, horizon: int = 1) -> SkillModelConfig:
    """Of chunks of ``horizon`` actions; with a horizon of 1 a skill is one action."""
    return SkillModelConfig(
        state_dim=state_dim,
        action_dim=action_dim,
        horizon=horizon,
        latent_dim=horizon * action_dim,
        decoder="identity",
        hidden=8,
        layers=1,
        prior_layers=1,
    )


def save_chunks(directory: str | Path, shape: SkillModelConfig) -> Path:
    """Write a skill checkpoint whose z is a chunk of actions and whose prior is N(0, I). States are not normalised.

    Args:
        directory: Where to.
        shape: From `chunk_config`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same file every time
        model = SkillModel(shape)
    head = model.prior.net[-1]
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return save_skills(directory, model, SkillCard(model=model.config))
