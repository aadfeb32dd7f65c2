"""Recorded trajectories: the Parquet contract, importers, recipes. Knows nothing of skills or the algorithm."""
