"""SPiRL: soft actor-critic over skills whose entropy term is the KL to a learned skill prior (Pertsch et al. 2020)."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import ray
import torch
from gymnasium.spaces import flatdim
from pyarrow import fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
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

from rllib_spirl.algorithm.checked_config import CheckedConfig, is_finite
from rllib_spirl.algorithm.chunk_windows import chunk_windows
from rllib_spirl.algorithm.episode_end import log_end
from rllib_spirl.algorithm.evaluation import evaluate_skill_policy, evaluated_once
from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.algorithm.remote import result_of
from rllib_spirl.algorithm.replay_buffer import AnotherTask, Batch, SkillReplay, mixed_batch, successive
from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner
from rllib_spirl.algorithm.spirl_learner import SPiRLLearner
from rllib_spirl.algorithm.spirl_rl_module import LOG_STD_BOUND, SkillPriorRLModule
from rllib_spirl.data import DataSet
from rllib_spirl.envs.skill_env import make_env
from rllib_spirl.errors import UserError
from rllib_spirl.files import local_copy, local_folder
from rllib_spirl.locations import location
from rllib_spirl.progress import Stage, stage, tell
from rllib_spirl.skills.checkpoint import SkillFiles, load_card, load_skills, pickled_by_name, read_skills
from rllib_spirl.skills.model import SkillModel

# What a checkpoint holds beside RLlib's state of networks, optimizers and env runner.
REPLAY_FILE = "replay.safetensors"
DEMONSTRATIONS_FILE = "demonstrations.safetensors"
SKILLS_FOLDER = "skills"
# Low-level environment steps since the start of the experiment, warm-up included: the x-axis of every curve.
ENV_STEPS = "env_steps"
UPDATES = "updates"
# Batches in memory together.
MAX_UPDATES_AT_ONCE = 16
# Settings of RLlib that nothing would come of, and what to do instead.
_WIDTHS = "set `policy_hidden`, `policy_layers`, `critic_hidden` or `critic_layers`"
_LEAVE_OUT, _WRAP = "leave it out", "leave it out, or wrap the environment"
_NOT_USED = {
    "lr": "set `policy_lr`, `critic_lr` or `alpha_lr`",
    "train_batch_size": "set `train_batch_size_per_learner`",
    "minibatch_size": "set `train_batch_size_per_learner`",
    "num_epochs": "set `updates_per_step`",
    "model": _WIDTHS,
    "_model_config": _WIDTHS,
    "torch_compile_learner": "set `compile_updates`",
    "torch_compile_worker": _LEAVE_OUT,
    "grad_clip": _LEAVE_OUT,
    "grad_clip_by": _LEAVE_OUT,
    "log_gradients": _LEAVE_OUT,
    "shuffle_batch_per_epoch": _LEAVE_OUT,
    "torch_skip_nan_gradients": _LEAVE_OUT,
    "_env_to_module_connector": _WRAP,
    "_module_to_env_connector": _WRAP,
    "_learner_connector": _WRAP,
    "clip_actions": _WRAP,
    "normalize_actions": _WRAP,
    "clip_rewards": _WRAP,
    "observation_filter": _WRAP,
    "restart_failed_sub_environments": _LEAVE_OUT,
}
_NOT_OF_FLOWS = (
    "regularize_to",
    "prior_spread",
    "log_std_bound",
    "target_divergence",
    "initial_divergence",
    "divergence_steps",
    "initial_alpha",
    "least_alpha",
    "alpha_lr",
    "kl_in_target",
    "target_members",
    "target_value",
    "policy_value",
    "conservatism",
    "cloning",
    "exploring_candidates",
)


class SPiRLConfig(CheckedConfig):
    """Configuration of `SPiRL`.

    Example:
        >>> config = (
        ...     SPiRLConfig()
        ...     .environment("rllib_spirl/Kitchen-v0", env_config={"ordered": True})
        ...     .training(skill_checkpoint="skills/kitchen", target_divergence=1.0)
        ... )
        >>> algorithm = config.build_algo()
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or SPiRL)
        self.skill_checkpoint: str | SkillFiles | None = None
        self.offline_data: str | None = None
        self.skill_bound: float | None = None
        self.target_divergence = 1.0
        self.initial_divergence: float | None = None
        self.divergence_steps = 30_000
        self.initial_alpha = 0.1
        self.least_alpha = 0.0
        self.kl_in_target = False
        self.target_bounds: tuple[float, float] | None = None
        self.conservatism = 0.0
        self.cloning = 0.0
        self.policy = "residual"
        self.regularize_to = "prior"
        self.prior_spread = 1.0
        self.policy_hidden = 256
        self.policy_layers = 2
        self.log_std_bound = LOG_STD_BOUND
        self.critic_hidden = 256
        self.critic_layers = 2
        self.critic_members = 4
        self.initial_value = 0.0
        self.target_members: int | None = None
        self.target_value = "least"
        self.policy_value = "least"
        self.critic_layer_norm = True
        self.policy_lr = 3e-4
        self.critic_lr = 3e-4
        self.alpha_lr = 3e-3
        self.tau = 0.005
        self.policy_tau = 0.001
        self.replay_capacity = 1_000_000
        self.warmup_steps = 500
        self.updates_per_step = 2.0
        self.offline_fraction: float | None = 0.5
        self.offline_updates = 2000
        self.learner_threads = 1
        self.compile_updates = False
        self.eval_seed = 10_000
        self.skill_candidates = 32
        self.exploring_candidates = 1

        # RLlib's own settings, where this algorithm wants other values.
        self.gamma = 0.97
        self.train_batch_size_per_learner = 256
        self.rollout_fragment_length = 8
        self.num_env_runners = 0
        self.min_sample_timesteps_per_iteration = 100
        self.min_time_s_per_iteration = 0
        self.normalize_actions = False
        self.clip_actions = False
        self.env_runner_cls = SkillEnvRunner
        self.evaluation_duration = 20
        self.evaluation_config = {"explore": False}
        self.custom_evaluation_function = evaluate_skill_policy

    def training(
        self,
        *,
        skill_checkpoint: str | None = NotProvided,
        offline_data: str | None = NotProvided,
        skill_bound: float | None = NotProvided,
        target_divergence: float = NotProvided,
        initial_divergence: float | None = NotProvided,
        divergence_steps: int = NotProvided,
        initial_alpha: float = NotProvided,
        least_alpha: float = NotProvided,
        kl_in_target: bool = NotProvided,
        target_bounds: tuple[float, float] | None = NotProvided,
        conservatism: float = NotProvided,
        cloning: float = NotProvided,
        policy: str = NotProvided,
        regularize_to: str = NotProvided,
        prior_spread: float = NotProvided,
        policy_hidden: int = NotProvided,
        policy_layers: int = NotProvided,
        log_std_bound: float = NotProvided,
        critic_hidden: int = NotProvided,
        critic_layers: int = NotProvided,
        critic_members: int = NotProvided,
        initial_value: float = NotProvided,
        target_members: int | None = NotProvided,
        target_value: str = NotProvided,
        policy_value: str = NotProvided,
        critic_layer_norm: bool = NotProvided,
        policy_lr: float = NotProvided,
        critic_lr: float = NotProvided,
        alpha_lr: float = NotProvided,
        tau: float = NotProvided,
        policy_tau: float = NotProvided,
        replay_capacity: int = NotProvided,
        warmup_steps: int = NotProvided,
        updates_per_step: float = NotProvided,
        offline_fraction: float | None = NotProvided,
        offline_updates: int = NotProvided,
        learner_threads: int = NotProvided,
        compile_updates: bool = NotProvided,
        eval_seed: int = NotProvided,
        skill_candidates: int = NotProvided,
        exploring_candidates: int = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the training-related configuration.

        Args:
            skill_checkpoint: Folder or URI of the pretrained skills. Required.
            offline_data: Folder or URI of the data set whose trajectories are replayed as skill transitions beside the
                agent's own.
            skill_bound: z = skill_bound·tanh(u), where u is what the Gaussians of policy and prior are over, and so the
                KL; the paper's is 2. None: z itself is.
            target_divergence: δ, the KL(π ‖ prior) in nats (summed over z) that α is adjusted to reach. The paper's is
                5; with skills as smooth as ours, a whole choice of skill takes 4 to 5 nats, and 1 learned best.
            initial_divergence: δ at the start, if it is another; it then changes linearly to target_divergence.
            divergence_steps: Low-level environment steps until δ is target_divergence.
            initial_alpha: α at the start.
            least_alpha: What α does not fall below. As long as rewards are rare, values differ by noise alone, which an
                α that falls until the KL is δ lets the policy follow, away from the prior with which it explores. Of
                the size of the difference between a good skill's value and that of a bad one, or less.
            kl_in_target: Whether −α KL is part of the Q-target, as in the paper. Leaving it out learned faster: through
                time-outs the bootstrapped penalties add up to more than any return.
            target_bounds: The least and greatest return there can be; Q-targets are clipped to them.
            conservatism: Weight of the conservative Q-learning penalty, see `losses.conservative_loss`; 0 is off.
            cloning: Weight of behaviour cloning in the policy's loss, see `losses.cloning_loss`; 0 is off.
            policy: "residual" around the prior; "copied": a trainable copy of its network, as in the paper, or of
                what it says where it sees pictures, with a network over states around that; or "flow":
                flow matching that clones the skills in its batches, among whose samples the best by value is taken. A
                flow is not regularised: it has no divergence and no α.
            regularize_to: "prior", or "unit": N(0, I), which makes the entropy term that of maximum-entropy SAC in the
                space of skills. A residual policy then starts there; a copied one still starts as the prior. "uniform",
                with a skill_bound: the uniform distribution over bounded z, which is what SAC's entropy of a policy
                squashed by tanh is about: a target entropy of −Z/2 is a target_divergence of Z (log 2 + 1/2).
            prior_spread: The prior's deviation is multiplied by it. Less than 1 keeps to likelier skills, where the
                prior's own spread is that of its errors too; a residual policy then starts there.
            policy_hidden, policy_layers: Width and depth of the residual policy.
            log_std_bound: How far the logarithm of a residual policy's deviation can be from that of the reference.
            critic_hidden, critic_layers, critic_members, critic_layer_norm: The Q ensemble; the paper's is
                256, 5, 2, False.
            initial_value: What critics say at first of every skill. Where nothing is known yet it had better be the
                return of failing: with rewards of −1 until success, critics that begin at 0 take thousands of updates
                to come down, in which the few successes among the demonstrations do not count.
            policy_lr, critic_lr, alpha_lr: Adam learning rates.
            target_members: So many of the critics count in the Q-target, drawn anew for each minibatch; None for all.
            target_value: The "least" of them or, as in Q-chunking, their "mean".
            policy_value: What the policy climbs: the "least" of the critics or, as in RLPD, their "mean".
            tau: Polyak coefficient of the target critics.
            policy_tau: The same for the averaged policy, which acts in deterministic evaluations; 1 evaluates the
                latest iterate, as do evaluations with drawn skills (``explore: true``).
            replay_capacity: Skill transitions kept. Of chunks of actions they are all windows of H steps, see
                `chunk_windows`.
            warmup_steps: Skill transitions gathered before learning, with the policy as it starts, which is most often
                the prior; of chunks of actions they are windows, as in `replay_capacity`. With 0, `offline_updates`
                are made before anything is sampled.
            updates_per_step: Gradient steps per skill transition.
            offline_fraction: Share of every batch drawn from `offline_data`; None for as much as its transitions are of
                all, the agent's own included.
            offline_updates: Gradient steps on `offline_data` alone, once the warm-up is over; none where
                `offline_fraction` is 0.
            learner_threads: Torch threads of a local learner.
            compile_updates: Whether PyTorch compiles the loss and its gradient: on a CPU with a C++ compiler a
                quarter less time for an update, after up to a minute for the first one.
            eval_seed: Evaluation episodes use the seeds eval_seed, eval_seed + 1, …
            skill_candidates: How many skills at and around the averaged policy's mean the deterministic policy
                chooses from, by their value; 1 is the mean.
            exploring_candidates: How many skills that are drawn from the policy the agent chooses from, by their value,
                when it explores; 1 takes what is drawn. With more, it comes to the states in which the deterministic
                policy fails, and so learns what is wrong there.

        Returns:
            This updated config.
        """
        super().training(**kwargs)
        return self._take(locals())

    def validate(self) -> None:
        super().validate()
        self._check_numbers()
        self._check_policy()
        self._check_targets()
        self._check_sampling()
        # Last: an experiment that has its skills still to be made is checked without them.
        if not self.skill_checkpoint:
            self._value_error(
                "SPiRL needs `skill_checkpoint`: make one with `spirl pretrain`, or add a `skills:` section."
            )

    def _check_numbers(self) -> None:
        """Raise ValueError unless each setting that is a number can be by itself."""
        self._positive(
            "target_divergence",
            "initial_alpha",
            "policy_lr",
            "critic_lr",
            "alpha_lr",
            "updates_per_step",
            "prior_spread",
            "log_std_bound",
        )
        self._positive("skill_bound", "initial_divergence", none="null for none")
        self._not_negative("conservatism", "least_alpha", "cloning")
        self._share("gamma")
        self._share("offline_fraction", none="null")
        self._require(("tau", "policy_tau"), lambda value: is_finite(value) and 0 < value <= 1, "be in (0, 1]")
        self._require(("initial_value",), is_finite, "be a number")
        self._whole(
            "replay_capacity",
            "critic_members",
            "critic_layers",
            "critic_hidden",
            "policy_layers",
            "policy_hidden",
            "train_batch_size_per_learner",
            "skill_candidates",
            "exploring_candidates",
            "divergence_steps",
            "learner_threads",
            least=1,
        )
        self._whole("warmup_steps", "offline_updates", "eval_seed", least=0)

    def _check_policy(self) -> None:
        """Raise ValueError unless the policy, and what it is regularised to, go together."""
        self._one_of("policy", of=("residual", "copied", "flow"))
        self._one_of("regularize_to", of=("prior", "unit", "uniform"))
        if self.regularize_to == "uniform" and self.skill_bound is None:
            self._value_error("`regularize_to` 'uniform' needs bounded skills: set `skill_bound`.")
        if self.initial_divergence is None and self._changed(["divergence_steps"]):
            self._value_error("`divergence_steps` are from `initial_divergence` on: set that too, or leave them out.")
        if self.least_alpha > self.initial_alpha:
            self._value_error(
                f"`least_alpha`, {self.least_alpha}, is above `initial_alpha`, {self.initial_alpha}: raise that too."
            )
        if self.policy == "flow":
            if self.skill_bound is not None:
                self._value_error("`policy` 'flow' makes skills as they are: leave `skill_bound` out.")
            for name in self._changed(_NOT_OF_FLOWS):
                self._value_error(f"`policy` 'flow' has no use for `{name}`: leave it out.")

    def _check_targets(self) -> None:
        """Raise ValueError unless what critics learn can be learned."""
        self._one_of("target_value", "policy_value", of=("least", "mean"))
        if self.target_members is not None:
            self._whole("target_members", least=1)
            if self.target_members > self.critic_members:
                self._value_error(
                    f"`target_members` must be from 1 to critic_members, {self.critic_members}, or null for all; got "
                    f"{self.target_members}."
                )
        if self.target_bounds is None:
            return
        if not (
            isinstance(self.target_bounds, list | tuple)
            and len(self.target_bounds) == 2
            and all(map(is_finite, self.target_bounds))
            and self.target_bounds[0] < self.target_bounds[1]
        ):
            self._value_error(f"`target_bounds` must be [least, greatest] return, got {self.target_bounds!r}.")
        least, greatest = self.target_bounds
        if not least <= self.initial_value <= greatest:
            self._value_error(
                f"`initial_value`, {self.initial_value}, is not within `target_bounds`, {self.target_bounds}."
            )

    def _check_sampling(self) -> None:
        """Raise ValueError unless episodes can be sampled and evaluated as asked for."""
        if self.warmup_steps > self._transitions_kept:
            self._value_error(
                f"`warmup_steps`, {self.warmup_steps}, are more than are kept, {self._transitions_kept}, so that "
                "learning would never begin: raise `replay_capacity`, or lower `warmup_steps`."
            )
        self._check_evaluation()
        self._check_runners()
        if self.vectorize_mode not in ("sync", "vector_entry_point"):
            self._value_error(
                "`gym_env_vectorize_mode` must be 'sync', or 'vector_entry_point' for an environment that is many at "
                f"once; got {self.gym_env_vectorize_mode!r}."
            )
        self._check_not_used(_NOT_USED)
        if not self.in_evaluation and self.batch_mode != "truncate_episodes" and self.num_envs_per_env_runner > 1:
            self._value_error(
                "Of environments side by side, `batch_mode` 'complete_episodes' would throw away the episodes that "
                "go on: leave it out, or use more env runners."
            )

    @property
    def uses_demonstrations(self) -> bool:
        """Whether a share of batches is from demonstrations."""
        return bool(self.offline_data) and self.offline_fraction != 0

    @property
    def _transitions_kept(self) -> int:
        return self.replay_capacity

    def check_skills(self) -> None:
        """Check what `validate` cannot tell without the skills, which may be in a checkpoint that is to be restored.

        Raises:
            UserError: If their card cannot be read.
            ValueError: If a setting does not suit them.
        """
        assert self.skill_checkpoint is not None
        load_card(self.skill_checkpoint)

    def build_algo(self, *args: Any, **kwargs: Any) -> "SPiRL":
        """The algorithm. Raises UserError if its skills cannot be read."""
        algorithm: SPiRL = super().build_algo(*args, **kwargs)
        algorithm.check_whole()
        return algorithm

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for results."""
        return super().to_dict() | {"skill_checkpoint": self.skill_checkpoint and str(self.skill_checkpoint)}

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=SkillPriorRLModule)

    def get_default_learner_class(self) -> type[SPiRLLearner]:
        return SPiRLLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        names = (
            "skill_checkpoint",
            "policy",
            "regularize_to",
            "prior_spread",
            "policy_hidden",
            "policy_layers",
            "log_std_bound",
            "critic_hidden",
            "critic_layers",
            "critic_members",
            "critic_layer_norm",
            "initial_value",
            "initial_alpha",
            "skill_candidates",
            "exploring_candidates",
            "skill_bound",
        )
        return super()._model_config_auto_includes | {name: getattr(self, name) for name in names}


