"""What a library of skills holds: its card, its latent dimensions, and what skills drawn from the prior do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch.distributions import Normal, kl_divergence

from rllib_spirl.algorithm.checkpoint_files import kept_skills
from rllib_spirl.data import DataSet
from rllib_spirl.data.windows import has_window, picture_pairs, window_starts
from rllib_spirl.envs.skill_env import SkillEnv, try_env
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.pictures import Picture, contact_sheet, output_file, rendered
from rllib_spirl.evaluation.prior import prior_policy
from rllib_spirl.evaluation.skill_map import Kind, draw_map
from rllib_spirl.progress import track
from rllib_spirl.skills.checkpoint import SkillCard, SkillFiles, SkillSource, load_skills, read_skills
from rllib_spirl.skills.model import SkillModel

WINDOWS = 4000
BETWEEN = 3  # skills, between the states in which some are drawn
# A dimension whose posterior is as the unit Gaussian tells nothing of the window.
USED_NATS = 0.1


@dataclass(frozen=True)
class Shown:
    """What was found out of a library of skills."""

    card: SkillCard
    divergence: list[float] = field(default_factory=list)
    """KL(q(z|window) ‖ N(0, I)) of each latent dimension in nats, a mean over windows; empty without data."""
    pictures: list[Path] = field(default_factory=list)

    @property
    def used(self) -> int:
        """How many dimensions carry more than `USED_NATS`."""
        return sum(value > USED_NATS for value in self.divergence)


def library(checkpoint: str) -> SkillFiles:
    """The skills in a folder or URI of their own, or in a checkpoint of a training run.

    Raises:
        UserError: If there are none.
    """
    return kept_skills(checkpoint) or read_skills(checkpoint)


def show_skills(
    skills: SkillSource,
    output: Path,
    *,
    data: DataSet | None = None,
    env: str | None = None,
    env_config: dict[str, Any] | None = None,
    states: int = 3,
    draws: int = 5,
    seed: int = 0,
) -> Shown:
    """Look into a library of skills, and draw what there is to draw into a folder.

    Args:
        skills: Their folder or URI, or their files, as of `library`.
        output: Folder for ``dimensions.png`` and ``map.png``, with data, and ``drawn.png``, with an environment.
        data: Demonstrations, for what the posterior says of their windows.
        env, env_config: An environment with pictures, in which skills drawn from the prior are run.
        states: How many states of an episode skills are drawn in.
        draws: How many in each.
        seed: Of windows, skills and the environment.

    Raises:
        UserError: If the skills, the data or the environment cannot be read or do not go together, or a file cannot
            be written.
    """
    files = read_skills(skills)
    model, card = load_skills(files)
    generator = torch.Generator().manual_seed(seed)
    pictures, divergence = [], []
    if data is not None:
        posterior, prior = _windows(data, model, generator)
        unit = Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.stddev))
        divergence = kl_divergence(posterior, unit).mean(0).tolist()
        with output_file(output / "dimensions.png") as file:
            _draw_dimensions(divergence, file)
        drawn = prior.mean + prior.stddev * torch.randn(prior.mean.shape, generator=generator)
        kinds = [
            Kind("of demonstrations, q(z|window)", posterior.mean.numpy()),
            Kind("drawn from the prior p(z|s)", drawn.numpy()),
        ]
        with output_file(output / "map.png") as file:
            draw_map(kinds, file)
        pictures += [output / "dimensions.png", output / "map.png"]
    if env is not None:
        rows = list(_drawn_skills(files, model, env, env_config or {}, states, draws, seed, generator))
        with output_file(output / "drawn.png") as file:
            Image.fromarray(
                contact_sheet(
                    f"{env}: a state, and what {draws} skills lead to that are drawn there from the prior", rows
                )
            ).save(file, "png")
        pictures.append(output / "drawn.png")
    return Shown(card, divergence, pictures)


@torch.no_grad()
def _windows(data: DataSet, model: SkillModel, generator: torch.Generator) -> tuple[Normal, Normal]:
    """q(z|window) and p(z|s) of up to `WINDOWS` windows of a data set, each over (W, Z)."""
    config = model.config
    if not config.fits(data.state_dim) or data.action_dim != config.action_dim:
        raise UserError(
            f"{data} has states of {data.state_dim} and actions of {data.action_dim} dimensions, the skills were "
            f"trained on {config.state_dim} and {config.action_dim}. Name their data with --data."
        )
    posteriors, priors = [], []
    share = WINDOWS / max(1, data.num_frames)
    for part in data.stream(images=config.prior_images):
        if not has_window(part.episode_starts, config.horizon):
            continue
        starts = window_starts(part.episode_starts, config.horizon)
        chosen = starts[torch.rand(len(starts), generator=generator).numpy() < share]
        frames = chosen[:, None] + np.arange(config.horizon)
        states = torch.from_numpy(part.states[frames])
        q = model.posterior(states, torch.from_numpy(part.actions[frames]))
        seen = states[:, 0]
        if part.images is not None:
            seen = torch.from_numpy(part.images[picture_pairs(chosen, part.episode_starts)])
        p = model.prior(seen)
        posteriors.append((q.mean, q.stddev))
        priors.append((p.mean, p.stddev))
    if not sum(len(mean) for mean, _ in posteriors):
        raise UserError(f"{data}: no episode has the {config.horizon} steps of a skill.")
    (q_mean, q_std), (p_mean, p_std) = (map(torch.cat, zip(*each, strict=True)) for each in (posteriors, priors))
    return Normal(q_mean, q_std), Normal(p_mean, p_std)


def _drawn_skills(
    files: SkillFiles,
    model: SkillModel,
    env: str,
    env_config: dict[str, Any],
    states: int,
    draws: int,
    seed: int,
    generator: torch.Generator,
) -> Any:
    """A title and pictures for each of the states: the state itself, and what each skill drawn in it leads to.

    A state is reached by skills of the prior from ``env.reset(seed)``, anew for every skill drawn in it.
    """
    skill_env = SkillEnv(try_env(env, env_config | {"render_mode": "rgb_array"}), files)
    try:
        draw = prior_policy(model.prior, generator, sample=True)
        led: list[NDArray[np.float32]] = []
        observation = _reach(skill_env, led, seed)
        for state in track(range(states), "running skills from the prior", total=states):
            while len(led) < state * BETWEEN:
                led.append(draw(observation))
                observation = _reach(skill_env, led, seed)
            pictures = [_picture(skill_env)]
            skills = [draw(observation) for _ in range(draws)]
            for z in skills:
                _reach(skill_env, [*led, z], seed)
                pictures.append(_picture(skill_env))
            yield f"After {state * BETWEEN} skills", pictures
    finally:
        skill_env.close()


def _reach(env: Any, skills: Sequence[NDArray[np.float32]], seed: int) -> NDArray[np.floating]:
    """The observation after these skills from the episode's beginning, or at its end if that comes before."""
    observation, _ = env.reset(seed=seed)
    for z in skills:
        observation, _, terminated, truncated, _ = env.step(z)
        if terminated or truncated:
            break
    return np.array(observation)


def _picture(env: Any) -> Picture:
    picture = rendered(env)
    wide = max(1, picture.shape[1] // 240)
    return picture[::wide, ::wide]


def _draw_dimensions(divergence: Sequence[float], file: Path) -> None:
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(divergence)), sorted(divergence, reverse=True))
    axes.set_xlabel("latent dimensions, the most informative first")
    axes.set_ylabel("KL(q(z|window) ‖ N(0, 1)), nats")
    figure.savefig(file, format="png")
