"""MAML: a policy that a few steps of policy gradient make good at a task it has not seen (Finn et al. 2017)."""

from typing import Any, Self

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from torch import Tensor

from rllib_spirl.algorithm.any_state import TakesAnyState
from rllib_spirl.algorithm.checked_config import CheckedConfig
from rllib_spirl.algorithm.class_by_name import ClassByName
from rllib_spirl.algorithm.evaluation import dealt_out, evaluated_once
from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.tasks import Task
from rllib_spirl.meta.adapting_env_runner import AdaptingEnvRunner, Meeting
from rllib_spirl.meta.advantages import padded
from rllib_spirl.meta.gaussian_policy import AdaptableRLModule
from rllib_spirl.meta.inner_step import maml_loss
from rllib_spirl.meta.task_evaluation import evaluate_on_test_tasks
from rllib_spirl.meta.training_tasks import KeepsTurns, Turns, check_task_lists

# Settings of RLlib that nothing would come of, and those that there are in their place.
_NOT_USED = {
    "train_batch_size": "set `tasks_per_step` and `adaptation_episodes`",
    "_train_batch_size_per_learner": "set `tasks_per_step` and `adaptation_episodes`",
    "rollout_fragment_length": "set `adaptation_episodes`",
    "batch_mode": "it learns from whole episodes",
    "shuffle_batch_per_epoch": "leave it out",
    "_learner_connector": "leave it out",
    "observation_filter": "leave it out, or wrap the environment",
    "explore": "it learns from what it explores",
    "_model_config": "set `policy_hidden`, `policy_layers` and `initial_std`",
}


_SAMPLED = ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME


class MAMLConfig(CheckedConfig):
    """Configuration of `MAML`.

    Example:
        >>> config = (
        ...     MAMLConfig()
        ...     .environment("rllib_spirl/PointTasks-v0")
        ...     .training(training_tasks=[0, 45, 90, 135, 180], test_tasks=[20, 110])
        ... )
        >>> algorithm = config.build_algo()
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or MAML)
        self.training_tasks: list[Task] = []
        self.test_tasks: list[Task] = []
        self.tasks_per_step = 20
        self.adaptation_episodes = 10
        self.inner_steps = 1
        self.inner_lr = 0.1
        self.first_order = False
        self.lambda_ = 1.0
        self.clip_param = 0.2
        self.policy_hidden = 64
        self.policy_layers = 2
        self.initial_std = 1.0
        self.eval_seed = 10_000

        # RLlib's own settings, where this algorithm wants other values.
        self.lr = 1e-3
        self.num_epochs = 5
        self.gamma = 0.99
        self.num_env_runners = 0
        self.min_sample_timesteps_per_iteration = 0
        self.min_time_s_per_iteration = 0
        self.batch_mode = "complete_episodes"
        self.env_runner_cls = AdaptingEnvRunner
        self.evaluation_duration = 20
        self.custom_evaluation_function = evaluate_on_test_tasks

    def training(
        self,
        *,
        training_tasks: list[Task] = NotProvided,
        test_tasks: list[Task] = NotProvided,
        tasks_per_step: int = NotProvided,
        adaptation_episodes: int = NotProvided,
        inner_steps: int = NotProvided,
        inner_lr: float = NotProvided,
        first_order: bool = NotProvided,
        lambda_: float = NotProvided,
        clip_param: float = NotProvided,
        policy_hidden: int = NotProvided,
        policy_layers: int = NotProvided,
        initial_std: float = NotProvided,
        eval_seed: int = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the training-related configuration.

        Args:
            training_tasks: The tasks to learn from, as plain data. Required.
            test_tasks: Those to evaluate on, of which none is a training task; without any, the training tasks.
            tasks_per_step: Tasks in a training step, whose trajectories all outer steps of it are on.
            adaptation_episodes: Episodes in a task before each inner step, and after the last one.
            inner_steps: Inner steps in training. On a new task they go on for as long as episodes do, half as long.
            inner_lr: Their learning rate; `lr` is that of the outer steps, by Adam.
            first_order: Whether inner gradients are taken for constants (first-order MAML), or differentiated again.
            lambda_: λ of generalised advantages.
            clip_param: How far an outer step may move the probabilities of the actions after adaptation, as in PPO.
            policy_hidden, policy_layers: Width and depth of the policy.
            initial_std: The standard deviation of its actions at the start, which is learned.
            eval_seed: Of the episodes in evaluations.
            **kwargs: Those of RLlib's ``AlgorithmConfig.training``. num_epochs is the number of outer steps in a
                training step and, with a minibatch_size, of passes through its tasks, so many in a step.
                evaluation_duration is for each task.

        Returns:
            This updated config.
        """
        super().training(**kwargs)
        return self._take(locals())

    def validate(self) -> None:
        super().validate()
        check_task_lists(self)
        self._check_evaluation()
        self._check_runners()
        self._check_not_used(_NOT_USED)
        if "explore" in (self.evaluation_config or {}):
            self._value_error("MAML learns from what it explores, in evaluations too: leave out `explore`.")
        self._whole("tasks_per_step", "adaptation_episodes", "inner_steps", "num_epochs", "policy_hidden", least=1)
        self._whole("policy_layers", "eval_seed", least=0)
        self._positive("inner_lr", "clip_param", "initial_std")
        self._share("lambda_", "gamma")
        adapting = self.inner_steps * self.adaptation_episodes
        if not self.in_evaluation and int(self.evaluation_duration) <= adapting:
            self._value_error(
                f"`evaluation_duration` ({self.evaluation_duration}) must be more than `adaptation_episodes` "
                f"({self.adaptation_episodes}) for each of `inner_steps` ({self.inner_steps}): an evaluation tells the "
                "episodes after the last inner step."
            )
        if self.minibatch_size and self.tasks_per_step % self.minibatch_size:
            self._value_error(
                f"`minibatch_size` ({self.minibatch_size}) must divide `tasks_per_step` ({self.tasks_per_step}): it is "
                "a number of tasks, each of which is to count as often."
            )
        if not 1 <= self.num_envs_per_env_runner <= self.adaptation_episodes:
            self._value_error(
                "`num_envs_per_env_runner` must be from 1 to adaptation_episodes, "
                f"{self.adaptation_episodes}, which they run together; got {self.num_envs_per_env_runner}."
            )
        if self.vectorize_mode != "sync":
            self._value_error("MAML sets the tasks of its environments: `gym_env_vectorize_mode` must be 'sync'.")
        if self.num_learners > 1:
            self._value_error(f"MAML trains with one learner, got num_learners={self.num_learners}. Use 0 or 1.")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=AdaptableRLModule)

    def get_default_learner_class(self) -> type["MAMLLearner"]:
        return MAMLLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        names = ("policy_hidden", "policy_layers", "initial_std")
        return super()._model_config_auto_includes | {name: getattr(self, name) for name in names}


