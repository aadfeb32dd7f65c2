"""Gradient steps per second of the learner against two hand-written loops. The last line is one JSON object.

``ratio`` is against a minimal loop with the same networks, mathematics and matrix products and nothing around them, so
what RLlib and the replay buffer cost; ``ratio_straightforward`` against the loop one would write from the paper's
equations: separate critics, PyTorch's default optimizer and settings. Both sample, compute target, critic, policy and α
losses, and move the target, as ours does. ``compiled`` and ``ratio_compiled`` are ours with compile_updates, as in the
tuned examples, against the straightforward loop. ``results``, with --long: the paper's critics (5 layers) and the
default ones (2), on one thread and on two; else the default ones on one thread.
"""

import copy
import time
from typing import Any

import torch
import typer
from common import SHORT_S, Long, compare, kitchen_config, kitchen_skills, random_transitions, report, rounds, start_ray
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from rllib_spirl.algorithm import losses
from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.algorithm.spirl import SPiRL
from rllib_spirl.algorithm.spirl_learner import Compiled, prior_in, spirl_loss, with_prior
from rllib_spirl.algorithm.spirl_rl_module import MEAN_BOUND, SkillPriorRLModule
from rllib_spirl.nets import fast_matmul, mlp

DELTA, GAMMA, TAU, SLOW, LR, ALPHA_LR = 1.0, 0.97, 0.005, 0.001, 3e-4, 3e-3


