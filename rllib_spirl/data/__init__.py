"""Recorded trajectories: the opened data set, its writer and recorder, importers, recipes.

Knows nothing of skills or of the algorithm.
"""

from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.episode import Episode, Trajectories
from rllib_spirl.data.recording import RecordTrajectories
from rllib_spirl.data.writer import TrajectoryWriter

__all__ = ["DataSet", "Episode", "RecordTrajectories", "Trajectories", "TrajectoryWriter"]
