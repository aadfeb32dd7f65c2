"""Block stacking: a planar two-finger gripper and coloured blocks in the y-z plane, after Pertsch et al. 2020.

Lengths in metres, angles in radians. y points right, z up from the floor; nothing ever leaves the plane x = 0.
"""

import colorsys
import functools
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_flags, check_render_mode, check_reward, check_whole
from rllib_spirl.envs.physics import physics_of, set_physics
from rllib_spirl.envs.raster import rasterise
from rllib_spirl.envs.rendering import OffscreenRenderer, camera, mujoco
from rllib_spirl.envs.seeing import SeeingEnv
from rllib_spirl.errors import UserError

Reward = Literal["dense", "sparse"]

BLOCK = 0.05  # edge of a block
ARENA = 0.8  # the blocks' centres stay within this distance of y = 0
REACH = 0.75  # the gripper stays within this one
LOWEST, HIGHEST = 0.022, 0.75  # heights of the gripper's grasp point
OPENING = 0.04  # of each finger, from the grasp point to its pad
FINGER_RADIUS, FINGER_BELOW, FINGER_ABOVE = 0.008, 0.02, 0.06  # tip and root of a finger from the grasp point
PALM = 0.05  # half its width; its height is that of the fingers' roots
SPEED = 0.8  # metres a second for an action of 1
SPACING = 0.1  # least distance between two blocks' centres at the start: a finger fits in between
STEP = 0.05  # seconds
_SUBSTEPS = 8
PICTURE, PIXEL = 32, 0.015  # pixels along a picture's edge, and their own edge

