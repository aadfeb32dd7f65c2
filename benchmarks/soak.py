"""A long run of an example with two remote env runners: memory over time, and what is left afterwards.

The last line is one JSON object. Growth compares the median of the last tenth of the samples with that of the third
tenth, when skills have been trained. A replay that is still filling then is part of it: ``--set
config.replay_capacity=75000`` makes one that is full by then.
Leftovers are processes that the run had started and files of /dev/shm that are still there ten seconds after its end.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import typer
from common import report

EXAMPLE = Path(__file__).parent.parent / "tuned_examples" / "kitchen.yaml"
SHM = Path("/dev/shm")
SETTLE_S = 10
END_S = 300  # for the iteration that is going on, and the last checkpoint


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident(processes: list[psutil.Process]) -> dict[str, float]:
    """Resident memory in MB of each, by its title; that of Ray's object store counts in each that maps it."""
    sizes = {}
    for process in processes:
        try:
            sizes[f"{title(process)} ({process.pid})"] = process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
    return sizes


def title(process: psutil.Process) -> str:
    """The actor's class, for Ray's workers; otherwise the program."""
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0].split(".")[0]
    return " ".join(Path(word).name for word in words[:3])[:60]


def shared_memory() -> dict[str, int]:
    """Bytes of each file in /dev/shm."""
    sizes = {}
    for file in SHM.iterdir() if SHM.is_dir() else ():
        try:
            sizes[file.name] = file.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return sizes


def growth(samples: list[float]) -> float:
    """In MB, of samples at equal distances."""
    tenth = max(1, len(samples) // 10)
    return statistics.median(samples[-tenth:]) - statistics.median(samples[2 * tenth : 3 * tenth] or samples[:1])


def growths(samples: list[dict[str, float]]) -> dict[str, float]:
    """Of each process that was there from the third tenth to the end, where it is at least 1 MB; largest first."""
    late = samples[2 * max(1, len(samples) // 10) :]
    names = set.intersection(*map(set, late)) if late else set()
    grown = {name: round(growth([sample.get(name, 0.0) for sample in samples]), 1) for name in names}
    return {name: grown[name] for name in sorted(grown, key=grown.__getitem__, reverse=True) if abs(grown[name]) >= 1}


def main(
    minutes: float | None = None,
    every_seconds: float = 10,
    example: Path = EXAMPLE,
    runners: int = 2,
    settings: list[str] = typer.Option([], "--set", help="As for 'rllib train file'."),
    long: bool = typer.Option(False, "--long", help="Two hours."),
) -> None:
    """Train for ``minutes`` (2; with --long 120), sample, end the run as Ctrl-C does, and look for leftovers."""
    minutes = minutes or (120 if long else 2)
    before = set(shared_memory())
    output = Path(tempfile.mkdtemp(prefix="soak-"))
    command = [sys.executable, "-m", "rllib_spirl.cli.rllib", "train", "file", str(example)]
    command += ["--stop", "env_steps=1000000000", "--set", f"storage_path={output}"]
    command += [
        "--set",
        f"config.num_env_runners={runners}",
        "--ray-num-cpus",
        str(max(runners + 1, os.cpu_count() or 1)),
    ]
    for setting in settings:
        command += ["--set", setting]
    start = time.monotonic()
    seen: dict[int, psutil.Process] = {}
    sizes: list[dict[str, float]] = []
    driver: list[float] = []
    children: list[float] = []
    shm: list[float] = []
    with (output / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        process = psutil.Process(run.pid)
        while time.monotonic() - start < 60 * minutes and run.poll() is None:
            time.sleep(every_seconds)
            processes = family(process)
            seen |= {p.pid: p for p in processes}
            if run.poll() is None:
                sizes.append(resident(processes))
                own, *others = sizes[-1].values()
                driver.append(own)
                children.append(sum(others))
                shm.append(sum(size for name, size in shared_memory().items() if name not in before) / 1e6)
            print(
                f"{time.monotonic() - start:.0f} s  driver {driver[-1]:.0f} MB  "
                f"children {children[-1]:.0f} MB  /dev/shm {shm[-1]:.0f} MB",
                file=sys.stderr,
            )
        early = run.poll()
        if early is None:
            run.send_signal(signal.SIGINT)
            try:
                run.wait(END_S)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
    time.sleep(SETTLE_S)
    results = sorted(output.glob("*/*/result.json"))
    lines = results[-1].read_text().splitlines() if results else []
    report(
        {
            "name": "soak",
            "minutes": round((time.monotonic() - start) / 60, 1),
            "ended_by_itself": early is not None,
            "exit_code": run.returncode,
            "iterations": len(lines),
            "driver_mb": [round(value) for value in driver],
            "children_mb": [round(value) for value in children],
            "driver_growth_mb": round(growth(driver), 1),
            "children_growth_mb": round(growth(children), 1),
            "growth_mb": growths(sizes),
            "shm_mb": [round(value) for value in shm],
            "shm_left": sorted(set(shared_memory()) - before),
            "processes_left": sum(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in seen.values()),
            "output": str(output),
        }
    )


if __name__ == "__main__":
    typer.run(main)
