"""Samples (windows of H steps) per second of skill training. The last line is one JSON object.

``ratio`` is the Ray Train job, from its second report to its last with validation and checkpoints, against a plain loop
over the same model and data in memory, written with PyTorch's defaults. With ``--two-workers``, the job with two
workers against the one with one, at a batch size at which the exchange of gradients (5 ms through Gloo on one machine,
with the wait for the slower worker) does not outweigh the computation, and with as many samples between reports as by
default. One thread each.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import typer
from common import SHORT_S, Long, compare, report, rounds, start_ray, synthetic_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rllib_spirl.data import DataSet
from rllib_spirl.progress import silent
from rllib_spirl.skills.model import SkillModel, skill_loss
from rllib_spirl.skills.pretrain import pretrain
from rllib_spirl.skills.training import PretrainConfig


def job(data: DataSet, config: PretrainConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        with silent():
            pretrain(data, config, output=folder)
        events = EventAccumulator(f"{folder}/tensorboard").Reload().Scalars("skills/loss")
    # Until the second report Ray is still starting processes of its own, beside as many workers as there are cores.
    first, last = events[1], events[-1]
    return (last.step - first.step) * config.batch_size / (last.wall_time - first.wall_time)


class Plain:
    """The loop one would write for data in memory."""

    def __init__(self, data: DataSet, config: PretrainConfig) -> None:
        trajectories = data.load()
        self.config = config
        self.states, self.actions = torch.from_numpy(trajectories.states), torch.from_numpy(trajectories.actions)
        self.starts = torch.from_numpy(data.windows(config.horizon))
        self.model = SkillModel(config.model(trajectories.state_dim, trajectories.action_dim))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), config.lr, weight_decay=config.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, config.lr, total_steps=10**7)
        self.correction = 0.01 * torch.randn(trajectories.state_dim, trajectories.action_dim)

    def run(self, updates: int) -> float:
        config, offsets = self.config, torch.arange(self.config.horizon)
        start = time.perf_counter()
        for _ in range(updates):
            frames = self.starts[torch.randint(len(self.starts), (config.batch_size,))][:, None] + offsets
            states, actions = self.states[frames], self.actions[frames]
            noise = config.state_noise * torch.randn_like(states)
            corrected = (actions + noise @ self.correction).clamp(-1, 1)
            loss, _ = skill_loss(
                self.model,
                states,
                actions,
                beta=config.beta,
                perturbed_states=states + noise,
                corrected_actions=corrected,
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        return updates * config.batch_size / (time.perf_counter() - start)


def main(
    count: int = 5, updates: int = 600, two_workers: bool = False, batch_size: int = 8192, long: Long = False
) -> None:
    """Rounds of jobs of ``updates`` gradient steps at batch size 128; or of two workers against one, at another."""
    torch.set_num_threads(1)
    seconds = None if long else SHORT_S
    start_ray()
    config = PretrainConfig(updates=updates, report_every=updates // 4, threads_per_worker=1)
    with tempfile.TemporaryDirectory() as folder:
        data = synthetic_data(Path(folder) / "data", 140_000)
        if two_workers:
            every = 128_000 // batch_size
            one = config.model_copy(update={"batch_size": batch_size, "updates": 3 * every, "report_every": every})
            two = one.model_copy(update={"num_workers": 2})
            rates = rounds({"ours": lambda: job(data, two), "one": lambda: job(data, one)}, count, seconds)
            result = compare("two workers / one", rates, "ours", "one", "samples/s") | {"batch_size": batch_size}
        else:
            plain = Plain(data, config)
            runs = {"ours": lambda: job(data, config), "plain": lambda: plain.run(updates // 2)}
            rates = rounds(runs, count, seconds)
            result = compare("Ray Train job / plain loop in memory", rates, "ours", "plain", "samples/s")
            result |= {"batch_size": config.batch_size, "least": round(float(np.min(rates["ours"])))}
    report(result)


if __name__ == "__main__":
    typer.run(main)