_HELD_GAP = 0.06  # fingers nearer to each other than this hold the block between them
_TOUCH = 0.005  # a block whose bottom is this near a top or the floor stands there
_FREE = 0.1  # the most that is told of the free height above a block
_FLAT = 0.9  # least cosine of four times the angle of a block that stands: within 6.5 degrees
_SKY = np.array([0.93, 0.95, 0.98])
_SURROUNDINGS = np.array([[0.45, 0.38, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
_GRIPPER_COLOUR = np.array([[0.2, 0.2, 0.25]])
_CAMERA = {"distance": 1.1, "azimuth": 180.0, "elevation": -8.0, "lookat": (0.0, 0.0, 0.33)}


def colours(blocks: int) -> NDArray[np.float64]:
    """The blocks' colours (blocks, 3), RGB from 0 to 1. A block has the same in every scene."""
    golden = (np.sqrt(5) - 1) / 2  # steps of it spread any number of hues evenly
    return np.array([colorsys.hsv_to_rgb((0.02 + i * golden) % 1.0, 0.8, (0.95, 0.75)[i % 2]) for i in range(blocks)])


@functools.cache
def load_model(blocks: int) -> mujoco.MjModel:
    """The scene with some blocks, compiled once per process and to be treated as read-only.

    Positions are the gripper's y and z, its left and right finger's opening, then y, z and angle of each block.
    Every body moves in the plane by its joints alone. Limits of joints, cheaper than walls, keep it within the arena.
    """
    half, radius = BLOCK / 2, FINGER_RADIUS
    boxes = "".join(
        f"""
        <body>
          <joint type="slide" axis="0 1 0" range="{-ARENA} {ARENA}"/>
          <joint type="slide" axis="0 0 1"/>
          <joint type="hinge" axis="1 0 0"/>
          <geom type="box" size="{half} {half} {half}" mass="0.1" rgba="{r} {g} {b} 1"/>
        </body>"""
        for r, g, b in colours(blocks)
    )
    fingers = "".join(
        f"""
          <body gravcomp="1">
            <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {OPENING + 0.002}"/>
            <geom type="capsule" size="{radius}" mass="0.1" rgba="0.25 0.25 0.3 1"
              fromto="0 {side * radius} {radius - FINGER_BELOW} 0 {side * radius} {FINGER_ABOVE}"/>
          </body>"""
        for name, side in (("left", -1), ("right", 1))
    )
    # Elliptic cones with a high impratio: a held block does not slip. Contacts as stiff as the time step allows: high
    # towers do not sway. The fingers' servos are springs without a limit of force: they centre a held block.
    timestep = STEP / _SUBSTEPS
    return mujoco.MjModel.from_xml_string(f"""
    <mujoco model="block stacking">
      <option timestep="{timestep}" integrator="implicitfast" cone="elliptic" impratio="10" jacobian="dense"/>
      <default><geom friction="1 0.005 0.0001" solref="{2 * timestep} 1" solimp="0.95 0.99 0.001"/></default>
      <visual><headlight ambient="0.5 0.5 0.5" diffuse="0.4 0.4 0.4" specular="0 0 0"/></visual>
      <asset>
        <texture type="skybox" builtin="gradient" rgb1="0.93 0.95 0.98" rgb2="0.75 0.8 0.86" width="64" height="64"/>
      </asset>
      <worldbody>
        <light directional="true" pos="0.5 0 2" dir="-0.2 0 -1" diffuse="0.5 0.5 0.5"/>
        <geom type="plane" size="0.2 {ARENA + half} 0.1" rgba="0.75 0.68 0.6 1"/>
        <body name="gripper" gravcomp="1">
          <joint name="y" type="slide" axis="0 1 0" range="{-REACH} {REACH}"/>
          <joint name="z" type="slide" axis="0 0 1" range="{LOWEST} {HIGHEST}"/>
          <geom type="capsule" size="0.01" mass="1" rgba="0.4 0.4 0.45 1"
            fromto="0 {-PALM} {FINGER_ABOVE} 0 {PALM} {FINGER_ABOVE}"/>{fingers}
        </body>{boxes}
      </worldbody>
      <actuator>
        <velocity joint="y" kv="300" forcerange="-12 12"/>
        <velocity joint="z" kv="500" forcerange="-12 12"/>
        <position joint="left" kp="150" dampratio="1"/>
        <position joint="right" kp="150" dampratio="1"/>
      </actuator>
    </mujoco>""")


def split(states: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The gripper's part (..., 6) and the blocks' (..., blocks, 6) of states (..., S), float32 as in observations.

    Raises:
        UserError: On a width that is not one gripper's and some blocks'.
    """
    gripper_dim, block_dim = BlockStackingEnv.GRIPPER_DIM, BlockStackingEnv.BLOCK_DIM
    width = states.shape[-1]
    if width <= gripper_dim or (width - gripper_dim) % block_dim:
        raise UserError(
            f"Block stacking states have {gripper_dim} numbers for the gripper and {block_dim} for each block; "
            f"these have {width}."
        )
    states = np.asarray(states, np.float32)
    return states[..., :gripper_dim], states[..., gripper_dim:].reshape(*states.shape[:-1], -1, block_dim)


def angles(blocks: NDArray[np.floating]) -> NDArray[np.floating]:
    """Angles (...,) of blocks (..., 6), from -45 to 45 degrees, where they look the same as elsewhere."""
    return np.arctan2(blocks[..., 2], blocks[..., 3]) / 4


def held(states: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which blocks (..., blocks) the gripper holds: those between its closed fingers, not those just below."""
    gripper, blocks = split(states)
    closed = gripper[..., 2] + gripper[..., 3] < _HELD_GAP
    y, z = blocks[..., 0], blocks[..., 1]
    between = (np.abs(y) < BLOCK / 2) & (z > _TOUCH - FINGER_BELOW - BLOCK / 2) & (z < FINGER_ABOVE)
    return between & closed[..., None]


def levels(states: NDArray[np.floating]) -> NDArray[np.intp]:
    """The blocks below each block (..., blocks), where it stands; -1 where it does not.

    A block stands if it is level, not held, and its bottom on the floor or on the top of a block that stands.
    """
    _, blocks = split(states)
    y, z = blocks[..., 0], blocks[..., 1]
    free = (blocks[..., 3] > _FLAT) & ~held(states)
    standing = free & (np.abs(blocks[..., 4] - BLOCK / 2) < _TOUCH)
    level = np.where(standing, 0, -1)
    above = (np.abs(z[..., :, None] - z[..., None, :] - BLOCK) < _TOUCH) & free[..., :, None]
    above &= np.abs(y[..., :, None] - y[..., None, :]) < BLOCK
    for height in range(1, blocks.shape[-2]):
        standing = (above & standing[..., None, :]).any(-1)
        if not standing.any():
            break
        level[standing] = height
    return level


def potential(
    states: NDArray[np.floating], reward: Reward, level: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """What states (..., S) are worth (...,), with their `levels` where they are known; the reward is its increase.

    sparse: blocks in the highest tower.
    dense: the same, + 1 for each lifted block (held, and at least half a block above the floor), + 2 for each delivered
    one (it stands on another).
    """
    level = levels(states) if level is None else level
    height = level.max(-1) + 1.0
    if reward == "sparse":
        return height
    lifted = held(states) & (split(states)[1][..., 4] > BLOCK)
    return height + lifted.sum(-1) + 2.0 * (level > 0).sum(-1)


def relabel(states: NDArray[np.floating], reward: Reward) -> tuple[NDArray[np.float64], int | None]:
    """The rewards that ``BlockStackingEnv(reward=reward)`` would have given along recorded states.

    Args:
        states: (T+1, S), of any number of blocks; the first is the one before the first action.
        reward: Which of the two.

    Returns:
        Rewards (T,) and the step (0 to T-1) after which all blocks were one tower, where the environment would have
        terminated, or None. Rewards after it are 0.
    """
    level = levels(states)
    rewards = np.diff(potential(states, reward, level))
    whole = np.flatnonzero(level[1:].max(-1) + 1 == level.shape[-1])
    if not len(whole):
        return rewards, None
    rewards[whole[0] + 1 :] = 0.0
    return rewards, int(whole[0])


def pictures(states: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Agent-centred pictures (..., 32, 32, 3) uint8 RGB of states (..., S).

    The grasp point is in the middle, a pixel is 1.5 cm wide. Blocks in their colours, fingers and palm dark, the floor
    brown, what is beyond the arena black.
    """
    gripper, blocks = split(states)
    count = blocks.shape[-2]
    y, z, left, right = (gripper[..., i] for i in range(4))
    boxes = np.zeros((*y.shape, count + 6, 5), np.float32)
    boxes[..., :3, 2:4] = 1.0  # the floor and what is left and right of the arena
    boxes[..., 0, 2] = 3.0
    boxes[..., 0, 1] = -1.0 - z
    edge = ARENA + BLOCK / 2
    boxes[..., 1, 0], boxes[..., 2, 0] = -edge - 1.0 - y, edge + 1.0 - y
    boxes[..., 3:-3, :2] = blocks[..., :2]
    boxes[..., 3:-3, 2:4] = BLOCK / 2
    boxes[..., 3:-3, 4] = angles(blocks)
    boxes[..., -3, 0], boxes[..., -2, 0] = -left - FINGER_RADIUS, right + FINGER_RADIUS
    boxes[..., -3:-1, 1] = (FINGER_ABOVE - FINGER_BELOW) / 2
    boxes[..., -3:-1, 2:4] = FINGER_RADIUS, (FINGER_ABOVE + FINGER_BELOW) / 2
    boxes[..., -1, 1:4] = FINGER_ABOVE, PALM + FINGER_RADIUS, FINGER_RADIUS
    painted = np.concatenate((_SURROUNDINGS, colours(count), np.repeat(_GRIPPER_COLOUR, 3, axis=0)))
    return rasterise(boxes, painted, _SKY, PICTURE, PIXEL)


class BlockStackingEnv(SeeingEnv):
    """Blocks to be stacked into one tower, ``rllib_spirl/BlockStacking-v0``.

    Observation (6 + 6 blocks,) float32, the same for any number of blocks but for its length. First the gripper:

    ====== ============================================================
    0, 1   y and z of the grasp point, between the finger pads
    2, 3   from the grasp point to the left and to the right pad
    4, 5   velocity of the gripper along y and z, in metres per second
    ====== ============================================================

    then for each block, 6 + 6i on:

    ====== ======================================================================================
    0, 1   y and z of its centre, from the grasp point
    2, 3   sine and cosine of four times its angle: a square looks the same after a quarter turn
    4      its height above the floor: whether it lies there, or on how many others
    5      free height above it, at most 0.1: whether another lies on it, or is held over it
    ====== ======================================================================================

    With ``images`` there are the agent-centred `pictures` as well, see `SeeingEnv`. Painting them takes longer than the
    physics does.

    Action (3,) in [-1, 1], clipped: velocity along y and z in units of 0.8 m/s, and the fingers' wanted opening, from
    closed (-1) to open (1), for 0.05 s.
    Reward: the increase of `potential`, so an episode's return is what its last state is worth more than its first.
    Lifting again and again earns nothing. What is worth something is read off the (float32) observation, so that
    recorded states determine the rewards.
    Reset option ``crowding``, 0 to 1: the share of the free floor that stays empty beside the blocks; at 1 they stand
    ``SPACING`` apart. Reset option ``opening``, 0 to 1: of the fingers, wide open (1) without.
    Terminated: all blocks are one tower. Truncated: after ``max_episode_steps``.
    Info: ``measures``, of which ``tower_height`` (blocks in the highest tower; 1 while none is stacked) and
    ``stacked_blocks`` (how many stand on another).

    Args:
        blocks: How many; 2 to 12. They start on the floor, at least ``SPACING`` apart.
        reward: "dense" or "sparse", see `potential`.
        images: Observe pictures too.
        max_episode_steps: Steps of 0.05 s until truncation.
        render_mode: None or "rgb_array".
        width, height: Of rendered pictures, in pixels.

    Raises:
        UserError: On bad arguments; when rendering, if the machine has no OpenGL back end.
    """

    GRIPPER_DIM = 6
    BLOCK_DIM = 6
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        blocks: int = 11,
        reward: Reward = "dense",
        images: bool = False,
        max_episode_steps: int = 1000,
        render_mode: str | None = None,
        width: int = 640,
        height: int = 320,
    ) -> None:
        if not 2 <= blocks <= 12:
            raise UserError(f"BlockStacking: blocks is {blocks}; choose from 2 to 12.")
        check_reward("BlockStacking", reward)
        check_whole("BlockStacking", max_episode_steps=max_episode_steps, width=width, height=height)
        check_flags("BlockStacking", images=images)
        check_render_mode("BlockStacking", render_mode)
        super().__init__(self.GRIPPER_DIM + self.BLOCK_DIM * blocks, images)
        self.blocks, self.reward, self.max_episode_steps = blocks, reward, max_episode_steps
        self.render_mode, self._picture_size = render_mode, (width, height)
        self.model = load_model(blocks)
        self.data = mujoco.MjData(self.model)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._worth = 0.0
        self._steps = 0
        self._renderers: dict[int, OffscreenRenderer] = {}  # by the number of blocks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        rng, qpos, options = self.np_random, self.data.qpos, options or {}
        opening = OPENING * float(options.get("opening", 1.0))
        qpos[:4] = rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.5), opening, opening
        # Sorted points of a shorter floor, drawn apart: all arrangements with gaps of SPACING are equally likely.
        room = 2 * (REACH - 0.05) - (self.blocks - 1) * SPACING
        crowding = float(options.get("crowding", 0.0))
        places = np.sort(rng.uniform(0, (1 - crowding) * room, self.blocks)) + SPACING * np.arange(self.blocks)
        places += rng.uniform(0, crowding * room) - (REACH - 0.05)
        qpos[4::3] = rng.permutation(places)
        qpos[5::3] = BLOCK / 2
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0
        state = self.state()
        level = levels(state)
        self._worth = float(potential(state, self.reward, level))
        return self._observe_first(state), self._info(level)

    def step(self, action: NDArray[np.floating]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        y, z, opening = np.asarray(action, np.float64).clip(-1.0, 1.0).tolist()
        wanted = OPENING * (1 + opening) / 2
        self.data.ctrl[:] = SPEED * y, SPEED * z, wanted, wanted
        mujoco.mj_step(self.model, self.data, nstep=_SUBSTEPS)
        self._steps += 1
        state = self.state()
        level = levels(state)
        before, self._worth = self._worth, float(potential(state, self.reward, level))
        info = self._info(level)
        terminated = info["measures"]["tower_height"] == self.blocks
        truncated = not terminated and self._steps >= self.max_episode_steps
        return self._observe(state), self._worth - before, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        return {
            "physics": physics_of(self.model, self.data),
            "worth": self._worth,
            "steps": self._steps,
            "seen": list(self._last_two),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was."""
        set_physics(self.model, self.data, state["physics"])
        self._worth, self._steps, self._last_two = state["worth"], state["steps"], list(state["seen"])
        self.np_random.bit_generator.state = state["random"]

    def relabel(self, states: NDArray[np.floating]) -> tuple[NDArray[np.float64], int | None]:
        """`relabel` for this environment's reward: what recorded states would have earned here."""
        return relabel(states, self.reward)

    def state(self) -> NDArray[np.float32]:
        """The flat observation of the moment."""
        qpos = self.data.qpos
        state = np.empty(self.GRIPPER_DIM + self.BLOCK_DIM * self.blocks, np.float32)
        state[:4], state[4:6] = qpos[:4], self.data.qvel[:2]
        blocks = state[self.GRIPPER_DIM :].reshape(-1, self.BLOCK_DIM)
        y, z, angle = qpos[4:].reshape(-1, 3).T
        blocks[:, 0], blocks[:, 1] = y - qpos[0], z - qpos[1]
        blocks[:, 2], blocks[:, 3] = np.sin(4 * angle), np.cos(4 * angle)
        blocks[:, 4] = z
        # A set's encoder looks at one block at a time: what is above it must be said of each.
        rise = z - z[:, None]  # [i, j]: from i up to j
        over = (np.abs(y - y[:, None]) < BLOCK) & (rise > BLOCK / 2)
        blocks[:, 5] = np.where(over, rise - BLOCK, _FREE).min(1).clip(0.0, _FREE)
        return state

    def render(self) -> Any:
        """A picture (height, width, 3) uint8 of the scene, or None without ``render_mode="rgb_array"``."""
        return None if self.render_mode is None else self.render_state(self.state())

    def render_state(self, state: NDArray[np.floating]) -> NDArray[np.uint8]:
        """A picture (height, width, 3) of a recorded state (S,) of any number of blocks; nothing else changes.

        Raises:
            UserError: On a state of another size; if the machine has no OpenGL back end.
        """
        gripper, blocks = split(state)
        model = load_model(len(blocks))
        data = mujoco.MjData(model)
        data.qpos[:4] = gripper[:4]
        data.qpos[4::3], data.qpos[5::3] = (gripper[:2] + blocks[:, :2]).T
        data.qpos[6::3] = angles(blocks)
        mujoco.mj_forward(model, data)
        if len(blocks) not in self._renderers:
            self._renderers[len(blocks)] = OffscreenRenderer(model, *self._picture_size, camera(_CAMERA))
        return self._renderers[len(blocks)].render(data)

    def subtasks_along(self, states: NDArray[np.floating], task: str) -> dict[str, NDArray[np.bool_]]:
        """Stacking has no subtasks. Raises UserError on states (T, S) of something else."""
        split(states)
        return {}

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def pictured(self, states: NDArray[np.floating]) -> NDArray[np.uint8]:
        return pictures(states)

    def _info(self, level: NDArray[np.intp]) -> dict[str, Any]:
        return {"measures": {"tower_height": int(level.max()) + 1, "stacked_blocks": int((level > 0).sum())}}
