"""Navigation's learning curves, like kitchen.py's: mazes never shown, on several seeds. The last line is JSON.

Every run's evaluations go into ``benchmarks/results/maze_runs.json``, and the curves that belong together into
``benchmarks/results/maze.json``.

python benchmarks/maze.py --seeds 3
python benchmarks/maze.py --queue benchmarks/maze_queue.yaml --jobs 2
"""

import typer
from learning import command, success

if __name__ == "__main__":
    typer.run(command("maze", 3, lambda name, run: success("spirl" if name == "maze" else name, run), "maze_runs.json"))
