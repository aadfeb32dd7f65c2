"""The env runner: RLlib's own, around the user's environment with skills for actions."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.tune.registry import register_env
from torch import nn

from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.envs.rollout import EpisodeResult, run_episode
from rllib_spirl.envs.skill_env import SkillEnv, make_skill_env
from rllib_spirl.progress import track

SKILL_ENV = "rllib_spirl/SkillEnv"
_SAMPLING = "sampling"


class SkillEnvRunner(SingleAgentEnvRunner):
    """Steps skills. Also runs whole evaluation episodes on given seeds.

    Samples in a loop of its own: RLlib's costs a tenth of the kitchen's physics (benchmarks/rollout.py), most of it in
    connectors, for which flat states and skills have no use. RLlib's callbacks are called.
    """

    module: Any
    _needs_initial_reset: bool

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        skill_config = {
            "env": config.env,
            "env_config": dict(config.env_config),
            "skill_checkpoint": config.skill_checkpoint,
            "skill_bound": config.skill_bound,
        }
        register_env(SKILL_ENV, make_skill_env)  # here, not at import: it lasts as long as the connected cluster
        inner = config.copy(copy_frozen=False).environment(env=SKILL_ENV, env_config=skill_config)
        super().__init__(config=inner, **kwargs)
        self._rng = np.random.default_rng(self._seed)

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

    def set_policy(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Sample with a learner's policy from now on; what only evaluation needs stays as it is."""
        self.module.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()}, strict=False)

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
        envs = self.env.unwrapped.envs
        if force_reset or num_episodes is not None or self._needs_initial_reset:
            self._ongoing_episodes_for_metrics.clear()
            for index in range(len(envs)):
                first = self._needs_initial_reset and self._seed is not None
                self._begin_episode(index, self._seed + index if first else None)
            self._needs_initial_reset = num_episodes is not None
        finished: list[SingleAgentEpisode] = []
        steps = 0
        while steps < num_timesteps if num_timesteps is not None else len(finished) < (num_episodes or 0):
            for index, env in enumerate(envs):
                if self._ongoing_episodes[index].is_done:
                    continue  # enough have been begun
                episode = self._ongoing_episodes[index]
                state = episode.get_observations(-1)
                z = env.action_space.sample() if random_actions else self._act(state, explore)
                observation, reward, terminated, truncated, info = env.step(z)
                observation = np.array(observation)  # the environment may go on writing into its own
                episode.add_env_step(observation, z, float(reward), info, terminated=terminated, truncated=truncated)
                steps += 1
                self._make_on_episode_callback("on_episode_step", index, self._ongoing_episodes)
                if episode.is_done:
                    self._make_on_episode_callback("on_episode_end", index, self._ongoing_episodes)
                    finished.append(episode.to_numpy())
                    if num_episodes is None or len(finished) < num_episodes:
                        self._begin_episode(index)
        self._done_episodes_for_metrics.extend(finished)
        pieces = self._cut_episodes() if num_timesteps is not None else []
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(finished))
        return finished + pieces

    def _act(self, state: NDArray[np.floating], explore: bool) -> NDArray[np.float32]:
        return self._policy.sample(state, self._rng) if explore else self._policy.best(state)

    def _begin_episode(self, index: int, seed: int | None = None) -> None:
        self._new_episode(index)
        observation, info = self.env.unwrapped.envs[index].reset(seed=seed)
        self._ongoing_episodes[index].add_env_reset(np.array(observation), info)
        self._make_on_episode_callback("on_episode_start", index, self._ongoing_episodes)

    def _cut_episodes(self) -> list[SingleAgentEpisode]:
        """What has been sampled of ongoing episodes; these go on in the next call."""
        pieces = []
        for index, episode in enumerate(self._ongoing_episodes):
            if len(episode) == 0:
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
                "envs": [env.get_wrapper_attr("get_state")() for env in self.env.unwrapped.envs] if begun else [],
                "episodes": [e.get_state() for e in self._ongoing_episodes] if begun else [],
                "pieces": [e.get_state() for pieces in self._ongoing_episodes_for_metrics.values() for e in pieces],
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on as the env runner of `get_state`; with new episodes where the environment cannot restore its state."""
        super().set_state(state)
        # The local runner's, when it is brought back; not for one that replaces a lost remote or evaluation runner.
        if _SAMPLING not in state or self.env is None or self.worker_index > 0 or self.config.in_evaluation:
            return
        sampling, envs = state[_SAMPLING], self.env.unwrapped.envs
        self._rng.bit_generator.state = sampling["random"]
        if len(sampling["envs"]) != len(envs) or any(env is None for env in sampling["envs"]):
            return
        for env, env_state in zip(envs, sampling["envs"], strict=True):
            env.reset()
            env.get_wrapper_attr("set_state")(env_state)
        self._ongoing_episodes = [SingleAgentEpisode.from_state(e) for e in sampling["episodes"]]
        self._ongoing_episodes_for_metrics.clear()
        for piece in map(SingleAgentEpisode.from_state, sampling["pieces"]):
            self._ongoing_episodes_for_metrics[piece.id_].append(piece)
        self._needs_initial_reset = False

    @cached_property
    def _evaluation_env(self) -> SkillEnv:
        return make_skill_env(self.config.env_config)

    def run_episodes(self, seeds: Sequence[int], explore: bool = False) -> list[EpisodeResult]:
        """One episode per seed in an environment of its own, with the deterministic policy or with drawn skills."""
        results = []
        for seed in track(seeds, "evaluation episodes", total=len(seeds), watched_only=True):
            policy = partial(self._policy.sample, rng=np.random.default_rng(seed)) if explore else self._policy.best
            results.append(run_episode(self._evaluation_env, policy, seed))
        return results
