"""What a data set asks for: found from the data, so that nobody has to know another data set's history."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data import DataSet, Trajectories
from rllib_spirl.data.importing import columns_in
from rllib_spirl.progress import stage
from rllib_spirl.skills.correction import StateStatistics
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.model import Decoder
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer

POSTERIOR_KL: dict[Decoder, tuple[float, float]] = {"closed_loop": (0.3, 0.8), "open_loop": (0.3, 1.5)}
"""Nats a dimension of KL(q(z|a) ‖ N(0, I)) that were good to learn with: more where z alone tells the actions."""
SKILL_S = 0.8
"""Seconds of a skill in the kitchen, where it has ten steps."""
HORIZONS = (5, 20)
TRIALS, TRIAL_UPDATES, TRIAL_FACTOR = 5, 600, 5.0
LOSS, LEAST_LOSS, LEAST_LOSS_AT = "validation_loss", "validation_loss_least", "updates_at_least_loss"
"""Of a training's metrics: the loss on held-out windows, the least it was, and after how many updates."""
OVERFIT = 1.1
"""Times its least value: from there on a validation loss is worth a warning."""
STUCK = 0.7
"""Of the recorded pace; below it, skills are often stuck. Those of the kitchen come to 0.9."""
SOME_DROPOUT = 0.2
"""Of training windows; in OGBench's scene with half of them grasps failed more often."""
MOST_NOISE = 0.4
"""On actions within [-1, 1]; skills whose actions are further from the recorded ones want something else first."""
_EPISODES = 200


@dataclass
class Advice:
    """Sentences for people, and the settings that they suggest."""

    sentences: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


def advise(data: DataSet, frames: Trajectories) -> Advice:
    """What the states and the rate of a data set suggest, of whose ``frames`` 200 episodes at most are looked at."""
    advice = Advice()
    constant = _constant(frames.states)
    idle = np.flatnonzero(_constant(frames.actions)).tolist()
    frames = _some_episodes(frames)
    statistics = StateStatistics(frames.state_dim, frames.action_dim)
    statistics.add(frames.states, frames.actions, frames.episode_starts)
    columns = about_columns(frames, statistics, constant)
    if columns:
        advice.sentences += list(columns.values())
        superfluous = {place for places in columns for place in places}
        # Numbered as where the data is from, of which an import may have chosen some already.
        chosen = (data.ours.get("source") or {}).get("state_columns")
        numbers = columns_in(chosen) if chosen else range(frames.state_dim)
        kept = [number for place, number in enumerate(numbers) if place not in superfluous]
        advice.settings["state_columns"] = ranges(kept)
        advice.sentences.append(
            f"Without these columns a state would be {ranges(kept)}{' of where the data is from' if chosen else ''} "
            "(state_columns of an import or a recipe; an environment of your own has to observe the same)."
        )
    velocities = {j: i for j, i in statistics.velocities.items() if not any(j in places for places in columns)}
    if velocities:
        told = " They tell the actions, so skills do not see them unless 'spirl pretrain' has --set blind=[]."
        advice.sentences.append(
            f"Columns {ranges(sorted(velocities))} look like velocities of {ranges(sorted(velocities.values()))}."
            f"{told if statistics.giveaways else ''}"
        )
    if idle:
        advice.sentences.append(f"Actions {ranges(idle)} never change, and those of skills will not either.")
    sizes = np.abs(frames.actions)
    if (most := np.quantile(sizes, 0.99)) < 0.05 * sizes.max():
        advice.sentences.append(
            f"Of the actions 99 % lie within {most:.2g} of 0, and some reach {sizes.max():.2g}: where these are "
            "outliers that an import has scaled by, leave their episodes out."
        )
    still = _still_frames(frames)
    if still > 0.1:
        advice.sentences.append(
            f"{still:.0%} of the frames repeat the state before: the robot waits there, and skills will."
        )
    fps = float(data.info.get("fps") or 0)
    default, horizon = PretrainConfig().horizon, int(np.clip(round(SKILL_S * fps), *HORIZONS))
    if fps > 0 and not 0.5 <= default / (SKILL_S * fps) <= 2 and horizon != default:
        advice.settings["horizon"] = horizon
        advice.sentences.append(
            f"At {fps:g} steps/s the default horizon of {default} steps lasts {default / fps:.2g} s, a skill of "
            f"the kitchen {SKILL_S:g} s. With horizon: {horizon} it is {horizon / fps:.2g} s."
        )
    return advice


