"""The configuration of SPiRL: its settings, their defaults, and what goes together."""

import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_spirl.algorithm.checked_config import CheckedConfig, is_finite
from rllib_spirl.algorithm.evaluation import evaluate_skill_policy
from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner
from rllib_spirl.algorithm.spirl_learner import SPiRLLearner
from rllib_spirl.algorithm.spirl_rl_module import LOG_STD_BOUND, SkillPriorRLModule
from rllib_spirl.skills.checkpoint import SkillFiles, load_card

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
        super().__init__(algo_class=algo_class or _algorithm())
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
            kl_in_target: Whether −α KL is part of the Q-target, as in the paper. The kitchen is learned faster with it.
                Where episodes end by time alone, the bootstrapped penalties may add up to more than any return.
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
            policy_hidden, policy_layers: Width and depth of a residual policy, or of a flow.
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
        if self.warmup_steps > self.transitions_kept:
            self._value_error(
                f"`warmup_steps`, {self.warmup_steps}, are more than are kept, {self.transitions_kept}, so that "
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
    def transitions_kept(self) -> int:
        """How many of the agent's transitions are kept, and of demonstrations at most."""
        return self.replay_capacity

    @property
    def facts_of_experience(self) -> list[Any]:
        """What the rewards and skills of transitions depend on, as plain values."""
        env_config = {name: value for name, value in self.env_config.items() if name != "render_mode"}
        return [plain(fact) for fact in (self.env, env_config, self.skill_bound)]

    @property
    def experienced_in(self) -> str:
        """The same as text, which is so in every process."""
        return json.dumps(self.facts_of_experience)

    def check_skills(self) -> None:
        """Check what `validate` cannot tell without the skills, which may be in a checkpoint that is to be restored.

        Raises:
            UserError: If their card cannot be read.
            ValueError: If a setting does not suit them.
        """
        assert self.skill_checkpoint is not None
        load_card(self.skill_checkpoint)

    def build_algo(self, *args: Any, **kwargs: Any) -> Algorithm:
        """The algorithm. Raises UserError if its skills cannot be read."""
        algorithm = super().build_algo(*args, **kwargs)
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


def plain(value: Any) -> Any:
    """A value of a configuration as JSON has it, the same in every process; of an object, its type's name."""
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _algorithm() -> type[Algorithm]:
    from rllib_spirl.algorithm.spirl import SPiRL  # here, because it is made of this configuration

    return SPiRL
