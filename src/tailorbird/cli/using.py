"""apply, chat, export: using a customization that was made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.app import BaseNow, Debug, RunName, app, command, say, stop_flag
from tailorbird.errors import SpecError


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
    beside: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="NAME=RUN:LABEL", help="With a table: another customization of its base."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="ROLE=NAME", help="Which column is the prompt, id, system, context."),
    ] = None,
    base: BaseNow = None,
    debug: Debug = False,
) -> None:
    """Answer a whole file, each row once.

    With a prompt table the file's column `task` says which task each row is for; empty or `base` is the untouched base.
    Killed or stopped, the same command goes on."""
    import time

    from tailorbird.applying import CLASSIFY, WRITE, Ask, alone, apply
    from tailorbird.artifacts.manifest import read_manifest
    from tailorbird.artifacts.table import PromptTable
    from tailorbird.data.inputs import INPUT_ROLES
    from tailorbird.running.opening import choose
    from tailorbird.spec import did_you_mean

    if not file.exists():
        raise SpecError("no such file", where=str(file))
    named = _pairs(column or [], "--column", "ROLE=NAME")
    if unknown := sorted(named.keys() - set(INPUT_ROLES)):
        raise SpecError(f"--column knows no role {unknown[0]!r}; {did_you_mean(unknown[0], list(INPUT_ROLES))}")
    if PromptTable.is_at(Path(run)):
        asked = _by_task(Path(run), file, beside or [], base, max_new_tokens, threshold, named)
        say(f"the tasks of {run} on {file}")
    else:
        if beside:
            raise SpecError("--beside is for a prompt table, whose rows name their task", remedy="leave it out")
        chosen = choose(run, base)
        labels = chosen.labels
        if max_new_tokens and labels:
            raise SpecError(
                "--max-new-tokens has no effect here: a label is scored, not written", remedy="leave it out"
            )
        ask = Ask(labels, 0 if labels else max_new_tokens or chosen.max_new_tokens)
        asked = {
            "open_answers": lambda: alone(chosen.open()),
            "identity": read_manifest(chosen.folder).identity,
            "ask": lambda row: ask,
            "columns": CLASSIFY if labels else WRITE,
            "max_new_tokens": max_new_tokens or chosen.max_new_tokens,
        }
        say(f"{chosen.label} of {chosen.place} on {file}")
    begun = time.monotonic()

    def progress(rows: int) -> None:
        seconds = time.monotonic() - begun
        end = "\r" if sys.stderr.isatty() else "\n"
        if sys.stderr.isatty() or rows % 640 == 0:
            print(f"{rows:,} rows, {seconds:.0f} s", file=sys.stderr, end=end, flush=True)

    with stop_flag(command()) as stop:
        done = apply(path=file, out=out, threshold=threshold, progress=progress, stop=stop, named=named, **asked)
    fresh, seconds = done.rows - done.resumed, time.monotonic() - begun
    notes = [f"{done.rows:,} rows"]
    notes += [f"{done.resumed:,} of them were there already"] if done.resumed else []
    notes += [f"{done.abstained:,} below the threshold"] if threshold is not None else []
    notes += [f"{done.problems:,} could not be answered (column `problem`)"] if done.problems else []
    say(f"{', '.join(notes)}; {fresh / max(seconds, 1e-9):.3g} rows/s")
    print(out)


def _pairs(words: list[str], option: str, shape: str) -> dict[str, str]:
    found = dict(word.partition("=")[::2] for word in words)
    if not all(name and value for name, value in found.items()):
        raise SpecError(f"{option} is {shape}")
    return found


def _by_task(
    table: Path,
    file: Path,
    beside: list[str],
    base: Path | None,
    max_new_tokens: int | None,
    threshold: float | None,
    named: dict[str, str],
) -> dict[str, Any]:
    """What `apply` needs where each row names its task."""
    from tailorbird.answerers.mixed import WINDOW
    from tailorbird.applying import BOTH, by_task
    from tailorbird.running.serving import serve

    served = serve(table, _pairs(beside, "--beside", "NAME=RUN:LABEL"), base)
    return {
        "open_answers": lambda: served.answer,
        "identity": served.identity,
        "ask": by_task(served, file, max_new_tokens, named, threshold),
        "columns": BOTH,
        "max_new_tokens": max_new_tokens or 0,
        "window": WINDOW,
    }


@app.command()
def chat(
    run: RunName,
    beside_base: Annotated[bool, typer.Option("--beside-base", help="The untouched base's answer beside it.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, for tasks that write.", min=1)] = 256,
    base: BaseNow = None,
    debug: Debug = False,
) -> None:
    """Talk to a customization.

    One message a line; an empty line begins anew, Ctrl-D ends."""
    from tailorbird.api import Model
    from tailorbird.running.opening import choose

    chosen = choose(run, base)
    say(f"opening {chosen.label} of {chosen.place}")
    models = {chosen.label: Model(chosen.open(), chosen.folder)}
    if beside_base:
        models["base"] = Model(chosen.open_beside(), chosen.base_folder)
    say("one message a line; an empty line begins anew, Ctrl-D ends")
    _talk(models, max_new_tokens)


def _talk(models: dict[str, Any], max_new_tokens: int) -> None:
    turns: dict[str, list[dict[str, str]]] = {label: [] for label in models}
    classify = bool(next(iter(models.values())).labels)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are shown as such, not stumbled over
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if not line.strip():
            turns = {label: [] for label in models}
            say("(begun anew)")
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
    merge: Annotated[
        bool, typer.Option("--merge", help="lora, selective: whole weights with the change in them.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="--merge: float32 (else it is), bfloat16, float16.")] = None,
    prompt_embeds: Annotated[
        bool, typer.Option("--prompt-embeds", help="A soft prompt as a tensor, with a client for vLLM's prompt_embeds.")
    ] = False,
    base: BaseNow = None,
    debug: Debug = False,
) -> None:
    """Write a plain PEFT or transformers folder."""
    from tailorbird.exporting import export as export_folder
    from tailorbird.exporting import export_embeddings
    from tailorbird.running.opening import choose

    if dtype is not None and not merge:
        raise SpecError("--dtype is the type of merged weights", remedy="add --merge")
    if base is not None and not (merge or prompt_embeds):
        raise SpecError("--base is for --merge and --prompt-embeds: copying needs no base", remedy="leave it out")
    if prompt_embeds and merge:
        raise SpecError("a soft prompt is no weight: there is nothing to merge", remedy="leave --merge out")
    chosen = choose(run, base)
    if prompt_embeds:
        export_embeddings(chosen.folder, folder, base_folder=chosen.base_folder)
        print(folder)
        return
    below = chosen.base_folder if merge else None
    done = export_folder(chosen.folder, folder, base_folder=below, merge=merge, dtype=dtype or "float32")
    if done.difference is not None:
        say(f"logits of the check rows: {done.difference:.2g} from the unmerged; its own effect is {done.effect:.2g}")
    print(folder)
