"""One soft prompt, the same rows: alone, and in batches whose longest row is 25, 40, 80 tokens long.

    python benchmarks/bench_padding.py [--shapes llama gpt2 qwen] [--rows 400] [--json]

A tiny base of each shape learns a task with a control: four equal control tokens say which of four symbols follows
from the last symbol of the text. The base learns it on short and long texts, so that no position is new to it.
Then four virtual tokens are trained (prompt tuning) on short ones to stand in for one control.
Accuracy of that soft prompt, from its exported folder:

    ours       forward, scoring (labels as a trie) and writing, packed beside mates of that length: there are no pads
    PEFT       the same files, left-padded as its generate wants: [soft prompt][pads][text]; `position_ids` are dropped
    by hand    plain transformers: [pads][soft prompt][text], inputs_embeds, attention_mask, position_ids from the mask

A row's answer may not depend on its mates: the first and the third are one figure at every length.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.model import Model

SHAPES = ("llama", "gpt2", "qwen")
WIDTHS = (25, 40, 80)  # tokens of a batch's longest row
CONTROLS, MARKER, PAD, END, FIRST, SYMBOLS = 4, 4, 5, 6, 10, 16  # token ids; symbols from FIRST on
STEP = (0, 1, 5, 9)  # control c: the answer is the symbol STEP[c] behind the last one
LEARNED = 2  # the control that the soft prompt stands in for
VIRTUAL, BATCH = 4, 16


def row(rng: random.Random, length: int | None = None) -> tuple[list[int], list[int]]:
    """Symbols and the marker behind them; the answer of each control."""
    body = [rng.randrange(SYMBOLS) for _ in range(rng.randint(3, 14) if length is None else length - 1)]
    return [*(FIRST + s for s in body), MARKER], [FIRST + (body[-1] + step) % SYMBOLS for step in STEP]


def make_base(folder: Path, shape: str, steps: int, longest: int) -> list[int]:
    """A tiny base that obeys its controls: answer and end behind the marker, controls before the text. Returns how many
    tokens the longest text of each step had."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM

    from tailorbird.testing import make_tiny_base

    make_tiny_base(folder, shape, hidden=64)  # type: ignore[arg-type]
    network = AutoModelForCausalLM.from_pretrained(str(folder))
    adam, rng = torch.optim.AdamW(network.parameters(), lr=3e-3), random.Random(0)
    widths: list[int] = []
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = 3e-3 * (1.0 - step / steps)
        texts, places = [], []
        for _ in range(64 if step % 2 else 24):  # every other step on long texts: the base knows all positions
            control = rng.randrange(CONTROLS)
            text, answers = row(rng) if step % 2 else row(rng, rng.randint(4, longest))
            texts.append([*[control] * VIRTUAL, *text, answers[control], END])
            places.append(len(texts[-1]) - 3)  # of the marker; causal: what is padded behind the end is not seen
        width = max(map(len, texts))
        widths.append(width)
        ids = torch.tensor([text + [PAD] * (width - len(text)) for text in texts])
        logits = network(input_ids=ids).logits
        rows, at = torch.arange(len(texts)), torch.tensor(places)
        loss = F.cross_entropy(logits[rows, at], ids[rows, at + 1])
        loss = loss + F.cross_entropy(logits[rows, at + 1], ids[rows, at + 2])
        adam.zero_grad()
        loss.backward()
        adam.step()
    network.save_pretrained(str(folder))
    return widths


