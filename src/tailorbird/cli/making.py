"""demo, init, check, run, show: the way from data to a recommendation."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli.app import Debug, app, command, console, fetching, say, stop_flag
from tailorbird.errors import ResourceError, SpecError, TailorbirdError

if TYPE_CHECKING:
    from tailorbird.running import Finished
    from tailorbird.running.material import Material
    from tailorbird.spec import Spec


@app.command()
def demo(
    runs: Annotated[Path, typer.Option(help="Where run folders lie.")] = Path("runs"),
    debug: Debug = False,
) -> None:
    """The main job on data that comes along, in minutes."""
    from importlib import resources

    from tailorbird import spec
    from tailorbird.bases import catalog, fetch

    place = Path(str(resources.files("tailorbird"))) / "examples" / "demo" / "demo.yaml"
    asked = spec.load(place)
    if not (catalog.bases_folder() / asked.base.name / "config.json").is_file():
        entry = catalog.known(asked.base.name)
        size = f"{entry.download_bytes / 1e6:.0f} MB to download, {entry.folder_bytes / 1e6:.0f} MB on disk"
        say(f"getting the base {entry.title}: {size}, licence {entry.licence}, once\n  {entry.note}")
        fetch.get(asked.base.name, progress=fetching())
    say(f"the demo's spec and data: {place.parent}")
    finished = run_to_its_end(asked, runs, fork=False, continue_with=command())
    _show(finished, place)


@app.command()
def init(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Your rows: CSV, TSV, JSON, JSONL, folders, globs.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write the spec.")] = None,
    base: Annotated[
        str, typer.Option(help="The model to customize: a known name, a folder, a Hub id.")
    ] = "smollm2-135m",
    debug: Debug = False,
) -> None:
    """Look at data and write a commented spec."""
    from tailorbird import initialize

    target = out or initialize.default_out(files)
    root = target.parent if target.parent.is_dir() else Path.cwd()
    named = [_relative(name, root) for name in files]
    proposal = initialize.propose(named, base=base, root=root)
    initialize.write_spec(proposal, target)
    facts, task = proposal.dataset.facts, proposal.task
    rejected = sum(facts.rejected.values())
    say(
        f"{facts.accepted:,} rows read as {facts.shape.replace('_', ' ')}"
        + (f", {rejected:,} cannot be used" if rejected else "")
    )
    say(f"task: {task.kind}" + (f" with {len(task.labels)} labels" if task.labels else ""))
    say(f"instruction (yours to change): {task.instruction}")
    print(target)
    _say_absent(base, root)
    say(f"next: tailorbird check {shlex.quote(str(target))}")


def _say_absent(base: str, root: Path) -> None:
    from tailorbird.bases.catalog import resolve

    try:
        resolve(base, root=root)
    except TailorbirdError as error:
        say(f"note: {error}")


def _relative(name: str, root: Path) -> str:
    """A path as it must stand in a spec that lies in `root`."""
    if Path(name).is_absolute() or "://" in name:
        return name
    return Path(os.path.relpath(Path.cwd() / name, root)).as_posix()


@app.command()
def check(
    spec: Annotated[str, typer.Argument(metavar="SPEC|FILE|FOLDER", help="A spec, or data alone.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="For example seed=1.")] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Write the inputs that a file of answers must answer.")
    ] = None,
    base: Annotated[str, typer.Option(help="With data alone: the base to render for.")] = "smollm2-135m",
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs.")] = False,
    debug: Debug = False,
) -> None:
    """Data report and plan, in seconds. Computes nothing."""
    _check(spec, overrides or [], rows, base, as_json)


def _check(spec: str, overrides: list[str], rows: Path | None, base: str, as_json: bool, *, look: bool = False) -> None:
    """`look`: at the accelerator, which takes the import of torch."""
    say(f"checking {spec}")
    from tailorbird import checking
    from tailorbird.running.material import read_material

    asked = _spec_or_data(spec, overrides, base)
    material = read_material(asked, say)
    plan = checking.plan_of(asked, material, look=look)
    if rows is not None:
        count = checking.write_rows(material, rows)
        say(f"{count:,} inputs, without labels: {rows}")
    else:  # with --rows the file of answers is still to be made
        for label, note in checking.check_imported(asked, plan, material).items():
            say(f"note: {label}: {note}")
    if as_json:
        import json

        print(json.dumps(checking.as_json(material, plan), ensure_ascii=False, indent=2))
        return
    _print_check(material, plan)
    if asked.source:
        say(f"next: tailorbird run {shlex.join([str(asked.source), *overrides])}")
    else:
        say(f"next: tailorbird init {shlex.quote(spec)}")


def _print_check(material: Material, plan: Any) -> None:
    from tailorbird import checking

    screen = console()
    for part in (*checking.data_report(material), *checking.rendered_rows(material), *checking.plan_report(plan)):
        screen.print(part, markup=False)


def _spec_or_data(name: str, overrides: list[str], base: str) -> Spec:
    from tailorbird import checking, spec
    from tailorbird.plan import wrong_settings

    path = Path(name)
    if not (checking.is_data(path) or any(sign in name for sign in "*?[")):
        return spec.load(path, overrides, check=wrong_settings)
    document = {"base": base, "data": str(path.resolve()) if path.exists() else name}
    return spec.build(document, overrides=overrides, check=wrong_settings)


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML file (`tailorbird init` writes one).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="For example seed=1 contestants.lora.rank=8.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show data report and plan, run nothing.")] = False,
    fork: Annotated[bool, typer.Option("--fork", help="Data, base or versions changed: begin anew beside.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A failed contestant decides the exit code.")] = False,
    runs: Annotated[Path, typer.Option(help="Where run folders lie.")] = Path("runs"),
    debug: Debug = False,
) -> None:
    """Do it, or go on where it stopped."""
    from tailorbird import spec as specs
    from tailorbird.plan import wrong_settings

    asked = specs.load(spec, overrides or [], check=wrong_settings)
    if dry_run:
        _check(str(spec), overrides or [], None, "", False, look=True)
        return
    finished = run_to_its_end(asked, runs, fork=fork, continue_with=command())
    _show(finished, spec)
    code = finished.exit_code
    if strict and finished.failures and code == 0:
        code = next(iter(finished.failures.values()))
    if code:
        raise typer.Exit(code)


def run_to_its_end(spec: Spec, runs: Path, *, fork: bool, continue_with: str) -> Finished:
    """Runs a spec under the live view, until it ends, is stopped or hangs."""
    from tailorbird.cli.watchdog import Watchdog
    from tailorbird.events import Events
    from tailorbird.reporting.live import LiveView
    from tailorbird.running import run_spec

    with stop_flag(continue_with) as stop, LiveView() as view, Watchdog(continue_with) as watchdog:
        return run_spec(spec, runs=runs, fork=fork, events=Events(view, watchdog), stop=stop)


def _show(finished: Finished, spec: Path) -> None:
    from tailorbird.reporting.tables import ranked_table
    from tailorbird.reporting.verdict import verdict

    if finished.again:
        say("this run is finished; nothing was computed again")
    screen = console()
    screen.print(ranked_table(finished.comparison))
    screen.print(verdict(finished.comparison, str(finished.folder)), markup=False)
    print(f"\n{finished.folder / 'report.html'}")
    _say_suspects(finished.folder)
    for label, code in finished.failures.items():
        again = "; the same command tries it again" if code == ResourceError.exit_code else ""
        say(f"{label} failed (exit code {code} with --strict){again}; why: tailorbird show {finished.folder}")


def _say_suspects(folder: Path) -> None:
    from tailorbird.running.writing import SUSPECTS, count_suspects

    if count := count_suspects(folder):
        rows = f"{count:,} rows have a label" if count > 1 else "1 row has a label"
        say(f"{rows} that all good contestants contradict with one answer; look there first: {folder / SUSPECTS}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")],
    json_: Annotated[bool, typer.Option("--json", help="comparison.json.")] = False,
    stable: Annotated[bool, typer.Option("--stable", help="With --json: without times and memory.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Table and verdict for a ticket.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    debug: Debug = False,
) -> None:
    """The ranked table and the verdict of a run."""
    from tailorbird.running.folder import find
    from tailorbird.running.opening import comparison_of

    folder, label = find(run)
    if label is not None:
        raise SpecError(f"show is about a whole run, not about {label!r}", remedy=f"tailorbird show {folder.path}")
    comparison = comparison_of(folder)
    if stable and not json_:
        raise SpecError("--stable is about --json", remedy="tailorbird show RUN --json --stable")
    if json_ and markdown:
        raise SpecError("--json and --markdown are two outputs", remedy="give one of them")
    if json_:
        import json

        if stable:
            from tailorbird.measure.comparison import stable as without_times

            comparison = without_times(comparison)
        print(json.dumps(comparison, ensure_ascii=False, indent=2, sort_keys=True))
    elif markdown:
        from tailorbird.reporting.tables import markdown as as_markdown

        print(as_markdown(comparison, str(folder.path)), end="")
    else:
        from tailorbird.reporting.tables import ranked_table
        from tailorbird.reporting.verdict import verdict

        screen = console()
        screen.print(ranked_table(comparison))
        screen.print(verdict(comparison, str(folder.path)), markup=False)
        _say_suspects(folder.path)
    if open_:
        import webbrowser

        page = folder.report.resolve()
        if not webbrowser.open(page.as_uri()):
            say(f"no browser could be opened; the page is {page}")
