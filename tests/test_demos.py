"""The kitchen demonstrator and its arm controller."""

import json
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from rllib_spirl.demos.arm import Arm
from rllib_spirl.demos.kinematics import SerialArm, hand
from rllib_spirl.demos.kitchen import demonstrate
from rllib_spirl.envs.kitchen import SUBTASKS, KitchenEnv, load_model, positions_of, relabel
from rllib_spirl.errors import UserError


def test_does_every_subtask_in_chains() -> None:
    for order in (
        ["microwave", "light switch", "slide cabinet", "kettle"],
        ["top burner", "bottom burner", "hinge cabinet"],
    ):
        demo = demonstrate(order, seed=0)
        assert demo.success
        assert demo.completed == order
        assert demo.still_completed == order
        assert demo.episode.task == "; ".join(order)
        assert list(demo.steps.values()) == sorted(demo.steps.values())
        assert len(demo.episode) >= max(demo.steps.values()) + 5
        assert len(demo.episode) <= 280
        if "kettle" in order:
            assert demo.kettle_distance < 0.15


def test_recorded_actions_replay_exactly_and_rewards_follow_the_rule() -> None:
    order = ["slide cabinet", "light switch"]
    demo = demonstrate(order, seed=4)
    episode = demo.episode
    episode.validate()
    assert episode.states.dtype == episode.actions.dtype == np.float64
    assert np.abs(episode.actions).max() <= 1.0
    env = KitchenEnv(tasks=order, max_episode_steps=1000)
    states = [env.reset(seed=4)[0]] + [env.step(action)[0] for action in episode.actions]
    np.testing.assert_array_equal(states, episode.states)
    assert relabel(episode.states, order, ordered=True)[0].tolist() == episode.rewards.tolist()
    # Completion steps are counted from 1, so the last one is one more than the index of its reward.
    assert relabel(episode.states, order, ordered=True)[1] == demo.steps["light switch"] - 1


def test_deterministic_in_its_seed() -> None:
    first, again, other = (demonstrate(["light switch"], seed=s).episode for s in (1, 1, 2))
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert len(other) != len(first) or not np.allclose(other.actions, first.actions)


def test_velocities_are_recorded_beside_the_same_motions() -> None:
    without, with_them = (demonstrate(["light switch"], seed=1, velocities=v) for v in (False, True))
    assert with_them.episode.states.shape[1] == 59
    np.testing.assert_array_equal(positions_of(with_them.episode.states), without.episode.states)
    np.testing.assert_array_equal(with_them.episode.actions, without.episode.actions)
    assert with_them.steps == without.steps


def test_unknown_subtask() -> None:
    with pytest.raises(UserError, match="unknown subtask 'lights'"):
        demonstrate(["lights"], seed=0)


def test_hand_is_a_rotation_that_points_where_it_should() -> None:
    for angles in ((0, 0, 0), (0.4, 0.7, 0), (-0.3, 0.2, -np.pi / 2)):
        turn = hand(*angles)
        np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1.0)
    np.testing.assert_allclose(hand(0, 0)[:, 2], [0, 1, 0])
    assert hand(0.3, 0)[0, 2] < 0  # left is -x
    assert hand(0, 0.3)[2, 2] < 0  # down is -z


def test_one_action_brings_the_joints_where_they_should_be() -> None:
    env = KitchenEnv()
    env.reset(seed=0)
    arm = Arm(env, pace=1.0)
    step = np.array([0.03, -0.02, 0.02, 0.03, 0.04, -0.03, 0.03])
    errors = []
    for i in range(20):
        wanted = arm.joints + step * (1 if i % 10 < 5 else -1)
        action = arm.action(wanted, 1.0)
        assert np.abs(action[:7]).max() <= 1
        env.step(action)
        errors.append(np.abs(arm.joints - wanted).max())
    assert np.median(errors) < 0.01


def test_inverse_kinematics_reaches_the_pose() -> None:
    env = KitchenEnv()
    env.reset(seed=0)
    arm = Arm(env, pace=1.0)
    target, turn = np.array([-0.4, 0.5, 2.2]), hand(0.2, 0.3)
    env.data.qpos[:7] = arm.solve(target, turn, arm.joints)
    np.testing.assert_allclose(arm.tool, target, atol=1e-3)


def test_inverse_kinematics_of_several_poses_is_that_of_each() -> None:
    env = KitchenEnv()
    env.reset(seed=0)
    arm = Arm(env, pace=1.0)
    points, turns = np.array([[-0.4, 0.5, 2.2], [0.1, 0.6, 2.4]]), np.array([hand(0.2, 0.3), hand(-0.2, 0.0)])
    joints = arm.solve(points, turns, np.tile(arm.joints, (2, 1)))
    each = [arm.solve(point, turn, arm.joints) for point, turn in zip(points, turns, strict=True)]
    np.testing.assert_allclose(joints, each, atol=1e-9)


def test_kinematics_are_those_of_mujoco() -> None:
    model, offset = load_model(), 0.035
    data, jacobian = mujoco.MjData(model), np.zeros((2, 3, model.nv))
    low, high = model.jnt_range[:7].T
    joints = np.random.default_rng(0).uniform(low, high, (50, 7))
    kinematics = SerialArm(model, "end_effector", joints=7, offset=offset)
    points, turns, jacobians = kinematics.jacobian(joints)
    for q, point, turn, found in zip(joints, points, turns, jacobians, strict=True):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        site = data.site("end_effector")
        np.testing.assert_allclose(turn, site.xmat.reshape(3, 3), atol=1e-9)
        np.testing.assert_allclose(point, site.xpos + offset * turn[:, 2], atol=1e-9)
        mujoco.mj_jac(model, data, jacobian[0], jacobian[1], point, model.site("end_effector").bodyid[0])
        np.testing.assert_allclose(found, jacobian[:, :, :7].reshape(6, 7), atol=1e-9)
        np.testing.assert_allclose(kinematics.pose(q)[0], point, atol=1e-12)


@pytest.mark.slow
def test_benchmark_prints_one_json_line() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "demos.py"
    command = [sys.executable, str(script), "kitchen", "--chains", "2", "--length", "1", "--seed", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["chains"] == 2
    assert set(result["subtask_success"]) == set(SUBTASKS)
    assert result["cpu_seconds"] > 0
    assert 0 < result["of_physics"] < 1.5
