"""Learning to learn: SPiRL over many tasks, whose policy also learns to find out which task it is in; and MAML."""

from rllib_spirl.meta.maml import MAML, MAMLConfig
from rllib_spirl.meta.meta_spirl import MetaSPiRL, MetaSPiRLConfig

__all__ = ["MAML", "MAMLConfig", "MetaSPiRL", "MetaSPiRLConfig"]