def advise_beta(data: DataSet, config: PretrainConfig) -> Advice:
    """Short trainings with the config's β, and with smaller or larger ones until the posterior says as much as is good.

    KL falls as β grows, so that one side of the range is passed sooner or later.
    """
    scanned = SkillData.scan(data, config.horizon, config.validation_fraction, config.seed)
    low, high = POSTERIOR_KL[config.decoder]
    tried: list[tuple[float, float]] = []
    beta = config.beta
    with stage("short trainings", TRIAL_UPDATES * TRIALS) as progress:
        for _ in range(TRIALS):
            trainer = SkillTrainer(scanned, config.model_copy(update={"beta": beta, "updates": TRIAL_UPDATES}))
            while trainer.updates < TRIAL_UPDATES:
                parts = trainer.step()
                progress.advance(1)
            divergence = trainer.validate().get("validation_posterior_kl", float(parts["posterior_kl"]))
            passed = bool(tried) and (tried[-1][1] < low) != (divergence < low)
            tried.append((beta, max(divergence, 1e-9)))
            if low <= divergence <= high or passed:
                break
            beta = beta / TRIAL_FACTOR if divergence < low else beta * TRIAL_FACTOR
    told = ", ".join(f"{kl:.2g} with β = {beta:g}" for beta, kl in tried)
    sentence = (
        f"After {TRIAL_UPDATES} updates the posterior's KL in nats a dimension is {told}; {low} to {high} is good."
    )
    if low <= tried[0][1] <= high:
        return Advice([f"{sentence} The default β fits."])
    beta, divergence = tried[-1]
    if not low <= divergence <= high:  # the middle of the range, in the logarithms of both
        (x, y), (x_after, y_after) = sorted((np.log(kl), np.log(beta)) for beta, kl in tried[-2:])
        beta = float(np.exp(np.interp(np.log(math.sqrt(low * high)), [x, x_after], [y, y_after])))
    beta = float(f"{beta:.2g}")
    return Advice([f"{sentence} Try beta: {beta:g}."], {"beta": beta})


def posterior_warning(metrics: Mapping[str, float], config: PretrainConfig) -> str | None:
    """What to say of skills whose posterior tells too little or too much, None of others."""
    divergence = metrics.get("validation_posterior_kl", metrics.get("posterior_kl"))
    low, high = POSTERIOR_KL[config.decoder]
    if divergence is None or low <= divergence <= high:
        return None
    what = "tells little of the actions" if divergence < low else "has room for noise, which the policy then explores"
    change = "Lower" if divergence < low else "Raise"
    return (
        f"the posterior's KL is {divergence:.2g} nats a dimension, where {low} to {high} is good: z {what}. {change} "
        f"beta (now {config.beta:g}), or let 'spirl data inspect DATA --try-beta' suggest one."
    )


def overfit_warning(metrics: Mapping[str, float]) -> str | None:
    """What to say of skills that have learned their training windows by heart, None of others."""
    least = metrics.get(LEAST_LOSS)
    if least is None or LOSS not in metrics or metrics[LOSS] <= OVERFIT * least:
        return None
    at = f"{metrics[LEAST_LOSS_AT]:.0f}"
    return (
        f"the loss on held-out windows was least after {at} updates, {least:.3g}, and is {metrics[LOSS]:.3g} now: what "
        f"was learned since holds for the recorded states alone. Train with updates: {at}, or record more."
    )