class SPiRL(Algorithm):
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
        self._evaluated = False
        self._stage = Stage("")

    def _make_replay(self, state_dim: int, latent_dim: int) -> None:
        config = self.config
        self.replay: Any = SkillReplay(config.replay_capacity, state_dim, latent_dim, config.seed or 0)
        self.replay.labelled_for = self._labelled_for

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
        return json.dumps(_plain(self._facts_of_labels()))

    def _facts_of_labels(self) -> list[Any]:
        """What the rewards and skills of transitions depend on, beside the data of demonstrations."""
        env_config = {name: value for name, value in self.config.env_config.items() if name != "render_mode"}
        return [self.config.env, env_config, self.config.skill_bound]

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
            "offline_rng": None if self.offline is None else self.offline.generator.get_state().numpy(),
        }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._policy = None  # all env runners have been given what the learner has
        if "spirl" in state:
            own = state["spirl"]
            self._updates_owed, self._warm = own["updates_owed"], own["warm"]
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
        try:
            self.replay.restore(folder / REPLAY_FILE)
        except AnotherTask:  # by another config than it was saved with
            tell("the checkpoint's own experience is of another env_config or skill_bound: it is left out")

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
            self._restore_replay(folder)

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


def _plain(value: Any) -> Any:
    """A value of a configuration as JSON has it, the same in every process; of an object, its type's name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def kept_skills(checkpoint: str | Path) -> SkillFiles | None:
    """The skills in a checkpoint, a folder or URI; None where there are none.

    Raises:
        UserError: If they are damaged.
    """
    folder = location(checkpoint) / SKILLS_FOLDER
    if not folder.exists():
        return None
    skills = read_skills(str(folder))
    load_skills(skills)
    return skills


def _policy_weights(learner: SPiRLLearner) -> dict[str, Any]:
    return convert_to_numpy(learner.module[DEFAULT_MODULE_ID].sampling_state())


__all__ = ["SPiRL", "SPiRLConfig"]
