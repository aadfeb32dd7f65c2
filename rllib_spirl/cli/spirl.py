"""The ``spirl`` command: data, skills, reports and videos. Training itself is ``rllib train file``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rllib_spirl.cli.adapting import adapt
from rllib_spirl.cli.data import app as data_app
from rllib_spirl.cli.errors import run
from rllib_spirl.cli.report import report
from rllib_spirl.cli.skills import app as skills_app
from rllib_spirl.cli.video import video
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import mapping, parse_assignment

app = typer.Typer(
    no_args_is_help=True, help="Skills from recorded trajectories: data sets, pretraining, reports, videos."
)
app.add_typer(data_app, name="data")
app.add_typer(skills_app, name="skills")
app.command()(report)
app.command()(video)
app.command()(adapt)


@app.command()
def pretrain(
    data: Annotated[str, typer.Argument(help="A data set directory or URI, or a recipe (.yaml) to build it from.")],
    output: Annotated[str | None, typer.Option(help="Folder for the skill checkpoint.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A PretrainConfig field; repeatable.")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Environment to try the prior in, e.g. rllib_spirl/Kitchen-v0.")
    ] = None,
    env_config: Annotated[str, typer.Option(help="Its arguments, as YAML, e.g. '{ordered: false}'.")] = "{}",
    rollouts: Annotated[int, typer.Option(min=0, help="Episodes with skills from the prior, if --env is given.")] = 10,
) -> None:
    """Train skills and a skill prior with Ray Train; goes on where an interrupted run stopped."""
    from rllib_spirl.cli.algorithms import check_env_name
    from rllib_spirl.cli.prepare import prepare_skills
    from rllib_spirl.skills.checkpoint import load_card
    from rllib_spirl.skills.pretrain import skills_folder

    pretrain_settings = dict(parse_assignment(setting, "updates=5000") for setting in settings or ())
    arguments = mapping(env_config, "--env-config", "{ordered: false}")
    if env is not None:
        check_env_name(env, with_skills=True)
    elif arguments:
        raise UserError("--env-config is of an environment to try the prior in: name one with --env.")
    folder = str(skills_folder("", output)) if output is not None else None
    section = {"data": data, "checkpoint": folder, "pretrain": pretrain_settings, "rollouts": rollouts}
    prepared = prepare_skills(section, places=[Path()], env=env, env_config=arguments)
    table = Table(title=prepared.checkpoint, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, metric in load_card(prepared.checkpoint).metrics.items():
        table.add_row(name, f"{metric:.4f}")
    Console(markup=False).print(table)


def main() -> None:
    """Entry point of the ``spirl`` command."""
    run(app)


if __name__ == "__main__":
    main()