def make_soft_prompt(folder: Path, base: Path, work: Path, epochs: int) -> None:
    """Prompt tuning by our own loop on 320 rows without any control; written as the customization's folder has it."""
    import torch

    from tailorbird import store
    from tailorbird.artifacts.layout import ADAPTER, ADAPTER_CONFIG, prompt_tuning_config, write_tensors
    from tailorbird.bases.model import load_model
    from tailorbird.engine.batches import Encoded, RowSource
    from tailorbird.engine.checkpoints import Checkpoints
    from tailorbird.engine.model import Model
    from tailorbird.engine.optimizer import Schedule
    from tailorbird.engine.train import token_loss, train
    from tailorbird.techniques.prompt_tuning import PromptTuning, PromptTuningSettings
    from tailorbird.testing import training_context

    rng, rows = random.Random(1), []
    for _ in range(320):
        text, answers = row(rng)
        rows.append(Encoded((*text, answers[LEARNED], END), (False,) * len(text) + (True, True)))
    model = Model(load_model(base))
    settings = PromptTuningSettings(learning_rate=0.05, epochs=epochs, batch_rows=BATCH, total_virtual_tokens=VIRTUAL)
    trainable = PromptTuning().trainable(model, settings, training_context())
    source = RowSource(rows, batch_rows=BATCH, micro_batch_tokens=4096, seed=0, soft=VIRTUAL)
    best = train(
        model,
        trainable,
        token_loss,
        source,
        None,
        schedule=Schedule(settings.learning_rate, epochs * source.steps_per_epoch, 0.1, "linear"),
        weight_decay=0.0,
        clip=1.0,
        checkpoints=Checkpoints(work),
        checkpoint_steps=1000,
        progress=lambda done, total, note: None,
        stop=lambda: False,
    )
    folder.mkdir()
    soft: Tensor = best.tensors["prompt_embeddings"]
    write_tensors(folder / ADAPTER, {"prompt_embeddings": soft.detach()})
    store.write_json(folder / ADAPTER_CONFIG, prompt_tuning_config(soft, base, "tiny"))
    torch.manual_seed(0)


# --- one batch after another: each way gives the answers to the rows that are asked ---------------------------------

Answering = Callable[[Sequence[Sequence[int]], int | None], Iterator[int]]
"""(rows, width) -> the first token of each answer. None: each row alone; else every batch has a mate of that width."""


def batches(rows: Sequence[Sequence[int]], width: int | None) -> Iterator[list[list[int]]]:
    """The rows of a batch, and behind them one mate of `width` tokens, whose answer nobody asks for."""
    size = 1 if width is None else BATCH
    rng = random.Random(2)
    for start in range(0, len(rows), size):
        batch = [list(one) for one in rows[start : start + size]]
        yield batch if width is None else [*batch, row(rng, width)[0]]


def forward(model: Model) -> Answering:
    import torch

    from tailorbird.engine.segments import pack

    def answers(rows: Sequence[Sequence[int]], width: int | None) -> Iterator[int]:
        for batch in batches(rows, width):
            packed = pack(batch, soft=model.virtual_tokens)
            with torch.no_grad():
                found = model.logits(model.forward(packed)[packed.ends]).argmax(-1).tolist()
            yield from found if width is None else found[:-1]

    return answers


def scored(model: Model) -> Answering:
    from tailorbird.engine.scoring import Trie, score_labels

    trie = Trie.of([[FIRST + symbol, END] for symbol in range(SYMBOLS)])
    cached = model.cache_head([])

    def answers(rows: Sequence[Sequence[int]], width: int | None) -> Iterator[int]:
        for batch in batches(rows, width):
            found = (FIRST + score_labels(model, batch, trie, cached).argmax(-1)).tolist()
            yield from found if width is None else found[:-1]

    return answers


def written(model: Model) -> Answering:
    from tailorbird.engine.generation import generate

    cached = model.cache_head([])

    def answers(rows: Sequence[Sequence[int]], width: int | None) -> Iterator[int]:
        for batch in batches(rows, width):
            made = generate(model, batch, max_new_tokens=2, end_ids=frozenset({END}), cached=cached)
            found = [one.tokens[0] if one.tokens else END for one in made]
            yield from found if width is None else found[:-1]

    return answers


