"""Skill pretraining as a Ray Train job: one worker, or several with distributed data parallelism, on CPUs or GPUs."""

import hashlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from rllib_spirl import paths
from rllib_spirl.data import DataSet
from rllib_spirl.errors import UserError, one_line, user_error
from rllib_spirl.files import writing
from rllib_spirl.locations import Remote, location
from rllib_spirl.locking import sole
from rllib_spirl.memory import keep_freed_memory
from rllib_spirl.progress import Stage, stage, tell, watch
from rllib_spirl.ray_start import cluster_named, ensure_ray, here_only
from rllib_spirl.skills.advice import LEAST_LOSS, LEAST_LOSS_AT, LOSS, overfit_warning, posterior_warning, ranges
from rllib_spirl.skills.checkpoint import CARD, PRIOR_METRICS, SkillCard, load_card, load_skills, save_skills
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer, trained_model

STATE = "trainer.safetensors"
DRIVER_LOCK, WORKER_LOCK = "driver.lock", "worker.lock"

# What `keep_freed_memory` cannot set: Ray Train trains in a thread, and the GNU allocator gives freed memory of
# threads, and blocks above 32 MiB, back to the operating system all the same. That is up to half of a gradient step's
# time at large batches.
_KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0"}


def skills_key(data: DataSet, config: PretrainConfig) -> str:
    """What tells two trained skill models apart: the data's content and every setting that changes the result."""
    settings = config.model_dump(exclude={"num_workers", "use_gpu", "threads_per_worker", "memory_gib", "report_every"})
    for name in (
        "state_dropout",
        "prior_sees_all",
        "blind",
        "prior",
        "noise_like",
        "picture_encoder",
        "picture_weights",
        "action_std",
    ):
        if settings[name] == PretrainConfig.model_fields[name].default:
            del settings[name]  # as it was before there was a choice: skills trained then are still found
    settings["correction_gain"] = config.corrects
    if config.picture_weights is not None:
        settings["picture_weights"] = hashlib.sha256(Path(config.picture_weights).read_bytes()).hexdigest()
    if config.state_set is not None:
        settings["state_set"] = config.state_set.model_dump(exclude_defaults=True)  # for the same reason
    text = json.dumps([data.fingerprint, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pretrain(data: DataSet, config: PretrainConfig, *, output: str | Path | None = None) -> Path:
    """Train skills on a data set and return their checkpoint's folder.

    A run that was interrupted, or whose worker died, goes on from its last checkpoint when it is called again with the
    same data, settings and output. TensorBoard events lie in the output's ``tensorboard`` folder.

    Args:
        data: The opened data set; every worker reads its share from where that lies.
        config: Hyper-parameters.
        output: Folder of the checkpoint, which all nodes share where there are several. Default: under `paths.home`,
            named after data and settings.

    Raises:
        UserError: If the data set is invalid, too short for the horizon, the output is no local folder or holds other
            skills, or there are no such weights for the encoder of pictures.
    """
    config.check_picture_weights()
    with stage("reading data"):  # all of it, where it does not tell its own fingerprint
        key = skills_key(data, config)
    folder = skills_folder(key, output)
    if trained(folder, key):
        return folder
    source: Path | SkillData | None = _without_noise(data, config)
    if source is None:
        check_workers(config)
        # Here, not in the workers: every error in the data comes up at once, and it is read once for all of them.
        source = SkillData.scan(
            data, config.horizon, config.validation_fraction, config.seed, images=config.prior == "images"
        )
    with writing(f"Cannot write skills to {folder}", "choose a writable folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with sole(folder / DRIVER_LOCK, "training skills"):
        if not trained(folder, key):  # by the one waited for
            # The workers of a driver that was killed go on for some seconds, and replace the checkpoint to resume from.
            with sole(folder / WORKER_LOCK, "training skills"):
                pass
            if isinstance(source, Path):
                _add_noise(source, config, folder, key)
            else:
                _train(source, config, folder, key)
    return folder


def _without_noise(data: DataSet, config: PretrainConfig) -> Path | None:
    """Where there are skills of the same settings but no noise, which is how skills are run and not how they learn."""
    if config.action_std == 0:
        return None
    key = skills_key(data, config.model_copy(update={"action_std": 0.0}))
    folder = skills_folder(key, None)
    return folder if trained(folder, key) else None


def _add_noise(plain: Path, config: PretrainConfig, folder: Path, key: str) -> None:
    """Write the skills of `_without_noise` with the config's."""
    model, card = load_skills(plain)
    shape = card.model.model_copy(update={"action_std": config.action_std})
    training = card.training | {"key": key, "action_std": config.action_std}
    metrics = {name: value for name, value in card.metrics.items() if name.split()[0] not in PRIOR_METRICS}
    save_skills(folder, model, card.model_copy(update={"model": shape, "training": training, "metrics": metrics}))
    tell(f"the skills in {plain} with noise on their actions, into {folder}")


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Ray Train takes Ctrl-C and never gives it back, which also keeps the actors of a finished job alive (0.6 GB)."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def skills_folder(key: str, output: str | Path | None) -> Path:
    """Where the skills of a key belong: ``output``, else a folder of that name under `paths.home`.

    Raises:
        UserError: If it is no local folder.
    """
    folder = location(output).resolve() if output else paths.home() / "skills" / key
    if isinstance(folder, Remote):
        raise UserError(
            f"Cannot write skills to {folder}. Choose a local or mounted folder, and copy it there afterwards."
        )
    return folder


def trained(folder: Path, key: str) -> bool:
    """Whether the folder holds the skills of this key.

    Raises:
        UserError: If it holds others.
    """
    if not (folder / CARD).exists():
        return False
    if load_card(folder).training.get("key") == key:
        return True
    raise UserError(f"{folder} holds skills trained on other data or settings. Remove it or choose another output.")


def _train(scanned: SkillData, config: PretrainConfig, folder: Path, key: str) -> None:
    """Run the Ray Train job and write what it has trained."""
    ensure_ray()
    use_gpu = _uses_gpus(config)  # of the Ray that it is connected to now
    check_workers(config)
    shape = config.model_of(scanned)
    if shape.blind and config.blind == "motion":
        tell(f"skills will not see what tells of motion in a state, {ranges(shape.blind)}; blind: [] shows it")
    tell(f"training skills, into {folder}")
    with watch("starting the workers"):
        settings = {"data": scanned, "config": config.model_dump(), "folder": str(folder)}
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(
                num_workers=config.num_workers, use_gpu=use_gpu, resources_per_worker=_resources(config, use_gpu)
            ),
            run_config=RunConfig(
                name=f"run-{key}",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=2),
                # Two: when a driver is killed, its list may be one behind the checkpoints there are.
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                worker_runtime_env={"env_vars": _KEEP_MEMORY},
            ),
        )
        try:
            with _interrupts_kept():
                result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise user_error(error) or UserError(f"Skill pretraining failed: {one_line(error)}") from error
    assert result.checkpoint is not None
    assert result.metrics is not None
    with result.checkpoint.as_directory() as directory:
        model = trained_model(Path(directory, STATE), shape)
    metrics = {
        name: float(value)
        for name, value in result.metrics.items()
        if isinstance(value, float) and math.isfinite(value)
    }
    card = SkillCard(
        model=shape,
        data=scanned.source.fingerprint,
        training={"key": key, "data": str(scanned.source), **config.model_dump()},
        metrics=metrics,
    )
    save_skills(folder, model, card)
    if config.decoder != "identity":
        for warning in filter(None, (posterior_warning(metrics, config), overfit_warning(metrics))):
            tell(f"warning: {warning}")
    shutil.rmtree(folder / f"run-{key}", ignore_errors=True)


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs: its share of the windows, reports every ``report_every`` updates."""
    first = ray.train.get_context().get_world_rank() == 0
    with sole(Path(settings["folder"], WORKER_LOCK), "training skills") if first else nullcontext():
        _train_share(settings)


def _train_share(settings: dict[str, Any]) -> None:
    config = PretrainConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.threads_per_worker)
    keep_freed_memory()
    memory_before = _peak_memory()
    trainer = SkillTrainer(
        settings["data"],
        config,
        rank=rank,
        world_size=world_size,
        device=get_device(),
        wrap=_distributed if world_size > 1 else None,
    )
    resumed = ray.train.get_checkpoint()
    least: dict[str, float] = {}
    if resumed is not None:
        with resumed.as_directory() as directory:
            progress = json.loads(Path(directory, "progress.json").read_text())
            trainer.restore(Path(directory, STATE), progress["updates"])
            least = progress.get("least", {})

    with stage("training skills", config.updates, done=trainer.updates, show=rank == 0) as told:
        _train_to_the_end(trainer, settings["folder"], told, memory_before, least, first=rank == 0)


def _train_to_the_end(
    trainer: SkillTrainer,
    folder: str,
    told: Stage,
    memory_before: float,
    least: dict[str, float],
    *,
    first: bool,
) -> None:
    """``least``: the least validation loss before this, and after how many updates; empty at the beginning."""
    config, writer = trainer.config, _summary_writer(folder) if first else None
    while trainer.updates < config.updates:
        stop = min(trainer.updates + config.report_every, config.updates)
        sums: dict[str, torch.Tensor] = {}
        begun, start = trainer.updates, time.perf_counter()
        while trainer.updates < stop:
            for name, value in trainer.step().items():
                sums[name] = sums[name] + value if name in sums else value
            told.set(trainer.updates)
        metrics = {name: value.item() / (stop - begun) for name, value in sums.items()}
        metrics["samples_per_second"] = (stop - begun) * config.batch_size / (time.perf_counter() - start)
        metrics["memory_growth_mib"] = _peak_memory() - memory_before
        metrics |= trainer.validate()
        if metrics.get(LOSS, math.inf) < least.get(LEAST_LOSS, math.inf):
            least = {LEAST_LOSS: metrics[LOSS], LEAST_LOSS_AT: float(trainer.updates)}
        metrics |= least
        if writer is not None:
            for name, scalar in metrics.items():
                writer.add_scalar(f"skills/{name}", scalar, trainer.updates)
            writer.flush()
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = None
            if first:
                trainer.save(Path(directory, STATE))
                Path(directory, "progress.json").write_text(json.dumps({"updates": trainer.updates, "least": least}))
                checkpoint = Checkpoint.from_directory(directory)
            ray.train.report(metrics, checkpoint=checkpoint)
    if writer is not None:
        writer.close()


def _summary_writer(folder: str) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # here, because it takes long and every command imports this file

    return SummaryWriter(str(Path(folder, "tensorboard")))


def _distributed(model: nn.Module) -> nn.Module:
    # The buffers are constants; sending them around before every step would cost as much as the gradients do.
    return prepare_model(model, parallel_strategy_kwargs={"broadcast_buffers": False, "gradient_as_bucket_view": True})


def _peak_memory() -> float:
    """The most resident memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def ray_gpus() -> float:
    """GPUs of the cluster this process is connected to, or of this machine."""
    return ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else torch.cuda.device_count()


def _uses_gpus(config: PretrainConfig) -> bool:
    return ray_gpus() >= config.num_workers if config.use_gpu is None else config.use_gpu


def _cpus_of_worker(config: PretrainConfig, use_gpu: bool) -> int:
    return 1 if use_gpu else config.threads_per_worker


def check_workers(config: PretrainConfig) -> None:
    """Raise UserError if this machine, where it is all of Ray, can never hold the workers: they would be waited for."""
    running = ray.is_initialized()
    if not here_only() if running else cluster_named() is not None:
        return  # a cluster may grow
    cpus = ray.cluster_resources().get("CPU", 1) if running else os.cpu_count() or 1
    if config.use_gpu and config.num_workers > ray_gpus():
        raise UserError(
            f"skills.pretrain: {config.num_workers} workers with use_gpu: true need as many GPUs, and there are "
            f"{ray_gpus():g}: lower num_workers, or leave use_gpu out."
        )
    each = _cpus_of_worker(config, _uses_gpus(config))
    most = max(1, int(cpus // min(each, cpus)))
    if config.num_workers > most:
        raise UserError(
            f"skills.pretrain: {config.num_workers} workers of {each} threads do not fit on "
            f"{cpus:g} CPUs: lower num_workers to {most}, or threads_per_worker."
        )


def _resources(config: PretrainConfig, use_gpu: bool) -> dict[str, float]:
    """Of a worker: never more CPUs than the largest node has, for the job would wait for ever."""
    most = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
    return {"CPU": min(_cpus_of_worker(config, use_gpu), most)} | ({"GPU": 1} if use_gpu else {})
