"""Fills the templates and writes the one file. Every value is escaped by jinja2; only our own charts are markup."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import store
from tailorbird.reporting.page.input import ReportInput
from tailorbird.reporting.page.view import build

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # StrictUndefined: a name that is misspelt in a template is a defect of ours, not an empty place on the page.
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(data: ReportInput) -> str:
    """The page as text. The same bundle gives the same bytes: no clock, no random names."""
    from markupsafe import Markup

    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    page = environment().get_template("page.html.jinja").render(style=style, **build(data))
    return "".join(
        c for c in page if c in "\n\t" or (c >= " " and not 0x7F <= ord(c) <= 0x9F and not 0xD800 <= ord(c) <= 0xDFFF)
    )


def write_report(path: str | os.PathLike[str], data: ReportInput) -> None:
    store.write_text(Path(path), render(data))