class MAMLLearner(TakesAnyState, TorchLearner):
    """The outer steps. A row of a batch is a task, see `maml_loss`."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        loss, values = maml_loss(
            self.module[module_id].policy,
            dict(batch),
            inner_lr=config.inner_lr,
            clip=config.clip_param,
            first_order=config.first_order,
        )
        self.metrics.log_dict({name: value.mean() for name, value in values.items()}, key=module_id, window=1)
        return loss

    def apply_gradients(self, gradients_dict: Any) -> None:
        super().apply_gradients(gradients_dict)
        for module_id in self.module.keys():  # noqa: SIM118, it is no mapping
            self.module[module_id].policy.keep_wide()


class MAML(KeepsTurns, ClassByName, Algorithm):
    """Model-agnostic meta-learning. One training step meets some tasks, and then learns from all of them.

    In each, episodes with the policy as it is are followed by an inner step on them, as often as configured, and by
    episodes with what the policy then is. Outer steps are on PPO's clipped objective of these last episodes, as a
    function of the policy before adaptation.
    """

    config: MAMLConfig

    @classmethod
    def get_default_config(cls) -> MAMLConfig:
        return MAMLConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        torch.manual_seed(self.config.seed or 0)
        super().setup(config)
        self._random = np.random.default_rng(self.config.seed or 0)
        self._turns = Turns(len(self.config.training_tasks), self._random)
        self._evaluated = False

    def step(self) -> dict[str, Any]:
        return evaluated_once(self, super().step())

    def training_step(self) -> None:
        group = self.env_runner_group
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            found = self._sample()
        columns = padded(found)
        steps = int(columns["counted"].sum())
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(
                batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=steps),
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size or len(found),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(_SAMPLED, default=0)},
            )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def _sample(self) -> list[list[Batch]]:
        """What env runners have met, see `AdaptingEnvRunner.run`."""
        group = self.env_runner_group
        found: list[list[Batch]] = dealt_out(self, group, self._meetings(), lambda runner, share: runner.run(share))
        local = group.num_remote_env_runners() == 0
        metrics = group.foreach_env_runner(lambda runner: runner.get_metrics(), local_env_runner=local)
        self.metrics.aggregate(metrics, key=ENV_RUNNER_RESULTS)
        return found

    def _meetings(self) -> list[Meeting]:
        meetings = []
        for _ in range(self.config.tasks_per_step):
            task = self.config.training_tasks[self._turns.next()]
            meetings.append(Meeting(task, self._random.integers(2**31, size=self.config.inner_steps + 1).tolist()))
        return meetings


__all__ = ["MAML", "MAMLConfig"]
