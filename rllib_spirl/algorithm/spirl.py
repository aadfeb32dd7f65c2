"""SPiRL: soft actor-critic over skills whose entropy term is the KL to a learned skill prior (Pertsch et al. 2020)."""

import json
import tempfile
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import ray
import torch
from gymnasium.spaces import flatdim
from pyarrow import fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
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
from ray.rllib.utils.numpy import convert_to_numpy

from rllib_spirl.algorithm.checkpoint_files import DEMONSTRATIONS_FILE, REPLAY_FILE, SKILLS_FOLDER, kept_skills
from rllib_spirl.algorithm.chunk_windows import chunk_windows
from rllib_spirl.algorithm.class_by_name import ClassByName
from rllib_spirl.algorithm.episode_end import log_end
from rllib_spirl.algorithm.evaluation import evaluated_once
from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.algorithm.remote import result_of
from rllib_spirl.algorithm.replay_buffer import Batch, SkillReplay, mixed_batch, successive
from rllib_spirl.algorithm.results import ENV_STEPS, UPDATES
from rllib_spirl.algorithm.spirl_config import SPiRLConfig
from rllib_spirl.algorithm.spirl_learner import SPiRLLearner
from rllib_spirl.data import DataSet
from rllib_spirl.envs.skill_env import make_env
from rllib_spirl.errors import UserError
from rllib_spirl.files import local_copy, local_folder
from rllib_spirl.progress import Stage, stage, tell
from rllib_spirl.skills.checkpoint import SkillFiles, load_card, load_skills, pickled_by_name, read_skills
from rllib_spirl.skills.model import SkillModel

# Batches in memory together.
MAX_UPDATES_AT_ONCE = 16