def padded(batch: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Left-padded ids and their mask, (rows, longest) each."""
    import torch

    longest = max(map(len, batch))
    ids = [[PAD] * (longest - len(one)) + list(one) for one in batch]
    mask = [[0] * (longest - len(one)) + [1] * len(one) for one in batch]
    return torch.tensor(ids), torch.tensor(mask)


def peft(base: Path, folder: Path, *, generate: bool) -> Answering:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    network: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), str(folder)).eval()

    def answers(rows: Sequence[Sequence[int]], width: int | None) -> Iterator[int]:
        for batch in batches(rows, width):
            ids, mask = padded(batch)
            with torch.no_grad():
                if generate:
                    asked = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": PAD, "eos_token_id": END}
                    found = network.generate(input_ids=ids, attention_mask=mask, **asked)[:, -1].tolist()
                else:
                    found = network(input_ids=ids, attention_mask=mask).logits[:, -1].argmax(-1).tolist()
            yield from found if width is None else found[:-1]

    return answers


def by_hand(base: Path, soft: Tensor) -> Answering:
    """[pads][soft prompt][text] for plain transformers: pads are masked, positions count from the soft prompt on."""
    import torch
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(str(base)).eval()
    embeddings = network.get_input_embeddings()

    def answers(rows: Sequence[Sequence[int]], width: int | None) -> Iterator[int]:
        for batch in batches(rows, width):
            longest, embedded, mask = max(map(len, batch)), [], []
            for one in batch:
                pads = longest - len(one)
                before, text = (embeddings(torch.tensor(ids, dtype=torch.long)) for ids in ([PAD] * pads, one))
                embedded.append(torch.cat([before, soft, text]))
                mask.append([0] * pads + [1] * (len(soft) + len(one)))
            seen = torch.tensor(mask)
            with torch.no_grad():
                logits = network(
                    inputs_embeds=torch.stack(embedded),
                    attention_mask=seen,
                    position_ids=(seen.cumsum(1) - 1).clamp(min=0),
                ).logits
            found = logits[:, -1].argmax(-1).tolist()
            yield from found if width is None else found[:-1]

    return answers


def experiment(
    folder: Path, shape: str, *, rows: int, base_steps: int = 2000, longest: int = max(WIDTHS) + 10, epochs: int = 10
) -> dict[str, Any]:
    """Accuracy by way of answering and width (None: alone); how many of ours differ from alone; the control itself."""
    import torch

    from tailorbird.artifacts.layout import read_adapter
    from tailorbird.artifacts.parts import Decode, Parts, Prompt
    from tailorbird.bases.model import load_model
    from tailorbird.engine.attaching import Attachment
    from tailorbird.engine.model import Model
    from tailorbird.engine.probe import set_threads

    set_threads(torch.get_num_threads())
    base, adapter = folder / "base", folder / "adapter"
    torch.manual_seed(0)
    widths = make_base(base, shape, base_steps, longest)
    assert max(widths[base_steps // 2 :]) >= longest, "late in its training the base meets short texts only"
    make_soft_prompt(adapter, base, folder / "work", epochs)
    rng = random.Random(3)
    asked = [row(rng) for _ in range(rows)]
    texts, wanted = [text for text, _ in asked], [answers[LEARNED] for _, answers in asked]
    bare = Model(load_model(base))
    with_control = forward(bare)([[*[LEARNED] * VIRTUAL, *text] for text in texts], None)
    model = Model(load_model(base))
    parts = Parts(Prompt(), Decode("write"), **read_adapter(adapter))
    Attachment(model, parts).put()
    assert parts.soft is not None
    ways = {
        "ours, forward": forward(model),
        "ours, scoring": scored(model),
        "ours, writing": written(model),
        "by hand, pads first": by_hand(base, parts.soft),
        "PEFT, forward": peft(base, adapter, generate=False),
        "PEFT, generate": peft(base, adapter, generate=True),
    }
    accuracy, changed = {}, {}
    for name, answering in ways.items():
        found = {width: list(answering(texts, width)) for width in (None, *WIDTHS)}
        accuracy[name] = {str(width): _share(answers, wanted) for width, answers in found.items()}
        changed[name] = sum(any(found[w][i] != found[None][i] for w in WIDTHS) for i in range(rows))
    return {"shape": shape, "control": _share(list(with_control), wanted), "accuracy": accuracy, "changed": changed}


def _share(found: Sequence[int], wanted: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, choices=SHAPES)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    moved = 0
    for shape in asked.shapes:
        with tempfile.TemporaryDirectory() as folder:
            found = experiment(Path(folder), shape, rows=asked.rows)
        moved += sum(found["changed"][way] for way in found["changed"] if not way.startswith("PEFT"))
        if asked.json:
            print(json.dumps(found), flush=True)
            continue
        print(f"{shape}: {asked.rows} rows; the control itself instead of the soft prompt: {found['control']:.3f}")
        print(f"  {'':22} alone " + "".join(f"{width:>7}" for width in WIDTHS) + "   rows whose answer changes")
        for way, shares in found["accuracy"].items():
            figures = "".join(f"{shares[str(width)]:7.3f}" for width in (None, *WIDTHS))
            print(f"  {way:20} {figures}   {found['changed'][way]}", flush=True)
    if moved:
        print(f"{moved} answers of ours depended on their mates")
    return 1 if moved else 0


if __name__ == "__main__":
    sys.exit(main())
