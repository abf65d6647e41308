"""table: many soft prompts on one base, in one folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.app import BaseNow, Debug, app, command, console, say
from tailorbird.errors import ArtifactError

table = typer.Typer(
    help="The prompt table: many soft prompts on one base, in one folder.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(table, name="table")

TableName = Annotated[Path, typer.Argument(metavar="TABLE", help="The table's folder.")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A task's name, or TASK@HASH for one version.")]


@table.command(name="list")
def list_(
    folder: TableName,
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs.")] = False,
    debug: Debug = False,
) -> None:
    """What is in a table: sizes, scores, versions. Every file is compared with its hash; exit code 4 for what is not as
    it was added."""
    from tailorbird.tabling import listed

    found = listed(folder)
    if as_json:
        import json

        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print(found)
    for name, why in found["damaged"].items():
        say(f"{name} is damaged: {why}")
    if found["damaged"]:
        raise typer.Exit(ArtifactError.exit_code)


def _print(found: dict[str, Any]) -> None:
    from tailorbird.reporting.table_list import rows

    screen = console()
    screen.print(rows(found))
    screen.print(
        f"base {found['base']}, {found['fingerprint'][:23]}, {found['compute_dtype']}", markup=False, soft_wrap=True
    )
    if found["lora_bytes"]:
        say(f"beside it: a LoRA of rank 16 on all linear layers of this base has {found['lora_bytes']:,} bytes")


@table.command()
def add(
    folder: TableName,
    run: Annotated[str, typer.Argument(metavar="RUN[:LABEL]", help="A soft prompt; TABLE:TASK of another table.")],
    name: Annotated[str | None, typer.Option("--as", metavar="TASK", help="Its name; the label when left out.")] = None,
    debug: Debug = False,
) -> None:
    """Put a soft prompt into a table, which is begun where there is none.

    The tasks that are there stay as they are, byte for byte."""
    from tailorbird import tabling

    _say_added(tabling.add(folder, run, name), folder)


@table.command(name="continue")
def continue_(
    folder: TableName,
    name: TaskName,
    source: Annotated[Path, typer.Argument(metavar="SPEC|DATA", help="A spec, or rows alone.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="For example seed=1.")] = None,
    fork: Annotated[bool, typer.Option("--fork", help="Data or versions changed: begin anew beside.")] = False,
    runs: Annotated[Path, typer.Option(help="Where run folders lie.")] = Path("runs"),
    base: BaseNow = None,
    debug: Debug = False,
) -> None:
    """Train on from a task; what comes out is its next version.

    The version that is there stays, as TASK@HASH, until it is removed. Killed or stopped, the same command goes on."""
    from tailorbird import tabling
    from tailorbird.cli.making import run_to_its_end

    spec, label = tabling.continuation(folder, name, source, overrides or [], base)
    finished = run_to_its_end(spec, runs, fork=fork, continue_with=command())
    if code := finished.failures.get(label):
        say(f"{label} failed; why: tailorbird show {finished.folder}")
        raise typer.Exit(code)
    _say_added(tabling.go_on(folder, name, finished, label), folder)


@table.command()
def remove(folder: TableName, name: TaskName, debug: Debug = False) -> None:
    """Take a task out, with all its versions; TASK@HASH takes out that version alone."""
    from tailorbird import tabling

    for gone in tabling.remove(folder, name):
        print(gone)


def _say_added(added: Any, folder: Path) -> None:
    version = added.version
    size = f"{version.virtual_tokens} virtual tokens, {version.bytes:,} bytes"
    say(f"{version.name}: {size}" if added.new else f"{version.name} is there already; nothing was changed")
    print(version.folder)
    say(f"next: tailorbird chat {shlex.quote(f'{folder}:{version.task}')}")