class SPiRL(ClassByName, Algorithm):
    """Skill-prior RL. One training step samples skills and makes `updates_per_step` gradient steps for each.

    With remote env runners sampling goes on while the learner learns: requests for the next fragment are out before the
    updates on the last one begin. With a local env runner the two alternate, and a run is reproducible bit by bit.

    A checkpoint holds the skills and the demonstrations too. An algorithm whose skills are not where its config says
    is made nevertheless, and waits for a checkpoint to restore, which brings them.
    """

    config: SPiRLConfig

    @classmethod
    def get_default_config(cls) -> SPiRLConfig:
        return SPiRLConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        assert self.config.skill_checkpoint is not None
        self._missing: UserError | None = None
        try:
            skills = read_skills(self.config.skill_checkpoint)
            load_skills(skills)  # damaged ones are none
        except UserError as error:
            self._missing = error
        else:
            self._set_up(skills)

    def _set_up(self, skills: SkillFiles) -> None:
        """RLlib's setup with these skills, which all parts of the algorithm get with the config."""
        config = self.config.copy(copy_frozen=False)
        config.skill_checkpoint = skills
        config.check_skills()
        config.freeze()
        self.config = config
        torch.manual_seed(config.seed or 0)
        if config.num_learners == 0:
            torch.set_num_threads(config.learner_threads)
        super().setup(config)
        state_dim = flatdim(self.env_runner_group.get_spaces()[DEFAULT_MODULE_ID][0])  # of a set, not the skills' own
        self._make_replay(state_dim, load_card(skills).model.latent_dim)
        self._updates_owed = 0.0
        self._warm = False
        self._policy: ray.ObjectRef | None = None
        self._evaluated, self._experience_fits = False, True
        self._stage = Stage("")

    def _make_replay(self, state_dim: int, latent_dim: int) -> None:
        config = self.config
        self.replay: Any = SkillReplay(config.replay_capacity, state_dim, latent_dim, config.seed or 0)

    def check_whole(self) -> None:
        """Raise UserError if the skills are not where the config says and no checkpoint has brought them."""
        if self._missing is not None:
            raise self._missing

    @cached_property
    def offline(self) -> SkillReplay | None:
        """The demonstrations: read when they are first needed, unless a checkpoint brings them."""
        if not self.config.uses_demonstrations:
            return None
        assert isinstance(self.config.skill_checkpoint, SkillFiles)
        assert self.config.offline_data is not None
        model, _ = load_skills(self.config.skill_checkpoint)
        with closing(make_env(self.config.env, self.config.env_config)) as env:
            replay = self._read_demonstrations(DataSet.open(self.config.offline_data), model, env)
        replay.source, replay.labelled_for = self.config.offline_data, self._labelled_for
        return replay

    @property
    def _labelled_for(self) -> str:
        """`_facts_of_labels` as text."""
        return json.dumps(self._facts_of_labels())

    def _facts_of_labels(self) -> list[Any]:
        """What the rewards and skills of demonstrations depend on beside their data."""
        return self.config.facts_of_experience

    def _read_demonstrations(self, data: DataSet, model: SkillModel, env: gym.Env) -> SkillReplay:
        seed = (self.config.seed or 0) + 1
        return offline_replay(data, model, env, self.config.replay_capacity, seed, self.config.skill_bound)

    def step(self) -> dict[str, Any]:
        self.check_whole()
        skills = self.config.min_sample_timesteps_per_iteration
        with stage("sampling and learning", skills, watched_only=True) as self._stage:
            return evaluated_once(self, super().step())

    def training_step(self) -> None:
        _ = self.offline  # here: what is wrong with demonstrations shows before anything is sampled
        if self.config.warmup_steps == 0:
            self._learn_from_demonstrations()
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            episodes = self._sample()
        added = self._store(episodes)
        self._stage.advance(added)
        if len(self.replay) < self.config.warmup_steps:
            return
        self._learn_from_demonstrations()
        self._updates_owed += added * self.config.updates_per_step
        updates = int(self._updates_owed)
        self._updates_owed -= updates
        self._learn(updates, self.config.offline_fraction)

    def _learn_from_demonstrations(self) -> None:
        """The updates on demonstrations alone, once."""
        if not self._warm:
            self._warm = True
            if self.offline is not None:
                with stage("updates on demonstrations", self.config.offline_updates, watched_only=True) as progress:
                    self._learn(self.config.offline_updates, offline_fraction=1.0, progress=progress)

    def _sample(self) -> list[SingleAgentEpisode]:
        """Skill episodes, or pieces of them, from the env runners; waits until there are some."""
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            episodes = self.env_runner.sample()
            self.metrics.aggregate([self.env_runner.get_metrics()], key=ENV_RUNNER_RESULTS)
            return episodes
        results: list[tuple[int, tuple[list[SingleAgentEpisode], Any]]] = []  # (env runner, what it returned)
        while not results:
            most = self.config.max_requests_in_flight_per_env_runner * group.num_healthy_remote_env_runners()
            if group.num_in_flight_async_reqs("sample") < most:
                self._request_samples(group.healthy_env_runner_ids())
            ready = group.fetch_ready_async_reqs(tags="sample", timeout_seconds=0.02)
            results = [(env_runner, result_of(attempted)) for env_runner, attempted in ready]
            if not results and group.num_healthy_remote_env_runners() == 0:
                self.restore_env_runners(group)
        self._request_samples([runner for runner, _ in results])
        self.metrics.aggregate([metrics for _, (_, metrics) in results], key=ENV_RUNNER_RESULTS)
        return [episode for _, (episodes, _) in results for episode in episodes]

    def _request_samples(self, env_runners: list[int]) -> None:
        """Let these remote env runners sample in the background; one that has all it may be asked for is left alone."""
        self._request(env_runners, "sample_with")

    def _request(self, env_runners: list[int], method: str, **kwargs: Any) -> None:
        """Call a method of remote env runners in the background, with the learner's policy.

        It goes with the requests: a message more for each env runner after all updates would keep this process busy.
        """
        self.env_runner_group.foreach_env_runner_async(
            method, tag="sample", kwargs={**kwargs, "weights": self._policy}, remote_worker_ids=env_runners
        )

    def _store(self, episodes: list[SingleAgentEpisode]) -> int:
        """Add episodes to the replay buffer and count their low-level steps; returns the number of skills."""
        added = 0
        for episode in episodes:
            count = len(episode)
            observations = torch.tensor(episode.get_observations(), dtype=torch.float32)
            z, rewards = torch.tensor(episode.get_actions()), torch.tensor(episode.get_rewards())
            self._keep(episode, successive(observations, z, rewards, episode.is_terminated))
            infos = episode.get_infos(slice(-count, None))
            self.metrics.log_value(ENV_STEPS, sum(i["low_level_steps"] for i in infos), reduce="lifetime_sum")
            added += count
            if episode.is_done:
                log_end(self.metrics, infos[-1])
        return added

    def _keep(self, episode: SingleAgentEpisode, transitions: Batch) -> None:
        windows = chunk_windows(episode)
        self.replay.add(transitions if windows is None else windows)

    def _learn(self, updates: int, offline_fraction: float | None, progress: Stage | None = None) -> None:
        for first in range(0, updates, MAX_UPDATES_AT_ONCE):
            self._update(min(MAX_UPDATES_AT_ONCE, updates - first), offline_fraction)
            if progress is not None:
                progress.set(min(updates, first + MAX_UPDATES_AT_ONCE))
        if updates:
            self.metrics.log_value(UPDATES, updates, reduce="lifetime_sum")
            with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
                self._sync_weights()

    def _sync_weights(self) -> None:
        """Let the env runners act with the learner's policy."""
        group, learners = self.env_runner_group, self.learner_group
        if learners.is_local and group.num_remote_env_runners() == 0:
            # In one process RLlib's way, through NumPy and the object store, takes half a gradient step's time.
            self.env_runner.copy_weights(learners._learner.module[DEFAULT_MODULE_ID])
        elif self.config.explore and group.num_remote_env_runners() > 0:
            # Nothing but the policy: critics and averages, six times as much, are for evaluation, before which RLlib
            # sends everything.
            first = None if learners.is_local else [0]
            policy = learners.foreach_learner(_policy_weights, remote_actor_ids=first).result_or_errors[0].get()
            self._policy = ray.put(policy)  # they take it with the next request
        else:
            group.sync_weights(from_worker_or_learner_group=learners, inference_only=True)

    def _update(self, updates: int, offline_fraction: float | None) -> None:
        """Gradient steps on batches drawn together, for each learner one of the configured size."""
        batches = updates * max(1, self.config.num_learners)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self._update_on(self._columns(batches, offline_fraction), batches)

    def _update_on(self, columns: Batch, batches: int) -> None:
        """One after the other learner gets its share of the rows, of which there are as many for each."""
        steps = batches * self.config.train_batch_size_per_learner
        sent: dict[str, Any] = dict(columns)
        if self.learner_group.is_remote:  # a part of a tensor would be sent with the whole
            sent = {name: column.numpy() for name, column in columns.items()}
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(sent)}, env_steps=steps)
        sampled = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(ENV_STEPS, default=0)}
        results = self.learner_group.update(batch=batch, timesteps=sampled)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _columns(self, batches: int, offline_fraction: float | None) -> Batch:
        """So many batches of a learner for a gradient step, in one."""
        size = self.config.train_batch_size_per_learner
        return mixed_batch(self.replay, self.offline, batches, size, offline_fraction)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(*args, **kwargs)
        state["spirl"] = {
            "updates_owed": self._updates_owed,
            "warm": self._warm,
            "experienced_in": self.config.experienced_in,
            "offline_rng": None if self.offline is None else self.offline.generator.get_state().numpy(),
        }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._policy = None  # all env runners have been given what the learner has
        if "spirl" in state:
            own = state["spirl"]
            self._updates_owed, self._warm = own["updates_owed"], own["warm"]
            # Not told by checkpoints of earlier versions.
            self._experience_fits = own.get("experienced_in") in (None, self.config.experienced_in)
            if self.offline is not None and own["offline_rng"] is not None:
                self.offline.generator.set_state(torch.from_numpy(own["offline_rng"].copy()))
        if self.env_runner_group.num_remote_env_runners() > 0:
            self._begin_anew(None)

    def _begin_anew(self, ids: list[int] | None) -> None:
        """Let remote env runners not repeat what the run began with; None for all of them."""
        steps = int(self.metrics.peek(ENV_STEPS, default=0))
        self.env_runner_group.foreach_env_runner(
            "begin_anew", kwargs={"steps": steps}, remote_worker_ids=ids, local_env_runner=False
        )

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """RLlib's; one that replaces a lost one goes on with other random numbers than the lost one began with."""
        restored: list[int] = super().restore_env_runners(env_runner_group)
        if restored and env_runner_group is self.env_runner_group:
            self._begin_anew(restored)
        return restored

    def save_to_path(
        self, path: str | Path | None = None, *, filesystem: fs.FileSystem | None = None, **kwargs: Any
    ) -> str:
        """RLlib's checkpoint with all that a run needs to go on with the same next update, wherever it is restored.

        Beside RLlib's files: replay buffer, demonstrations and skills.

        Args:
            path: A folder or URI, or a path in ``filesystem``; None for a temporary folder.
            filesystem: Of ``path``; None for this machine's, or that of the URI.
            **kwargs: RLlib's own.
        """
        self.check_whole()
        assert isinstance(self.config.skill_checkpoint, SkillFiles)
        place = tempfile.mkdtemp() if path is None else path
        with local_folder(place, filesystem) as folder:
            with pickled_by_name():
                super().save_to_path(folder, **kwargs)
            self.config.skill_checkpoint.write(folder / SKILLS_FOLDER)
            if self.offline is not None:
                self.offline.save(folder / DEMONSTRATIONS_FILE)
            self._save_replay(folder)
        return str(place) if "://" in str(place) or filesystem is not None else str(folder)

    def _save_replay(self, folder: Path) -> None:
        self.replay.save(folder / REPLAY_FILE)

    def _restore_replay(self, folder: Path) -> None:
        self.replay.restore(folder / REPLAY_FILE)

    def _load_demonstrations(self, file: Path) -> SkillReplay:
        return SkillReplay.load(file, self.replay.state_dim, self.replay.latent_dim)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self._adopt_skills(Path(checkpoint_dir))  # RLlib times the rest with what setting up makes
        super().load_checkpoint(checkpoint_dir)

    def restore_from_path(
        self, path: str | Path, *args: Any, filesystem: fs.FileSystem | None = None, **kwargs: Any
    ) -> None:
        with local_copy(path, filesystem) as folder:
            self._adopt_skills(folder)
            demonstrations = folder / DEMONSTRATIONS_FILE
            if self.config.uses_demonstrations and demonstrations.exists():
                brought = self._load_demonstrations(demonstrations)
                # Another config may name others, or another task.
                if (brought.source, brought.labelled_for) == (self.config.offline_data, self._labelled_for):
                    self.offline = brought
            super().restore_from_path(folder, *args, **kwargs)
            if self._experience_fits:
                self._restore_replay(folder)
            else:
                tell("the checkpoint's own experience is of another env_config or skill_bound: it is left out")

    def _adopt_skills(self, checkpoint: Path) -> None:
        """Set up anew with the skills of a checkpoint, unless they are the same: its networks are over their z.

        Raises:
            UserError: If its skills are damaged, or if there are none, neither in it nor where the config says.
        """
        skills = kept_skills(checkpoint)
        if skills is None:
            self.check_whole()
            return
        if self._missing is None:
            own = self.config.skill_checkpoint
            assert isinstance(own, SkillFiles)
            if skills.weights == own.weights and load_card(skills).model == load_card(own).model:
                return
            self.cleanup()
            self.__dict__.pop("offline", None)
        self._missing = None
        self._set_up(replace(skills, name=str(self.config.skill_checkpoint)))


def _policy_weights(learner: SPiRLLearner) -> dict[str, Any]:
    return convert_to_numpy(learner.module[DEFAULT_MODULE_ID].sampling_state())


__all__ = ["SPiRL", "SPiRLConfig"]
