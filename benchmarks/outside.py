"""Learning curves in the environments of others, by success. The last line is JSON.

Every run's evaluations go into ``benchmarks/results/outside_runs.json``, and the curves that belong together into
``ogbench.json`` and ``metaworld.json`` beside it. The first task of each scene trains the skills that its others use.

python benchmarks/outside.py --queue benchmarks/ogbench_queue.yaml --jobs 2
"""

import typer
from learning import command, success

if __name__ == "__main__":
    typer.run(command("ogbench_scene", 2, success, "outside_runs.json"))