def stuck_warning(
    pace: float, metrics: Mapping[str, float], action_std: float, state_dropout: float | None = None
) -> str | None:
    """What to say of skills that get stuck, None of others.

    Args:
        pace: How fast states change with skills of the prior, as a share of what they do in the data.
        metrics: Of the skills' training.
        action_std: The deviation of their actions.
        state_dropout: Of their training, None where their decoder sees no states.
    """
    if pace >= STUCK:
        return None
    error = math.sqrt(metrics.get("validation_reconstruction", 0.0))
    remedies = []
    if state_dropout == 0:
        remedies.append(f"state_dropout: {SOME_DROPOUT:g}, with which z tells more of the actions,")
    if action_std == 0 and 0 < error <= MOST_NOISE:
        remedies.append(f"action_std: {error:.1g}, the error of their actions,")
    remedy = " or ".join(remedies) or "more data, or more or fewer updates,"
    return (
        f"skills from the prior move far less than the recorded ones, as they do where they get stuck: {remedy} may "
        "free them."
    )


def _constant(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which columns never change."""
    least, most = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
    unchanged: NDArray[np.bool_] = most - least <= 1e-9 * np.maximum(1, np.maximum(np.abs(least), np.abs(most)))
    return unchanged


def about_columns(
    frames: Trajectories, statistics: StateStatistics, constant: NDArray[np.bool_]
) -> dict[tuple[int, ...], str]:
    """Columns of states that say nothing, or what others say, each with a sentence.

    Args:
        frames: Of some episodes.
        statistics: Theirs.
        constant: Which columns never change in any episode.
    """
    states = frames.states.astype(np.float64)
    spread = states.std(0)
    found: dict[tuple[int, ...], str] = {}

    def note(pairs: Sequence[tuple[int, int]], what: str) -> None:
        """Pairs of a superfluous column and the one that says it all."""
        taken = {place for places in found for place in places}
        pairs = [pair for pair in pairs if pair[0] not in taken]
        if pairs:
            own, other = zip(*pairs, strict=True)
            found[own] = what.format(ranges(sorted(own)), ranges(sorted(other)))

    if constant.any():
        places = tuple(np.flatnonzero(constant).tolist())
        found[places] = f"Columns {ranges(places)} never change."
    still = _constant(states)  # in these episodes
    moving = np.flatnonzero(~still).tolist()
    scaled = (states - states.mean(0)) / np.where(still, 1, spread)
    same = np.abs(scaled.T @ scaled) / len(scaled) > 1 - 1e-6
    doubles = [(j, i) for j in moving for i in moving if i < j and same[i, j]]
    note(_one_each(doubles), "Columns {} say the same as {}.")
    note(list(statistics.repeats.items()), "Columns {} repeat the state before, {}.")
    return found


def _one_each(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return list(dict(reversed(pairs)).items())


def _some_episodes(frames: Trajectories) -> Trajectories:
    """Episodes evenly spaced among all, for those of a task are often recorded one after the other."""
    if frames.num_episodes <= _EPISODES:
        return frames
    chosen = np.linspace(0, frames.num_episodes - 1, _EPISODES).astype(np.int64)
    lengths = np.diff(frames.episode_starts)[chosen]
    starts = frames.episode_starts[chosen]
    rows = np.concatenate([np.arange(n) + start for n, start in zip(lengths, starts, strict=True)])
    columns = ("states", "actions", "rewards", "next_states", "terminated", "task_index")
    cut = {name: getattr(frames, name)[rows] for name in columns}
    return Trajectories(**cut, episode_starts=np.concatenate([[0], np.cumsum(lengths)]), tasks=frames.tasks)


def _still_frames(frames: Trajectories) -> float:
    """The share of frames whose state is that of the frame before."""
    now, before = _steps(frames.states, frames)
    return float((now == before).all(1).mean()) if len(now) else 0.0


def _steps(states: NDArray[Any], frames: Trajectories) -> tuple[NDArray[Any], NDArray[Any]]:
    """The states (N, S) of frames that are not the first of their episode, and those of the frames before them."""
    rows = np.delete(np.arange(len(states)), frames.episode_starts[:-1])
    return states[rows], states[rows - 1]


def ranges(places: Iterable[int]) -> str:
    """Column numbers, in this order, as options take them: 0, 1, 2, 5 is ``0:3,5``."""
    parts: list[list[int]] = []
    for place in places:
        if parts and parts[-1][-1] == place - 1:
            parts[-1].append(place)
        else:
            parts.append([place])
    return ",".join(f"{part[0]}:{part[-1] + 1}" if len(part) > 1 else f"{part[0]}" for part in parts)
