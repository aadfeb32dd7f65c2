"""The `rllib` command on tiny real runs: train, sweep, interrupt, resume, evaluate, and exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.result import SHOULD_CHECKPOINT
from ray.util import debug
from typer.testing import CliRunner

from rllib_spirl.cli import interrupt, long_runs
from rllib_spirl.cli.rllib import app, main
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.runs import read_runs

PPO = """
{name}:
  run: PPO
  env: CartPole-v1
  stop: {{training_iteration: 2}}
  storage_path: {out}
  config:
    num_env_runners: 0
    train_batch_size_per_learner: 100
    minibatch_size: 50
    num_epochs: 1
    model_config: {{fcnet_hiddens: [8]}}
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "ppo.yaml"
    path.write_text(PPO.format(name="cart", out=tmp_path / "out"))
    return path


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def results(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


def trials(tmp_path: Path, name: str = "cart") -> list[Path]:
    return sorted(p for p in (tmp_path / "out" / name).iterdir() if p.is_dir())


def test_train_then_evaluate(experiment, tmp_path, ray_session):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = invoke("train", "file", experiment)
    assert re.search(r"cart  iter 1  env_steps 100  return [\d.]+", output)
    (trial,) = trials(tmp_path)
    assert [r["num_env_steps_sampled_lifetime"] for r in results(trial)] == [100, 200]
    checkpoint = trial / "checkpoint_000000"
    assert f"checkpoint  {checkpoint}" in output
    events = EventAccumulator(str(trial)).Reload()
    assert [e.step for e in events.Scalars("ray/tune/env_runners/episode_return_mean")] == [100, 200]

    first, second = (
        json.loads(invoke("evaluate", checkpoint, "--episodes", 3, "--json").splitlines()[-1]) for _ in "12"
    )
    assert first["episodes"] == len(first["episode_returns"]) == 3
    assert first["episode_returns"] == second["episode_returns"]  # deterministic policy, same seed
    with pytest.raises(UserError, match=rf"not a checkpoint.*did you mean {checkpoint}"):
        invoke("evaluate", trial)
    (checkpoint / "class_and_ctor_args.pkl").write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        invoke("evaluate", checkpoint)


@pytest.mark.slow
def test_other_algorithms_report_what_the_environment_counts(experiment, tmp_path, ray_session):
    changes = {
        "env": "rllib_spirl/BlockStacking-v0",
        "config.env_config": "{blocks: 2, max_episode_steps: 40}",
        "config.evaluation_interval": 2,
        "config.evaluation_duration": 3,
        "stop": "{training_iteration: 3}",
    }
    invoke("train", "file", experiment, *(part for k, v in changes.items() for part in ("--set", f"{k}={v}")))
    [curve] = read_runs([tmp_path / "out"])
    assert curve.train_steps.tolist() == [100, 200, 300]
    assert curve.env_steps.tolist() == [200]  # RLlib repeats the evaluation in the third result
    assert curve.episodes.tolist() == [3]
    assert set(curve.scores) == {"tower_height", "stacked_blocks", "episode_return"}
    assert curve.score("tower_height")[0] == 1 + curve.score("stacked_blocks")[0]


@pytest.mark.slow
def test_a_long_run_keeps_no_results_and_logs_its_config_once(experiment, tmp_path, ray_session, monkeypatch):
    kept = []

    class Watched(long_runs._ForgetsResults):
        def next(self, timeout=None):
            happened = super().next(timeout)
            kept.append(sum(map(len, self._tracked_actors_to_task_futures.values())))
            return happened

    monkeypatch.setattr(long_runs, "_ForgetsResults", Watched)
    invoke("train", "file", experiment, "--set", "stop={training_iteration: 5}")
    assert max(kept) <= 2  # of the iteration that is going on, and a checkpoint
    assert not [key for key in debug._logged if key.startswith("tune_func_encode")]
    [trial] = (tmp_path / "out" / "cart").glob("PPO_*")
    assert ["config" in result for result in results(trial)] == [True, False, False, False, False]
    assert json.loads((trial / "params.json").read_text())["num_epochs"] == 1


@pytest.mark.long
def test_grid_search_makes_a_trial_for_each_value(experiment, tmp_path, ray_session):
    output = invoke(
        "train", "file", experiment, "--stop", "env_steps=100", "--set", "config.lr={grid_search: [0.01, 0.001]}",
        "--set", "config.evaluation_interval=1", "--set", "config.evaluation_duration=1",
        "--checkpoint-score-attr", "min-env_steps", "--keep-checkpoints-num", 1,
    )  # fmt: skip
    lrs = [results(trial)[-1]["config"]["lr"] for trial in trials(tmp_path)]
    assert sorted(lrs) == [0.001, 0.01]
    assert all(len(results(trial)) == 1 for trial in trials(tmp_path))
    assert "lr=0.01 " in output
    assert re.search(r"evaluation [\d.]+", output)


def test_failed_trial_gives_exit_code_1_and_its_traceback(experiment, tmp_path, ray_session):
    output = invoke("train", "file", experiment, "--set", "config.model_config.fcnet_activation=nonsense", code=1)
    assert re.search(r"failed: \w+Error: .*nonsense", output)
    (path,) = re.findall(r"full traceback  (\S+)", output)
    assert Path(path).parent == trials(tmp_path)[0]
    assert "nonsense" in Path(path).read_text()


@pytest.mark.slow
def test_unknown_stop_metric_ends_the_run(experiment, ray_session):
    with pytest.raises(UserError, match="stop: no result has 'env_stps'; did you mean 'env_steps'"):
        invoke("train", "file", experiment, "--stop", "env_stps=100")


@pytest.mark.usefixtures("no_ray")
def test_mistakes_end_with_one_line_before_ray_starts(experiment, tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.touch()
    table = [
        ([tmp_path / "nope.yaml"], "nope.yaml does not exist"),
        ([experiment, "--set", "config.lrr=1"], "unknown key 'lrr'"),
        ([experiment, "--env", "CartPol-v1"], "unknown environment"),
        ([experiment, "--stop", "env_steps=lots"], "'lots' is not a number"),
        ([experiment, "--resume"], "nothing to resume"),
        ([experiment, "--scheduler", "ash"], "unknown scheduler"),
        ([experiment, "--scheduler-config", "7"], "--scheduler-config"),
        ([experiment, "--set", f"storage_path={blocked}/x"], "cannot be written to"),
        ([experiment, "--checkpoint-score-attr", "a", "--set", "checkpoint_config.x=1"], "'x'"),
    ]
    for arguments, words in table:
        monkeypatch.setattr(sys, "argv", ["rllib", "train", "file", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 1
        assert words in error
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_end_of_a_time_budget_is_like_an_interrupt(monkeypatch, capsys):
    ends: list[int] = []
    monkeypatch.setattr(interrupt.os, "kill", lambda _, number: ends.append(number))
    running, waiting = (SimpleNamespace(trial_id=status, status=status) for status in ("RUNNING", "PENDING"))
    for budget in (None, 1000.0, 1e-9):
        callback, result = interrupt.CheckpointOnInterrupt(budget), {}
        with callback:
            callback.on_step_end(1, [running, waiting])
        assert callback.ending == (budget == 1e-9)
    assert "(time_budget_s) are over" in capsys.readouterr().out
    callback.on_trial_result(2, [running], running, result)
    assert result[SHOULD_CHECKPOINT]
    callback.on_step_end(2, [running, waiting])
    assert not ends
    callback.on_trial_save(3, [running], running)
    for _ in range(2):
        callback.on_step_end(3, [running, waiting])
    assert ends == [signal.SIGUSR1]
    assert not callback.interrupted


@pytest.mark.long
def test_the_end_of_a_time_budget_leaves_a_checkpoint_and_resume_goes_on(experiment, tmp_path):
    command = [sys.executable, "-c", "from rllib_spirl.cli.rllib import main; main()", "train", "file", str(experiment)]
    budget = ["--set", "time_budget_s=45", "--stop", "training_iteration=100000"]
    ended = subprocess.run([*command, *budget], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "45 seconds (time_budget_s) are over" in ended.stdout
    (trial,) = trials(tmp_path)
    assert (trial / "checkpoint_000000" / "rllib_checkpoint.json").exists()
    before = results(trial)[-1]["training_iteration"]
    stop = ["--resume", "--set", "time_budget_s=600", "--stop", f"training_iteration={before + 2}"]
    resumed = subprocess.run([*command, *stop], capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [r["training_iteration"] for r in results(trial)] == list(range(1, before + 3))


@pytest.mark.long
def test_interrupt_leaves_a_checkpoint_and_resume_goes_on(experiment, tmp_path):
    """Ctrl-C in the terminal reaches the whole process group, so the signal is sent to it."""
    command = [sys.executable, "-c", "from rllib_spirl.cli.rllib import main; main()", "train", "file", str(experiment)]
    stop = ["--stop", "training_iteration=100000"]
    process = subprocess.Popen(
        command + stop, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    seen = ""
    while "iter" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in rest
    (trial,) = trials(tmp_path)
    assert (trial / "checkpoint_000000" / "rllib_checkpoint.json").exists()
    before = results(trial)[-1]["training_iteration"]

    more = ["--stop", f"training_iteration={before + 2}", "--resume"]
    with pytest.raises(UserError, match=r"'config.lr' is 0.5 but was"):
        invoke("train", "file", experiment, *more, "--set", "config.lr=0.5")
    resumed = subprocess.run(command + more, capture_output=True, text=True, timeout=90)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    iterations = [r["training_iteration"] for r in results(trial)]
    assert iterations == list(range(1, before + 3))  # nothing lost, nothing done twice
    steps = [r["num_env_steps_sampled_lifetime"] for r in results(trial)]
    assert steps == [100 * i for i in iterations]


@pytest.mark.long
def test_sac_on_pendulum(tmp_path, ray_session):
    example = Path(__file__).parent.parent / "tuned_examples" / "pendulum_sac.yaml"
    invoke("train", "file", example, "--stop", "env_steps=1200", "--set", f"storage_path={tmp_path / 'out'}")
    (trial,) = trials(tmp_path, "pendulum-sac")
    assert results(trial)[-1]["num_env_steps_sampled_lifetime"] >= 1200
    assert "SAC" in trial.name
