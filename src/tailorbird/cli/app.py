"""What all verbs share: the application, errors as messages and exit codes, the stop flag, the two streams.

Data goes to stdout, messages to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.errors import Interrupted, TailorbirdError

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(
    name="tailorbird",
    help="Customize a language model on your own data: several techniques tried, measured alike, one recommended.",
    epilog="Begin with: tailorbird demo   or: tailorbird init YOUR_DATA.csv\n\n"
    "Exit codes: 0 done, 2 input or spec, 3 numbers that are not finite, 4 files that are not what was measured, "
    "5 stopped and can go on, 6 memory, disk, lock or base, 7 refused for safety, 8 requirements not met, 1 a bug.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_state = {"debug": False}

RunName = Annotated[
    str,
    typer.Argument(metavar="RUN[:LABEL]", help="A run's folder or name, and which contestant; or TABLE:TASK."),
]
BaseNow = Annotated[
    Path | None,
    typer.Option("--base", metavar="FOLDER", help="Where its base lies now, where it is not found by itself."),
]
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
        end("interrupted", 5)
    except TailorbirdError as error:
        if _state["debug"]:
            raise
        end(str(error), error.exit_code)
    except KeyboardInterrupt:
        end("interrupted; the same command goes on where it stopped", 5)
    except BrokenPipeError:  # the reader of our output went away: nothing to say
        sys.stderr.close()
        raise SystemExit(0) from None
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own: a wrong option, a missing argument
            end(_usage(error), 2)
        if _state["debug"]:
            raise
        end(f"a defect of ours: {type(error).__name__}: {error}\n  → the same command with --debug shows where", 1)


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f"\n  → {context.command_path} --help" if context is not None else ""
    return f"{error.format_message()}{hint}"


def end(message: str, code: int) -> None:
    print(f"tailorbird: {message}", file=sys.stderr)
    raise SystemExit(code)


def _utf8() -> None:
    """Our tables need UTF-8 wherever they are printed; a console that cannot show a sign gets a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 120
    return Console(highlight=False, width=width)


def say(text: str) -> None:
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
            end(f"stopped at once; go on with: {continue_with}", 5)
        hits.append(number)
        say("stopping at the next safe point (once more: at once) …")

    names = [n for n in ("SIGINT", "SIGTERM") if hasattr(signal, n)]
    before = {getattr(signal, n): signal.signal(getattr(signal, n), hit) for n in names}
    try:
        yield lambda: bool(hits)
    except Interrupted as error:
        raise Interrupted(error.what, where=error.where, remedy=f"go on with: {continue_with}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command() -> str:
    """The command line as it was given, for going on."""
    import shlex

    return shlex.join(["tailorbird", *sys.argv[1:]])


def fetching() -> Any:
    """Progress of a download on stderr: one line that moves in a terminal, else one line a thing."""
    seen: set[str] = set()

    def progress(done: int, total: int, what: str) -> None:
        if sys.stderr.isatty():
            share = f" {100 * done / total:3.0f} %" if total else ""
            print(f"\r\033[K{what}{share}", end="\n" if total and done >= total else "", file=sys.stderr, flush=True)
        elif what not in seen:
            seen.add(what)
            say(what)

    return progress
