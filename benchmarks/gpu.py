"""What a GPU brings, one part at a time. Each prints one JSON line; without a GPU it says ``skipped``.

``learner``: updates a second of the learner on the GPU against one thread of the processor, for batches of 256 and
4,096; compiled, and compiled into CUDA graphs (``reduce_overhead``), which spare the launches. ``pretrain``: samples a
second of skill training on one GPU against the processor's cores, at the batch size at which each is fastest; and with
all GPUs against one, where there are several. ``equal``: the largest difference between GPU and processor in the
losses of one batch, relative to their size.
"""

import os
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import typer
from common import kitchen_config, kitchen_skills, random_transitions, report, start_ray, synthetic_data
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_spirl.algorithm.spirl import SPiRL
from rllib_spirl.algorithm.spirl_learner import spirl_loss, with_prior
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer


class Part(StrEnum):
    LEARNER = "learner"
    PRETRAIN = "pretrain"
    EQUAL = "equal"


def rate(run: Callable[[], object], seconds: float = 8.0) -> float:
    """Calls a second, after a first one."""
    run()
    torch.cuda.synchronize()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        run()
        calls += 1
    torch.cuda.synchronize()
    return calls / (time.perf_counter() - start)


def build(gpus: int, batch: int) -> SPiRL:
    config = kitchen_config(kitchen_skills(), train_batch_size_per_learner=batch).learners(num_gpus_per_learner=gpus)
    algorithm = config.build_algo()
    algorithm.replay.add(random_transitions(50_000))
    return algorithm


def learner() -> dict[str, Any]:
    updates = 16
    found: dict[str, Any] = {}
    for batch in (256, 4096):
        rates = {}
        for gpus, name in ((0, "cpu"), (1, "gpu")):
            algorithm = build(gpus, batch)
            inner = algorithm.learner_group._learner
            losses = {name: spirl_loss, f"{name}_compiled": torch.compile(spirl_loss, dynamic=False)}
            if gpus:
                losses["gpu_reduce_overhead"] = torch.compile(spirl_loss, dynamic=False, mode="reduce-overhead")
            for label, loss in losses.items():
                inner._losses = loss
                rates[label] = round(updates * rate(lambda a=algorithm: a._learn(updates, 0.0)), 1)
            algorithm.stop()
        found[f"batch_{batch}"] = rates | {"gpu_over_cpu": round(rates["gpu"] / rates["cpu"], 2)}
    return {"unit": "updates/s", **found}


def pretraining() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data = synthetic_data(Path(folder) / "data", 140_000)
        best: dict[str, float] = {}
        for device, threads in (("cpu", os.cpu_count() or 1), ("cuda", 1)):
            torch.set_num_threads(threads)
            for batch in (128, 1024, 8192):
                config = PretrainConfig(batch_size=batch, updates=10**6)
                scanned = SkillData.scan(data, config.horizon, config.validation_fraction, config.seed)
                trainer = SkillTrainer(scanned, config, device=torch.device(device))
                best[device] = max(best.get(device, 0.0), batch * rate(trainer.step))
        ratio = {"ratio": round(best["cuda"] / best["cpu"], 2), "cores": os.cpu_count()}
        return {"unit": "samples/s", **{name: round(value) for name, value in best.items()}, **ratio}


def equal() -> dict[str, Any]:
    batch = random_transitions(256)
    losses: list[dict[str, float]] = []
    weights: dict[str, torch.Tensor] = {}
    for gpus in (0, 1):
        algorithm = build(gpus, 256)
        inner = algorithm.learner_group._learner
        module = inner.module[DEFAULT_MODULE_ID]
        if gpus:
            module.load_state_dict(weights)
        else:
            algorithm._learn(64, 0.0)  # weights that have learned something
        weights = {name: value.cpu() for name, value in module.state_dict().items()}
        columns = with_prior(module, {name: column.to(inner.device) for name, column in batch.items()})
        arguments = inner._arguments(module, inner.config, columns)
        noise = torch.randn(arguments["noise"].shape, generator=torch.Generator().manual_seed(0))
        loss, values = spirl_loss(module, columns, **arguments | {"noise": noise.to(inner.device)})
        losses.append({"loss": loss.item()} | {name: value.mean().item() for name, value in values.items()})
        algorithm.stop()
    cpu, gpu = losses
    difference = max(abs(cpu[name] - gpu[name]) / max(1e-3, abs(cpu[name])) for name in cpu)
    return {"largest_relative_difference": difference}


def main(part: Part) -> None:
    """Measure one part."""
    if not torch.cuda.is_available():
        report({"name": f"gpu, {part}", "skipped": "PyTorch finds no CUDA device"})
        return
    torch.set_num_threads(1)
    start_ray()
    measured = {Part.LEARNER: learner, Part.PRETRAIN: pretraining, Part.EQUAL: equal}[part]()
    report({"name": f"gpu, {part}", "device": torch.cuda.get_device_name(), **measured})


if __name__ == "__main__":
    typer.run(main)