class Minimal:
    """Our networks and losses in a bare loop."""

    def __init__(self, module: SkillPriorRLModule, replay: SkillReplay, batch: int) -> None:
        self.module, self.replay, self.batch = module, replay, batch
        m = module
        self.optimizer = torch.optim.Adam(
            [
                {"params": [*m.critic.parameters(), *m.policy.parameters()], "lr": LR},
                {"params": [m.log_alpha], "lr": ALPHA_LR},
            ],
            fused=True,
        )
        self.online, self.target = list(m.critic.parameters()), list(m.target_critic.parameters())
        self.policy, self.averaged = list(m.policy.parameters()), list(m.averaged_policy.parameters())

    def run(self, updates: int) -> None:
        for _ in range(updates // 16):
            batches = with_prior(self.module, self.replay.sample(16 * self.batch))
            for first in range(0, 16 * self.batch, self.batch):
                self.step({name: column[first : first + self.batch] for name, column in batches.items()})

    def step(self, batch: dict[str, Tensor]) -> None:
        m = self.module
        alpha = m.log_alpha.detach().exp()
        with torch.no_grad():
            next_policy, _ = m.skills(batch["next_states"], prior_in(batch, "next_prior"))
            next_q = m.target_critic(m.prior.normalize(batch["next_states"]), next_policy.sample())
            target = losses.q_target(batch["rewards"], batch["terminated"], next_q, GAMMA, None, (0, 4))
        inputs = m.prior.normalize(batch["states"])
        policy, kl = m.skills(batch["states"], prior_in(batch, "prior"))
        loss = (
            losses.critic_loss(m.critic(inputs, batch["z"]), target)
            + losses.policy_loss(m.critic.values(inputs, policy.rsample(), frozen=True), kl, alpha)
            + losses.temperature_loss(m.log_alpha, kl, DELTA)
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.target, self.online, TAU)
            torch._foreach_lerp_(self.averaged, self.policy, SLOW)


class Straightforward:
    """The same mathematics as one would first write it."""

    def __init__(self, module: SkillPriorRLModule, replay: SkillReplay, batch: int, layers: int) -> None:
        self.prior, self.replay, self.batch = module.prior, replay, batch
        self.policy = mlp(30, 20, hidden=256, layers=2)
        self.averaged = copy.deepcopy(self.policy)
        self.critics = nn.ModuleList(mlp(40, 1, hidden=256, layers=layers) for _ in range(2))
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = nn.Parameter(torch.tensor(-2.0))
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), LR)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), LR)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], ALPHA_LR)

    def skills(self, states: Tensor) -> tuple[Normal, Tensor]:
        prior = self.prior(states)
        mean, log_std = self.policy(self.prior.normalize(states)).chunk(2, -1)
        mean = MEAN_BOUND * torch.tanh(mean / MEAN_BOUND)
        policy = Normal(prior.mean + prior.stddev * mean, prior.stddev * (2 * torch.tanh(log_std / 2)).exp())
        return policy, kl_divergence(policy, prior).sum(-1)

    def run(self, updates: int) -> None:
        for _ in range(updates):
            self.step()

    def step(self) -> None:
        batch = self.replay.sample(self.batch)
        states, next_states = self.prior.normalize(batch["states"]), self.prior.normalize(batch["next_states"])
        with torch.no_grad():
            next_policy, _ = self.skills(batch["next_states"])
            pairs = torch.cat([next_states, next_policy.sample()], -1)
            next_q = torch.min(*(critic(pairs).squeeze(-1) for critic in self.targets))
            target = (batch["rewards"] + GAMMA * (1 - batch["terminated"]) * next_q).clamp(0, 4)
        pairs = torch.cat([states, batch["z"]], -1)
        critic_loss = sum(0.5 * F.mse_loss(critic(pairs).squeeze(-1), target) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[union-attr]
        self.critic_optimizer.step()

        policy, kl = self.skills(batch["states"])
        pairs = torch.cat([states, policy.rsample()], -1)
        q = torch.min(*(critic(pairs).squeeze(-1) for critic in self.critics))
        policy_loss = (self.log_alpha.exp().detach() * kl - q).mean()
        self.policy_optimizer.zero_grad()
        policy_loss.backward()
        self.policy_optimizer.step()

        alpha_loss = self.log_alpha.exp() * (DELTA - kl.detach().mean())
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        with torch.no_grad():
            for slow, fast, tau in (
                *((t, p, TAU) for t, p in zip(self.targets.parameters(), self.critics.parameters(), strict=True)),
                *((t, p, SLOW) for t, p in zip(self.averaged.parameters(), self.policy.parameters(), strict=True)),
            ):
                slow.mul_(1 - tau).add_(tau * fast)


def measure(
    algorithm: SPiRL, layers: int, batch: int, threads: int, count: int, updates: int, long: bool
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    learner = algorithm.learner_group._learner
    compiled_loss = Compiled(spirl_loss)
    module = learner.module[DEFAULT_MODULE_ID]
    minimal = Minimal(copy.deepcopy(module), algorithm.replay, batch)
    straightforward = Straightforward(copy.deepcopy(module), algorithm.replay, batch, layers)

    def ours(loss: Any) -> float:
        learner._losses = loss
        start = time.perf_counter()
        for _ in range(updates // 16):  # as after a fragment of 8 skills
            algorithm._learn(16, 0.0)
        return updates / (time.perf_counter() - start)

    def bare(run: Any) -> float:
        start = time.perf_counter()
        run(updates)
        return updates / (time.perf_counter() - start)

    def minimal_run() -> float:
        with fast_matmul():
            return bare(minimal.run)

    runs = {
        "ours": lambda: ours(spirl_loss),
        "compiled": lambda: ours(compiled_loss),
        "minimal": minimal_run,
        "straightforward": lambda: bare(straightforward.run),
    }
    rates = rounds(runs, count, None if long else SHORT_S)
    label = f"learner, {layers}x256 critics, batch {batch}, {threads} thread{'s' * (threads > 1)}"
    result = compare(label, rates, "ours", "minimal", "updates/s")
    plain = compare(label, rates, "ours", "straightforward", "updates/s")
    compiled = compare(label, rates, "compiled", "straightforward", "updates/s")
    return result | {
        "straightforward": plain["reference"],
        "ratio_straightforward": plain["ratio"],
        "compiled": compiled["ours"],
        "ratio_compiled": compiled["ratio"],
    }


def main(count: int = 7, updates: int = 96, batch: int = 256, long: Long = False) -> None:
    """Time all three, interleaved."""
    start_ray()
    results = []
    for layers in (5, 2) if long else (2,):
        sizes = {"critic_layers": layers, "critic_members": 2, "train_batch_size_per_learner": batch}
        config = kitchen_config(kitchen_skills(), **sizes)
        algorithm = config.build_algo()
        algorithm.replay.add(random_transitions(20_000))
        results += [measure(algorithm, layers, batch, n, count, updates, long) for n in ((1, 2) if long else (1,))]
        algorithm.stop()
    report(results[0] | {"results": results})


if __name__ == "__main__":
    typer.run(main)
