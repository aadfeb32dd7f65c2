"""SPiRL's networks, conditioned on a task's embedding e, and the encoder that tells it from transitions."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from rllib_spirl.algorithm.replay_buffer import COLUMNS
from rllib_spirl.algorithm.spirl_rl_module import SkillPriorRLModule
from rllib_spirl.meta.context_encoder import ContextEncoder

# The two kinds of tasks in a batch, by what is known of them: the first is to be explored, the second to be solved.
LITTLE, MUCH = 0, 1


class TaskRLModule(SkillPriorRLModule):
    """Policy π(z | s, e) and critics Q(s, z, e), with e at the end of observations; encoder q(e | transitions).

    α is one for each kind of task, `LITTLE` and `MUCH`.

    ``model_config`` (see `MetaSPiRLConfig.training`): that of SPiRL, context_dim, context_hidden, context_layers,
    initial_context_weight, and classified_tasks, how many tasks e is to tell apart, if any. Without dimensions of e
    there is no encoder.
    """

    def setup(self) -> None:
        super().setup()
        c = self.model_config
        if self.context_dim:
            states = len(self.prior.mean)
            self.encoder = ContextEncoder(
                2 * states + self.latent_dim + 2,
                self.context_dim,
                hidden=c["context_hidden"],
                layers=c["context_layers"],
            )
        if not self.inference_only:
            if self.context_dim and c["classified_tasks"]:
                # The logits of the training tasks by e. It serves the encoder's learning alone.
                self.task_classifier = nn.Linear(self.context_dim, c["classified_tasks"])
            self.log_alpha = nn.Parameter(torch.full((2,), math.log(c["initial_alpha"])))
            self.log_context_weight = nn.Parameter(torch.tensor(math.log(c["initial_context_weight"])))

    def get_non_inference_attributes(self) -> list[str]:
        return [*super().get_non_inference_attributes(), "log_context_weight", "task_classifier"]

    def sampling_state(self) -> dict[str, Tensor]:
        state = super().sampling_state()
        if self.context_dim:
            state |= {f"encoder.{name}": weight for name, weight in self.encoder.state_dict().items()}
        return state

    def belief(self, context: Mapping[str, Tensor], counted: Tensor | None = None) -> Normal:
        """q(e | context), (..., E): N(0, I) where there is no transition.

        Of a transition that ended the task, the next state does not count: an agent is then where the task ended, but
        demonstrations, which serve many tasks, have gone on.

        Args:
            context: Transitions (..., N, ·), by the columns of a replay buffer.
            counted: Which of them count, (..., N) of 1 and 0; None for all.
        """
        states, z, rewards, next_states, terminated = (context[name] for name in COLUMNS)
        ended = terminated[..., None]
        arrived = (1 - ended) * self.normalized(next_states)
        inputs = torch.cat([self.normalized(states), z, rewards[..., None], arrived, ended], -1)
        return self.encoder(inputs, torch.ones_like(rewards) if counted is None else counted)
