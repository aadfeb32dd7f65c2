"""The env runner: RLlib's own, around the user's environment with skills for actions."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.tune.registry import register_env
from torch import nn

from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.algorithm.any_state import TakesAnyState
from rllib_spirl.algorithm.remote import Failure, attempt
from rllib_spirl.envs.rollout import EpisodeResult, run_episode, skill_random
from rllib_spirl.envs.skill_env import SkillEnv, context, make_skill_env
from rllib_spirl.envs.skill_vector_env import SkillVectorEnv, make_skill_vector_env
from rllib_spirl.progress import track

SKILL_ENV = "rllib_spirl/SkillEnv"
_SAMPLING = "sampling"
Weights = Mapping[str, NDArray[np.float32]]


class SkillEnvRunner(TakesAnyState, SingleAgentEnvRunner):
    """Steps skills, in one environment or in many side by side. Also runs evaluation episodes on given seeds.

    Samples in a loop of its own: RLlib's costs a tenth of the kitchen's physics (benchmarks/rollout.py), most of it in
    connectors, for which flat states and skills have no use. RLlib's callbacks are called.
    """

    module: Any
    _needs_initial_reset: bool
    _in_use = False
    """Whether an episode has begun in the environments."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        index = kwargs.get("worker_index") or 0
        skill_config = {
            "env": config.env,
            "env_config": context(config.env_config, worker_index=index, num_workers=kwargs.get("num_workers")),
            "skill_checkpoint": config.skill_checkpoint,
            "skill_bound": config.skill_bound,
            "batched": config.vectorize_mode == "vector_entry_point",
        }
        register_env(SKILL_ENV, _make)  # here, not at import: it lasts as long as the connected cluster
        self._many = skill_config["batched"] or config.num_envs_per_env_runner > 1
        inner = config.copy(copy_frozen=False).environment(env=SKILL_ENV, env_config=skill_config)
        if self._many:
            inner.env_runners(gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT)
        super().__init__(config=inner, **kwargs)
        self._rng = skill_random(self._seed)
        # Of the next reset; environments then go on with their own random numbers. Of several, each takes the next
        # seed, which must not be one of another env runner's, whose seed is greater by its index.
        self._reset_seed = None if self._seed is None else self._seed + index * (config.num_envs_per_env_runner - 1)

    def begin_anew(self, steps: int) -> None:
        """From here on other random numbers than at the start: those of a run that goes on after so many steps."""
        if self._seed is not None:
            self._rng = np.random.default_rng([self._seed, steps])
            self._reset_seed = int(self._rng.integers(2**31))

    def make_module(self) -> None:
        super().make_module()
        self.module = self.module.cpu()  # single states: a GPU, if there is one here, is the simulator's
        self._policy = ActingPolicy(self.module)

    @torch.no_grad()
    def copy_weights(self, module: nn.Module) -> None:
        """Act with a learner's module from now on."""
        given = module.state_dict()
        for name, weight in self.module.state_dict().items():
            weight.copy_(given[name])

    def take(self, weights: Weights | None) -> None:
        """Sample with a learner's policy from now on, if one is given; what only evaluation needs stays as it is."""
        if weights is not None:
            self.module.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()}, strict=False)

    def sample_with(self, weights: Weights | None) -> tuple[list[SingleAgentEpisode], Any] | Failure:
        """`take` the policy's weights, then `sample`; its episodes and the metrics of them, in one call from afar."""
        return self._with(weights, self.sample)

    def _with(
        self, weights: Weights | None, sample: Callable[[], list[SingleAgentEpisode]]
    ) -> tuple[list[SingleAgentEpisode], Any] | Failure:
        def sampled() -> tuple[list[SingleAgentEpisode], Any]:
            self.take(weights)
            return sample(), self.get_metrics()

        return attempt(sampled)

    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        """Whole episodes, or about ``num_timesteps`` skills of ongoing ones; see RLlib's ``sample``."""
        if force_reset or num_episodes is not None or self._needs_initial_reset:
            self._ongoing_episodes_for_metrics.clear()
            self._begin_episodes(self._reset_seed)
            self._reset_seed = None
            self._needs_initial_reset = num_episodes is not None
        finished: list[SingleAgentEpisode] = []
        steps = 0
        while steps < num_timesteps if num_timesteps is not None else len(finished) < (num_episodes or 0):
            steps += self._step(finished, num_episodes, explore=explore, random_actions=random_actions)
        self._done_episodes_for_metrics.extend(finished)
        pieces = self._cut_episodes() if num_timesteps is not None else []
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(finished))
        return finished + pieces

    def _begin_episodes(self, seed: int | None) -> None:
        self._in_use = True
        if not self._many:
            self._begin_episode(seed)
            return
        env = self._skill_env
        self._shown, _ = env.reset(seed=seed)
        self._z = np.zeros(env.action_space.shape or (), np.float32)
        for index in range(self.num_envs):
            self._note_beginning(index, self._shown[index], {})

    def _step(
        self, finished: list[SingleAgentEpisode], wanted: int | None, *, explore: bool, random_actions: bool
    ) -> int:
        """The next skill of the environment, or of those whose turn it is; returns how many skills have ended.

        Args:
            finished: Episodes that end are added to it.
            wanted: How many are to; no more are begun then. None for any number.
        """
        env = self._skill_env
        if self._many:
            if random_actions:
                self._z[env.due] = env.action_space.sample()[env.due]
            elif env.due.any():  # none is, where all that ended will begin anew with the next low-level step
                self._z[env.due] = self._act(self._shown[env.due], explore)
            self._shown, rewards, terminated, truncated, infos = env.step(self._z)
            ended = np.flatnonzero(infos["ended"]).tolist()
            for index in ended:
                info = {**infos["last"][index], "low_level_steps": int(infos["low_level_steps"][index])}
                outcome = float(rewards[index]), bool(terminated[index]), bool(truncated[index]), info
                self._note(index, infos["final_obs"][index], self._z[index].copy(), *outcome, finished)
            for index in np.flatnonzero(infos["begun"]).tolist():
                self._note_beginning(index, self._shown[index], {})
            return len(ended)
        state = self._ongoing_episodes[0].get_observations(-1)
        z = env.action_space.sample() if random_actions else self._act(state, explore)
        observation, reward, is_terminated, is_truncated, info = env.step(z)
        self._note(0, observation, z, float(reward), is_terminated, is_truncated, info, finished)
        if (is_terminated or is_truncated) and (wanted is None or len(finished) < wanted):
            self._begin_episode()
        return 1

    def _note(
        self,
        index: int,
        observation: Any,
        z: NDArray[np.float32],
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
        finished: list[SingleAgentEpisode],
    ) -> None:
        """Add a skill to an environment's episode, and the episode to the finished ones if it ended."""
        episode = self._ongoing_episodes[index]
        observation = np.array(observation)  # the environment may go on writing into its own
        episode.add_env_step(observation, z, reward, info, terminated=terminated, truncated=truncated)
        self._make_on_episode_callback("on_episode_step", index, self._ongoing_episodes)
        if episode.is_done:
            self._make_on_episode_callback("on_episode_end", index, self._ongoing_episodes)
            finished.append(episode.to_numpy())

    def _note_beginning(self, index: int, observation: Any, info: dict[str, Any]) -> None:
        self._new_episode(index)
        self._ongoing_episodes[index].add_env_reset(np.array(observation), info)
        self._make_on_episode_callback("on_episode_start", index, self._ongoing_episodes)

    @property
    def _skill_env(self) -> Any:
        """A `SkillVectorEnv` or, perhaps in a wrapper, a `SkillEnv`."""
        return self.env.unwrapped if self._many else self.env.unwrapped.envs[0]

    def _act(self, state: NDArray[np.floating], explore: bool) -> NDArray[np.float32]:
        return self._policy.sample(state, self._rng) if explore else self._policy.best(state)

    def _begin_episode(self, seed: int | None = None) -> None:
        """In the only environment."""
        self._note_beginning(0, *self._skill_env.reset(seed=seed))

    def _cut_episodes(self) -> list[SingleAgentEpisode]:
        """What has been sampled of ongoing episodes; these go on in the next call."""
        pieces = []
        for index, episode in enumerate(self._ongoing_episodes):
            if len(episode) == 0 or episode.is_done:
                continue
            self._ongoing_episodes[index] = episode.cut(len_lookback_buffer=self.config.episode_lookback_horizon)
            self._ongoing_episodes_for_metrics[episode.id_].append(episode)
            pieces.append(episode.to_numpy())
        return pieces

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, and where sampling stands: random state, environments, ongoing episodes."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self.env is not None and self._check_component(_SAMPLING, components, not_components):
            begun = not self._needs_initial_reset
            state[_SAMPLING] = {
                "random": self._rng.bit_generator.state,
                "reset_seed": self._reset_seed,
                "envs": [_attribute(self._skill_env, "get_state")()] if self._in_use else [],
                "side_by_side": (self._many, self.num_envs),
                "experienced_in": self.config.experienced_in,
                "episodes": [e.get_state() for e in self._ongoing_episodes] if begun else [],
                "pieces": [e.get_state() for pieces in self._ongoing_episodes_for_metrics.values() for e in pieces],
            }
            if begun and self._many:
                state[_SAMPLING] |= {"shown": self._shown.copy(), "z": self._z.copy()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on as the env runner of `get_state`; with new episodes where the environment cannot restore its state."""
        super().set_state(state)
        # The local runner's, when it is brought back; not for one that replaces a lost remote or evaluation runner.
        if _SAMPLING not in state or self.env is None or self.worker_index > 0 or self.config.in_evaluation:
            return
        sampling, env = state[_SAMPLING], self._skill_env
        self._rng.bit_generator.state = sampling["random"]
        self._needs_initial_reset = True
        if not sampling["envs"]:  # nothing had been sampled
            self._reset_seed = sampling["reset_seed"]
            return
        # An environment without a state cannot go on, nor can more or fewer than there were, or others.
        same = tuple(sampling["side_by_side"]) == (self._many, self.num_envs)
        elsewhere = sampling.get("experienced_in", self.config.experienced_in) != self.config.experienced_in
        if sampling["envs"] == [None] or not same or elsewhere:
            self._reset_seed = int(self._rng.integers(2**31))  # not that of the run's first episodes
            return
        env.reset()
        self._in_use, self._reset_seed = True, None
        _attribute(env, "set_state")(sampling["envs"][0])
        if not sampling["episodes"]:  # whole ones are sampled, the next of which is still to begin
            return
        if self._many:
            self._shown, self._z = sampling["shown"].copy(), sampling["z"].copy()
        self._ongoing_episodes = [SingleAgentEpisode.from_state(e) for e in sampling["episodes"]]
        self._ongoing_episodes_for_metrics.clear()
        for piece in map(SingleAgentEpisode.from_state, sampling["pieces"]):
            self._ongoing_episodes_for_metrics[piece.id_].append(piece)
        self._needs_initial_reset = False

    @cached_property
    def _evaluation_env(self) -> SkillEnv:
        return make_skill_env(self.config.env_config)

    def stop(self) -> None:
        """Close the environments."""
        super().stop()
        if "_evaluation_env" in self.__dict__:
            self._evaluation_env.close()

    def run_episodes(self, seeds: Sequence[int], explore: bool = False) -> list[EpisodeResult]:
        """One episode per seed in an environment of its own, with the deterministic policy or with drawn skills."""
        results = []
        for seed in track(seeds, "evaluation episodes", total=len(seeds), watched_only=True):
            results.append(run_episode(self._evaluation_env, self._policy.in_episode(seed, explore), seed))
        return results


def _attribute(env: gym.Env | SkillVectorEnv, name: str) -> Any:
    return getattr(env, name) if isinstance(env, SkillVectorEnv) else env.get_wrapper_attr(name)


def _make(config: dict[str, Any]) -> SkillEnv | SkillVectorEnv:
    return make_skill_vector_env(config) if "num_envs" in config else make_skill_env(config)
