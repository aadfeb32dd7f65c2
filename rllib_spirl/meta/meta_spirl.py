"""MetaSPiRL: SPiRL over many tasks at once, conditioned on what transitions say about the task (Nam et al. 2022)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from rllib_spirl.algorithm.replay_buffer import Batch, Samples, SkillReplay, mixed_batch
from rllib_spirl.algorithm.spirl import MAX_UPDATES_AT_ONCE, SPiRL
from rllib_spirl.algorithm.spirl_config import SPiRLConfig, plain
from rllib_spirl.data import DataSet
from rllib_spirl.envs.tasks import Task
from rllib_spirl.errors import UserError
from rllib_spirl.meta.meta_learner import CONTEXT, MetaSPiRLLearner
from rllib_spirl.meta.task_env_runner import EXPLORED, TASK, Rollout, TaskEnvRunner
from rllib_spirl.meta.task_evaluation import evaluate_on_test_tasks
from rllib_spirl.meta.task_replay import TaskDemonstrations, TaskReplay, task_demonstrations
from rllib_spirl.meta.task_rl_module import LITTLE, MUCH, TaskRLModule
from rllib_spirl.meta.training_tasks import KeepsTurns, Turns, check_task_lists
from rllib_spirl.skills.checkpoint import load_card
from rllib_spirl.skills.model import SkillModel

REPLAY_FOLDER, CONTEXTS_FOLDER = "replay", "contexts"


class MetaSPiRLConfig(SPiRLConfig):
    """Configuration of `MetaSPiRL`: that of SPiRL, and what many tasks ask for.

    Example:
        >>> config = (
        ...     MetaSPiRLConfig()
        ...     .environment("rllib_spirl/Kitchen-v0")
        ...     .training(skill_checkpoint="skills/kitchen", training_tasks=[["kettle"], ["microwave", "kettle"]])
        ... )
        >>> algorithm = config.build_algo()
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or MetaSPiRL)
        self.training_tasks: list[Task] = []
        self.test_tasks: list[Task] = []
        self.context_dim = 6
        self.context_hidden = 128
        self.context_layers = 2
        self.context_size = 256
        self.little_context = 2
        self.much_context = 20
        self.context_capacity = 3000
        self.context_divergence = 10.0
        self.initial_context_weight = 1e-3
        self.task_weight = 0.0
        self.exploring_tasks = 2
        self.solved_tasks = 8
        self.exploring_divergence = 0.1
        self.exploring_episodes = 1
        self.tasks_per_step = 2
        self.solving_episodes = 1

        # SPiRL's own settings, where many tasks want other values.
        self.target_divergence = 4.0
        self.train_batch_size_per_learner = 64
        self.replay_capacity = 100_000
        self.updates_per_step = 0.25
        self.offline_updates = 1000
        self.policy_tau = 0.005  # the averaged policy is not to be far behind the encoder, which is the latest
        self.env_runner_cls = TaskEnvRunner
        self.evaluation_duration = 3
        self.custom_evaluation_function = evaluate_on_test_tasks

    def training(
        self,
        *,
        training_tasks: list[Task] = NotProvided,
        test_tasks: list[Task] = NotProvided,
        context_dim: int = NotProvided,
        context_hidden: int = NotProvided,
        context_layers: int = NotProvided,
        context_size: int = NotProvided,
        little_context: int = NotProvided,
        much_context: int = NotProvided,
        context_capacity: int = NotProvided,
        context_divergence: float = NotProvided,
        initial_context_weight: float = NotProvided,
        task_weight: float = NotProvided,
        exploring_tasks: int = NotProvided,
        solved_tasks: int = NotProvided,
        exploring_divergence: float = NotProvided,
        exploring_episodes: int = NotProvided,
        tasks_per_step: int = NotProvided,
        solving_episodes: int = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the training-related configuration.

        Args:
            training_tasks: The tasks to learn from, as plain data. Required.
            test_tasks: Those to evaluate on, of which none is a training task; without any, the training tasks.
            context_dim: Dimensions of a task's embedding e.
            context_hidden, context_layers: Width and depth of the network that reads a transition of the context.
            context_size: The most transitions in a context. How many there are is drawn anew for each task in a batch.
            little_context: The most transitions in the context of a task that is to be explored.
            much_context: The least in that of a task that is to be solved, if there are so many; those of an episode.
            context_capacity: For each task so many of the newest transitions of episodes with e ~ N(0, I) are kept, of
                which contexts are drawn.
            context_divergence: The KL(q(e | much context) ‖ N(0, I)) in nats that the weight of this divergence in the
                loss is adjusted to reach.
            initial_context_weight: This weight at the start.
            task_weight: The weight, in the encoder's loss, of the cross-entropy of telling the training task from e.
                With 0 e is learned by the critics' loss and the divergence alone, as in PEARL and SiMPL.
            exploring_tasks, solved_tasks: How many tasks in a gradient step have little context, and much.
            exploring_divergence: δ where there is little context: near the prior over skills. target_divergence is that
                of tasks with much context.
            exploring_episodes: In evaluation, the episodes in a new task with e ~ N(0, I) before e is told from them.
            tasks_per_step: Tasks in which an env runner runs episodes in a training step: in each one with e ~ N(0, I),
                and others with e ~ q(e | earlier episodes of the first kind).
            solving_episodes: How many such others in each.
            **kwargs: Those of `SPiRLConfig.training`. train_batch_size_per_learner, replay_capacity and
                evaluation_duration are for each task. Of chunks of actions, the chosen ones alone are kept.

        Returns:
            This updated config.
        """
        super().training(**kwargs)
        return self._take(locals())

    @property
    def transitions_kept(self) -> int:
        return self.replay_capacity * max(1, len(self.training_tasks))

    def validate(self) -> None:
        check_task_lists(self)
        self._check_not_used({"rollout_fragment_length": "set `tasks_per_step`"})
        for name in () if self.in_evaluation else self._changed(("explore", "batch_mode")):
            self._value_error(f"MetaSPiRL explores in whole episodes: leave `{name}` out.")
        if (self.evaluation_config or {}).get("explore"):
            self._value_error("MetaSPiRL explores in its first `exploring_episodes` in a task: leave out `explore`.")
        self._whole("context_dim", "little_context", "exploring_tasks", "exploring_episodes", least=0)
        self._whole(
            "context_size",
            "much_context",
            "context_capacity",
            "solved_tasks",
            "tasks_per_step",
            "solving_episodes",
            "context_layers",
            "context_hidden",
            least=1,
        )
        self._positive("exploring_divergence", "context_divergence", "initial_context_weight")
        self._not_negative("task_weight")
        if self.task_weight and not self.context_dim:
            self._value_error("`task_weight` is of telling tasks by e: set `context_dim`, or leave it out.")
        if max(self.little_context, self.much_context) > self.context_size:
            self._value_error(
                f"`little_context` ({self.little_context}) and `much_context` ({self.much_context}) must not be more "
                f"than `context_size` ({self.context_size})."
            )
        if self.much_context > self.context_capacity:
            self._value_error(
                f"`much_context` ({self.much_context}) must not be more than `context_capacity` "
                f"({self.context_capacity}): no context of own experience would be much."
            )
        if self.policy != "residual":
            self._value_error(f"MetaSPiRL needs `policy` 'residual', got {self.policy!r}.")
        if self.offline_fraction is None:
            self._value_error("MetaSPiRL needs a number for `offline_fraction`, got null.")
        if self.num_envs_per_env_runner != 1 or self.vectorize_mode != "sync":
            self._value_error(
                "MetaSPiRL runs one episode after the other: `num_envs_per_env_runner` must be 1, got "
                f"{self.num_envs_per_env_runner}, and `gym_env_vectorize_mode` 'sync', got {self.vectorize_mode!r}. "
                "Use more env runners."
            )
        super().validate()
        if not self.in_evaluation and int(self.evaluation_duration) <= self.exploring_episodes:
            self._value_error(
                f"`evaluation_duration` ({self.evaluation_duration}) must be more than `exploring_episodes` "
                f"({self.exploring_episodes}): the last episode of each task is what an evaluation tells."
            )

    def check_skills(self) -> None:
        super().check_skills()
        assert self.skill_checkpoint is not None
        if load_card(self.skill_checkpoint).model.state_set is not None:
            self._value_error("MetaSPiRL needs skills over flat states: these have a `state_set`.")

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=TaskRLModule)

    def get_default_learner_class(self) -> type[MetaSPiRLLearner]:
        return MetaSPiRLLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        names = ("context_dim", "context_hidden", "context_layers", "initial_context_weight")
        classified = len(self.training_tasks) if self.task_weight else 0
        ours = {name: getattr(self, name) for name in names} | {"classified_tasks": classified}
        return super()._model_config_auto_includes | ours


class MetaSPiRL(KeepsTurns, SPiRL):
    """SPiRL over many tasks. One training step runs episodes in some of them and learns from all.

    A checkpoint holds the replay of every task.
    """

    config: MetaSPiRLConfig

    @classmethod
    def get_default_config(cls) -> MetaSPiRLConfig:
        return MetaSPiRLConfig()

    def _make_replay(self, state_dim: int, latent_dim: int) -> None:
        config, tasks, seed = self.config, self.config.training_tasks, self.config.seed or 0
        self.replay = TaskReplay(tasks, config.replay_capacity, state_dim, latent_dim, seed)
        self.contexts = TaskReplay(
            tasks, config.context_capacity, state_dim, latent_dim, seed + len(tasks), "context_capacity"
        )
        self._random = np.random.default_rng(seed)
        self._turns = Turns(len(tasks), self._random)

    def _facts_of_labels(self) -> list[Any]:
        return [*super()._facts_of_labels(), plain(self.config.training_tasks)]

    def _read_demonstrations(self, data: DataSet, model: SkillModel, env: gym.Env) -> TaskDemonstrations:
        config, seed = self.config, (self.config.seed or 0) + 1
        tasks, capacity = len(config.training_tasks), config.transitions_kept
        if data.num_frames > capacity:  # some drawn from them would not follow on each other, as contexts are to
            raise UserError(
                f"{data} has {data.num_frames:,} steps, but {tasks} tasks with a replay_capacity of "
                f"{config.replay_capacity:,} hold {capacity:,}. Set replay_capacity to at least "
                f"{-(-data.num_frames // tasks):,}."
            )
        return task_demonstrations(data, model, env, config.training_tasks, capacity, seed, config.skill_bound)

    def _load_demonstrations(self, file: Path) -> TaskDemonstrations:
        return TaskDemonstrations.load(file, self.replay.state_dim, self.replay.latent_dim)

    def _sample(self) -> list[SingleAgentEpisode]:
        if self.env_runner_group.num_remote_env_runners() > 0:
            return super()._sample()
        episodes = self.env_runner.run(self._rollouts())
        self.metrics.aggregate([self.env_runner.get_metrics()], key=ENV_RUNNER_RESULTS)
        return episodes

    def _request_samples(self, env_runners: list[int]) -> None:
        for env_runner in env_runners:
            self._request([env_runner], "run_with", rollouts=self._rollouts())

    def _rollouts(self) -> list[Rollout]:
        """The next episodes of an env runner, see `Turns`."""
        rollouts = []
        for _ in range(self.config.tasks_per_step):
            index = self._turns.next()
            task = self.config.training_tasks[index]
            for context in (None, *(self._known(index) for _ in range(self.config.solving_episodes))):
                rollouts.append(Rollout(index, task, int(self._random.integers(2**31)), context))
        return rollouts

    def _known(self, task: int) -> Batch | None:
        """A context of a task as after an episode or more, if there has been one."""
        known = self.contexts.of[task]
        size = min(self._context_size(MUCH), len(known))
        return known.sample_run(size, size) if size else None

    def _keep(self, episode: SingleAgentEpisode, transitions: Batch) -> None:
        task = episode.custom_data[TASK]
        self.replay.of[task].add(transitions)
        if episode.custom_data[EXPLORED]:
            self.contexts.of[task].add(transitions)

    def _columns(self, batches: int, offline_fraction: float | None) -> Batch:
        minibatches = [self._minibatch(offline_fraction) for _ in range(batches)]
        return {name: torch.stack([each[name] for each in minibatches]) for name in minibatches[0]}

    def _minibatch(self, offline_fraction: float | None) -> Batch:
        """Transitions of some tasks, and a context of each, see `meta_loss`.

        A context is of the agent's own episodes or, as often as transitions are, of demonstrations. Its transitions
        follow on each other, as those of a new task do: drawn one by one from many episodes they would tell more.
        """
        config = self.config
        assert offline_fraction is not None  # see `MetaSPiRLConfig.validate`
        offline = self.offline
        kinds = np.repeat([LITTLE, MUCH], [config.exploring_tasks, config.solved_tasks])
        able = [task for task, replay in enumerate(self.replay.of) if len(replay) or offline is not None]
        rounds = -(-len(kinds) // len(able))  # no task a second time before all have had their turn
        order = np.concatenate([self._random.permutation(len(able)) for _ in range(rounds)])[: len(kinds)]
        tasks = [able[i] for i in order]
        rows: list[Batch] = []
        contexts: list[Batch] = []
        sizes = []
        for task, kind in zip(tasks, kinds, strict=True):
            demonstrated = offline.of_task(task) if isinstance(offline, TaskDemonstrations) else None
            rows.append(
                mixed_batch(
                    self.replay.of[task], demonstrated, 1, config.train_batch_size_per_learner, offline_fraction
                )
            )
            source: Any = self.contexts.of[task]
            if demonstrated is not None and (not len(source) or self._random.random() < offline_fraction):
                source = demonstrated
            sizes.append(min(self._context_size(kind), len(source)))
            contexts.append(_context(source, sizes[-1], config.context_size, rows[-1]))
        counted = torch.arange(config.context_size) < torch.tensor(sizes)[:, None]
        return (
            {name: torch.cat([each[name] for each in rows]) for name in rows[0]}
            | {f"{CONTEXT}{name}": torch.stack([each[name] for each in contexts]) for name in contexts[0]}
            | {f"{CONTEXT}counted": counted.float(), "kind": torch.from_numpy(kinds), "task": torch.tensor(tasks)}
        )

    def _context_size(self, kind: int) -> int:
        """Little context may be none at all; much is any size from an episode on, each order of magnitude as often."""
        config = self.config
        if kind == LITTLE:
            return int(self._random.integers(config.little_context + 1))
        return int(np.exp(self._random.uniform(np.log(config.much_context), np.log(config.context_size + 1))))

    def fine_tune(
        self, replay: SkillReplay, offline: Samples | None, e: torch.Tensor, *, updates: int, rows: int
    ) -> None:
        """SPiRL's gradient steps on the transitions of one task, with a fixed embedding e (E,).

        ``rows`` transitions are in each step, for each learner, and α and δ are those of much context.
        """
        config = self.config
        for first in range(0, updates, MAX_UPDATES_AT_ONCE):
            count = min(MAX_UPDATES_AT_ONCE, updates - first)
            batches = count * max(1, config.num_learners)
            columns = mixed_batch(replay, offline, batches, rows, config.offline_fraction)
            batch = {name: column.unflatten(0, (batches, rows)) for name, column in columns.items()}
            known = {"e": e.repeat(batches, 1, 1), "kind": torch.full((batches, 1), MUCH)}
            self._update_on(batch | known, batches)
        if updates:
            self._sync_weights()

    @contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """A context after which learners and env runners are what they were before it, whatever they learned there.

        The modules stay the same ones, so that updates compiled for them are not compiled again.
        """
        before = copy.deepcopy(self.learner_group.get_state())  # RLlib's shares its memory with the networks
        try:
            yield
        finally:
            self.learner_group.set_state(before)
            self._sync_weights()

    def _save_replay(self, folder: Path) -> None:
        self.replay.save(folder / REPLAY_FOLDER)
        self.contexts.save(folder / CONTEXTS_FOLDER)

    def _restore_replay(self, folder: Path) -> None:
        self.replay.restore(folder / REPLAY_FOLDER)
        self.contexts.restore(folder / CONTEXTS_FOLDER)


def _context(source: Any, length: int, rows: int, others: Batch) -> Batch:
    """A run of ``length`` transitions in ``rows`` rows; where there is none yet, rows of others, which do not count."""
    if length:
        return source.sample_run(length, rows)
    return {name: column[:1].expand(rows, *column.shape[1:]) for name, column in others.items()}


__all__ = ["MetaSPiRL", "MetaSPiRLConfig"]
