"""The tasks of outside benchmarks, and what is known of them without their packages."""

from typing import NamedTuple

# Numbers of an observation: the arm's come first, then those of each cube, each button, the drawer and the window.
ARM, CUBE, BUTTON, SLIDE = 19, 9, 4, 2


class Family(NamedTuple):
    """A scene of OGBench: what is in it, and how long its episodes last."""

    limit: int  # steps
    cubes: int = 0
    buttons: int = 0
    slides: int = 0  # a drawer and a window, or none

    @property
    def state_dim(self) -> int:
        return ARM + CUBE * self.cubes + BUTTON * self.buttons + SLIDE * self.slides


FAMILIES = {
    "cube-single": Family(200, cubes=1),
    "cube-double": Family(500, cubes=2),
    "cube-triple": Family(1000, cubes=3),
    "cube-quadruple": Family(1000, cubes=4),
    "cube-octuple": Family(1500, cubes=8),
    "scene": Family(750, cubes=1, buttons=2, slides=2),
    "puzzle-3x3": Family(500, buttons=9),
    "puzzle-4x4": Family(500, buttons=16),
    "puzzle-4x5": Family(1000, buttons=20),
    "puzzle-4x6": Family(1000, buttons=24),
}
_SUFFIXES = ("", *(f"-task{number}" for number in range(1, 6)))  # without a number, the benchmark's default task
OGBENCH = {f"{family}-play-singletask{suffix}-v0": family for family in FAMILIES for suffix in _SUFFIXES}
"""OGBench's names of single tasks, and their families."""

_SAWYER = (
    "assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall "
    "button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open "
    "door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side "
    "handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place "
    "pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall "
    "reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open"
)
METAWORLD = tuple(f"{name}-v3" for name in _SAWYER.split())
"""Meta-World's names of its tasks."""
METAWORLD_LIMIT = 500  # steps of an episode
