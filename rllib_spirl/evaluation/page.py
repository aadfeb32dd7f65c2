"""A report as one file: HTML with its pictures and films inside, which opens anywhere without a server."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

import markdown

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.7rem; }
img, video { max-width: 100%; }
"""
_TYPES = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}
FILMS = (".mp4", ".gif")


def page(text: str, folder: Path, films: Sequence[Path] = ()) -> str:
    """The HTML of a report.

    Args:
        text: The report, in Markdown.
        folder: Where the pictures lie that it names.
        films: Shown below it, in their order.
    """
    body = markdown.markdown(html.escape(text, quote=False), extensions=["tables"])  # names in it are not ours
    body = re.sub(r'src="([^":]+)"', lambda found: f'src="{_inline(folder / found[1])}"', body)
    if films:
        body += "\n<h2>Films</h2>\n" + "\n".join(_film(film) for film in films)
    title = html.escape(text.partition("\n")[0].lstrip("# "))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _film(film: Path) -> str:
    name, source = html.escape(film.name), _inline(film)
    shown = f'<img src="{source}" alt="{name}">'
    if film.suffix == ".mp4":
        shown = f'<video src="{source}" controls muted loop></video>'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def _inline(file: Path) -> str:
    """A file as a data URI."""
    return f"data:{_TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
