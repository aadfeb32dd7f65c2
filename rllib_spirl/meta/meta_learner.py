"""The learner of many tasks: one gradient step is on transitions of several tasks, each with a context of its own."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_spirl.algorithm.losses import temperature_loss
from rllib_spirl.algorithm.replay_buffer import COLUMNS
from rllib_spirl.algorithm.spirl_learner import SPiRLLearner, spirl_loss
from rllib_spirl.meta.context_encoder import divergence_from_unit
from rllib_spirl.meta.task_rl_module import TaskRLModule

CONTEXT = "context_"
"""Before the names of a context's columns in a batch."""


class MetaSPiRLLearner(SPiRLLearner):
    """SPiRL's updates with states that end in e. A batch has the minibatches as its rows, see `meta_loss`."""

    def _loss_function(self) -> Callable[..., Any]:
        return meta_loss

    def _parameter_groups(self, module: TaskRLModule, config: Any) -> list[dict[str, Any]]:
        groups = super()._parameter_groups(module, config)
        if module.context_dim:
            groups.append({"params": list(module.encoder.parameters()), "lr": config.critic_lr})
            if config.task_weight:
                groups.append({"params": list(module.task_classifier.parameters()), "lr": config.critic_lr})
            groups.append({"params": [module.log_context_weight], "lr": config.alpha_lr})
        return groups

    def _minibatches(self, columns: dict[str, Tensor], config: Any) -> list[dict[str, Tensor]]:
        return [{name: column[i] for name, column in columns.items()} for i in range(len(columns["rewards"]))]

    def _arguments(self, module: Any, config: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
        arguments = super()._arguments(module, config, batch)
        device = batch["z"].device
        little = torch.tensor(config.exploring_divergence, device=device)
        rows = len(batch["rewards"])
        return arguments | {
            "target_divergence": torch.stack([little, arguments["target_divergence"]]),
            "context_noise": self._noise(1, rows, module.context_dim)[0],
            "context_divergence": config.context_divergence,
            "task_weight": config.task_weight,
            "explores": config.exploring_tasks > 0,
        }


def meta_loss(
    module: TaskRLModule,
    batch: dict[str, Tensor],
    *,
    target_divergence: Tensor,
    context_noise: Tensor,
    context_divergence: float,
    task_weight: float = 0.0,
    explores: bool = True,
    **arguments: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`spirl_loss` of T tasks with B transitions each, and the encoder's divergence from N(0, I).

    The encoder learns by the critics' loss, by this divergence, whose weight is learned as α is, and by the
    cross-entropy of telling the training task from the mean of q(e | much context).

    Args:
        batch: The tasks' ``kind`` (T,), `LITTLE` or `MUCH`, and numbers ``task`` (T,); transitions (T·B, ·) with their
            prior; and the context of each task, (T, N, ·), by the columns' names after `CONTEXT`, with
            ``context_counted`` (T, N). In place of tasks and contexts there may be the embeddings ``e`` (T, E).
        target_divergence: δ of both kinds, (2,).
        context_noise: N(0, 1), (T·B, E): e is drawn anew for each transition.
        context_divergence: The divergence of q(e | much context) from N(0, I) to be reached, in nats.
        task_weight: The cross-entropy's.
        explores: Whether there are tasks of the kind `LITTLE`. Their KL and α are logged by names of their own.
        arguments: The other ones of `spirl_loss`.
    """
    kind = batch["kind"]
    rows = len(batch["rewards"]) // len(kind)
    kind_of_rows = kind.repeat_interleave(rows)
    belief = None
    if module.context_dim:
        if "e" in batch:
            e = batch["e"].repeat_interleave(rows, 0)
        else:
            context = {name: batch[f"{CONTEXT}{name}"] for name in COLUMNS}
            belief = module.belief(context, batch[f"{CONTEXT}counted"])
            mean, stddev = (each.repeat_interleave(rows, 0) for each in (belief.mean, belief.stddev))
            e = mean + stddev * context_noise
        batch = batch | {name: torch.cat([batch[name], e], -1) for name in ("states", "next_states")}
    loss, values = spirl_loss(
        module,
        batch,
        target_divergence=target_divergence[kind_of_rows],
        log_alpha=module.log_alpha[kind_of_rows],
        **arguments,
    )
    solved = kind_of_rows.float()
    for name in ("kl", "alpha"):  # each kind has a δ of its own
        both = values[name]
        values[name] = _mean(both, solved)
        if explores:
            values[f"exploring_{name}"] = _mean(both, 1 - solved)
    if belief is not None:
        much, from_unit = kind.float(), divergence_from_unit(belief)
        divergence = _mean(from_unit, much)
        weight = module.log_context_weight
        # Of little context the divergence is pulled down too: it says little.
        loss = loss + weight.detach().exp() * from_unit.mean()
        loss = loss + temperature_loss(weight, divergence, context_divergence)
        values |= {"context_divergence": divergence.detach(), "context_weight": weight.detach().exp()}
        if task_weight:
            logits = module.task_classifier(belief.mean)
            told = F.cross_entropy(logits, batch["task"], reduction="none")
            loss = loss + task_weight * _mean(told, much)
            right = (logits.argmax(-1) == batch["task"]).float()
            values["tasks_told"] = _mean(right, much)
    return loss, values


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of those values (N,) with ``counted`` (N,) 1 and not 0; 0 without any."""
    return (values * counted).sum() / counted.sum().clamp(min=1)
