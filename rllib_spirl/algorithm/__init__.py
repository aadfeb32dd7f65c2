"""The online half: the SPiRL algorithm, its RLModule and its learner."""

from rllib_spirl.algorithm.spirl import SPiRL
from rllib_spirl.algorithm.spirl_config import SPiRLConfig

__all__ = ["SPiRL", "SPiRLConfig"]
