"""``spirl skills``: look into a library of skills."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rllib_spirl.data import DataSet
from rllib_spirl.errors import UserError
from rllib_spirl.progress import stage
from rllib_spirl.skills.checkpoint import SkillCard
from rllib_spirl.yaml_text import mapping

app = typer.Typer(help="Libraries of skills.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _skills() -> None:
    """Libraries of skills."""


@app.command()
def show(
    checkpoint: Annotated[str, typer.Argument(help="A folder or URI of skills, or a checkpoint of a training run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("skills"),
    data: Annotated[str | None, typer.Option(help="A data set; by default the skills' own, where it still is.")] = None,
    env: Annotated[str | None, typer.Option(help="Environment to run skills in; by default the data's.")] = None,
    env_config: Annotated[str, typer.Option(help="Its arguments, as YAML, e.g. '{ordered: false}'.")] = "{}",
    states: Annotated[int, typer.Option(min=1, help="States to draw skills in.")] = 3,
    draws: Annotated[int, typer.Option(min=1, help="Skills drawn in each.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
) -> None:
    """Show a library's card, what its latent dimensions tell, a map of its skills, and what the prior's skills do."""
    from rllib_spirl.envs import our_name
    from rllib_spirl.envs.skill_env import SkillEnv, try_env
    from rllib_spirl.evaluation.demonstrations import environment_of
    from rllib_spirl.evaluation.skills_shown import library, show_skills
    from rllib_spirl.skills.checkpoint import load_card

    skills = library(checkpoint)
    card = load_card(skills)
    source = DataSet.open(data) if data is not None else _own_data(card)
    arguments = mapping(env_config, "--env-config", "{ordered: false}")
    note = "Name an environment with --env to see what skills of the prior do."
    if env is None and source is not None and (named := environment_of(source.info)) is not None:
        env = our_name(named) or named
        try:
            SkillEnv(try_env(env, arguments | {"render_mode": "rgb_array"}), skills).close()
        except UserError as error:
            note = f"No skills are run in the data's environment: {error} {note}"
            env = None
    with stage("reading data"):
        shown = show_skills(
            skills,
            output,
            data=source,
            env=env,
            env_config=arguments,
            states=states,
            draws=draws,
            seed=seed,
        )
    console = Console(markup=False)
    for title, values in (("model", card.model.model_dump()), ("training", card.training), ("metrics", card.metrics)):
        console.print(_table(title, values))
    if shown.divergence:
        kl = ", ".join(f"{value:.2f}" for value in sorted(shown.divergence, reverse=True))
        mean = sum(shown.divergence) / len(shown.divergence)
        console.print(f"posterior KL by dimension, in nats: {kl} (mean {mean:.2f})", highlight=False, soft_wrap=True)
        console.print(f"dimensions in use: {shown.used} of {len(shown.divergence)}", highlight=False)
    else:
        console.print("The skills' data is not where it was: name it with --data for a map of z.", highlight=False)
    if env is None:
        console.print(note, highlight=False, soft_wrap=True)
    for picture in shown.pictures:
        console.print(f"picture  {picture}", soft_wrap=True, highlight=False)


def _own_data(card: SkillCard) -> DataSet | None:
    """The data set that the skills were trained on, where it still is."""
    try:
        data = DataSet.open(card.training["data"])
        return data if data.fingerprint == card.data else None
    except (KeyError, UserError):
        return None


def _table(title: str, values: dict[str, Any]) -> Table:
    table = Table("key", "value", title=title, title_justify="left", show_header=False)
    for key, value in values.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    return table
