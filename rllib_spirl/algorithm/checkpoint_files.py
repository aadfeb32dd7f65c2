"""What a checkpoint of SPiRL holds beside RLlib's state of networks, optimizers and env runner."""

from pathlib import Path

from rllib_spirl.locations import location
from rllib_spirl.skills.checkpoint import SkillFiles, load_skills, read_skills

REPLAY_FILE = "replay.safetensors"
DEMONSTRATIONS_FILE = "demonstrations.safetensors"
SKILLS_FOLDER = "skills"


def kept_skills(checkpoint: str | Path) -> SkillFiles | None:
    """The skills in a checkpoint, a folder or URI; None where there are none.

    Raises:
        UserError: If they are damaged.
    """
    folder = location(checkpoint) / SKILLS_FOLDER
    if not folder.exists():
        return None
    skills = read_skills(str(folder))
    load_skills(skills)
    return skills
