"""Scripted demonstrators: they make a data set where none can be downloaded. Importing adds their recipes."""

from rllib_spirl.data.recipe import SOURCES
from rllib_spirl.demos.outside import MetaWorldRecipe, ogbench_recipe
from rllib_spirl.demos.recipes import scripted_recipe

SOURCES["scripted"] = scripted_recipe
SOURCES["ogbench"] = ogbench_recipe
SOURCES["metaworld"] = lambda values, file: MetaWorldRecipe
