"""What a result of SPiRL contains, by name: for who checks the name of a metric before there is a result."""

from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EVALUATION_RESULTS,
    FAULT_TOLERANCE_STATS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_TRAINING_STEP_CALLS_PER_ITERATION,
    TIMERS,
)

from rllib_spirl.algorithm.episode_end import ALL_COMPLETED, COMPLETED_SUBTASKS, SUBTASK_RATE

ENV_STEPS = "env_steps"
"""Low-level environment steps since the start of the experiment, warm-up included: the x-axis of every curve."""
UPDATES = "updates"
"""Gradient steps since then."""
NUMBERS = (
    ENV_STEPS,
    UPDATES,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_TRAINING_STEP_CALLS_PER_ITERATION,
    COMPLETED_SUBTASKS,
    ALL_COMPLETED,
)
"""At the top. Beside them are the measures of the environment, see `rllib_spirl.algorithm.episode_end`."""
GROUPS = (
    EVALUATION_RESULTS,
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    TIMERS,
    FAULT_TOLERANCE_STATS,
    "env_runner_group",
    SUBTASK_RATE,
)
"""What holds others, as ``evaluation/completed_subtasks``."""
EVALUATION = tuple(
    f"{EVALUATION_RESULTS}/{name}"
    for name in (COMPLETED_SUBTASKS, ALL_COMPLETED, "episode_return", "low_level_steps", "episodes")
)
"""What an evaluation counts in every environment, or in every one with subtasks."""
