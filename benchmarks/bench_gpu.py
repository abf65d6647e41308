"""Tokens a second, GiB and share of the matmul peak on a CUDA device, beside plain TRL settings. `make bench-gpu`

    python benchmarks/bench_gpu.py [--shape smollm2-135m|llama-1b|llama-8b] [--technique sft|lora|prompt_tuning]

Random weights in the shapes of SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B, bf16, rows of random ids: `short` (42
tokens, 25 of them the same in all rows, 4 supervised) and `long` (512 tokens, 128 supervised, nothing in common). Ours
is `engine.train.train` over a `RowSource`; the peers' cells are TRL's defaults (checkpointing, micro-batch 8), TRL
without checkpointing, and TRL with flattened batches and a base stored in bf16, which is how Unsloth is set up. Each
cell runs in its own process. Peak: the fastest bf16 product of square matrices found here. FLOPs: 2 x weights forward,
as much for each gradient that is needed, for every token of every row (also those computed once for all), so that the
share says what a user gets. Last: training stopped half-way and continued against undisturbed, largest difference.

Without a CUDA device it says so and ends well. `--device cpu --shape tiny` shows that the program runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    name: dict(zip(FIELDS, values, strict=True))
    for name, values in {
        "smollm2-135m": (576, 1536, 30, 9, 3, 49152, True),
        "llama-1b": (2048, 8192, 16, 32, 8, 128256, True),
        "llama-8b": (4096, 14336, 32, 32, 8, 128256, False),
        "tiny": (64, 128, 2, 4, 2, 512, True),
    }.items()
}
ROWS = {"short": (42, 25, 4, 64), "long": (512, 0, 128, 16)}  # tokens, shared, supervised, rows an optimizer step
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 1e-5}, "lora": {"rank": 16, "alpha": 32.0, "learning_rate": 1e-4},
    "prompt_tuning": {"total_virtual_tokens": 20, "learning_rate": 0.01},
}  # fmt: skip
PEERS: dict[str, dict[str, Any]] = {
    "TRL, default": {"checkpointing": True, "batch": 8, "flat": False, "stored": "float32"},
    "TRL, no checkpointing": {"checkpointing": False, "batch": 16, "flat": False, "stored": "float32"},
    "TRL, flattened, base in bf16": {"checkpointing": False, "batch": 16, "flat": True, "stored": "bfloat16"},
}
SKIPPED, TIMED = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--technique", action="append", choices=SETTINGS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu.json"))
    parser.add_argument("--cell", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        job = json.loads(asked.cell.read_text(encoding="utf-8"))
        result = {"ours": ours, "theirs": theirs, "resume": resume}[job["side"]](job)
        asked.cell.with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")
        return
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here")
        return
    peak = matmul_peak(asked.device)
    name = torch.cuda.get_device_name() if asked.device == "cuda" else asked.device
    print(f"{name}: {peak / 1e12:.1f} TFLOP/s in bf16, torch {torch.__version__}\n")
    print("| shape, technique, rows | cell | tokens/s | GiB | share of the peak |\n|---|---|---|---|---|")
    done: list[dict[str, Any]] = []
    for shape in asked.shape or [s for s in SHAPES if s != "tiny"]:
        for technique in asked.technique or SETTINGS:
            for kind in ROWS:
                done += pair({"shape": shape, "technique": technique, "rows": kind, "device": asked.device}, peak)
    told = in_process({"side": "resume", "shape": (asked.shape or ["smollm2-135m"])[0], "device": asked.device})
    print(f"\nstopped and continued against undisturbed (lora): {told}")
    asked.out.write_text(json.dumps({"device": name, "peak": peak, "cells": done, "resume": told}, indent=1))


def pair(job: dict[str, Any], peak: float) -> list[dict[str, Any]]:
    """Our side and each of the peers' cells, told as lines of the table."""
    cells = [("ours", {"side": "ours"})]
    cells += [(name, {"side": "theirs", **cell}) for name, cell in PEERS.items() if applies(cell, job["technique"])]
    done = []
    for name, cell in cells:
        result = in_process({**job, **cell})
        where = f"{job['shape']}, {job['technique']}, {job['rows']}"
        if isinstance(result, str):
            print(f"| {where} | {name} | {result} | – | – |", flush=True)
        else:
            result["share_of_peak"] = result["flops_per_second"] / peak
            numbers = f"{result['tokens_per_second']:.0f} | {result['gib']:.1f} | {result['share_of_peak']:.0%}"
            print(f"| {where} | {name} | {numbers} |", flush=True)
        done.append({**job, "cell": name, "result": result})
    return done


def applies(cell: dict[str, Any], technique: str) -> bool:
    """Weights stored in bf16 do not learn; PEFT puts one soft prompt before a whole flattened batch."""
    return not (cell["flat"] and technique != "lora")


def in_process(job: dict[str, Any]) -> dict[str, Any] | str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "--cell", str(path)]
        process = subprocess.run(command, capture_output=True, text=True)
        told = path.with_suffix(".result")
        if process.returncode == 0 and told.is_file():
            result: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
            return result
        lines = [line for line in process.stderr.strip().splitlines() if line.strip()]
        return "out of memory" if "OutOfMemory" in process.stderr else lines[-1][:200] if lines else "no reason given"


def matmul_peak(device: str) -> float:
    """FLOP/s of the fastest bf16 product of square matrices."""
    import torch

    best = 0.0
    for size in (4096, 8192) if device == "cuda" else (512,):
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        times = []
        for _ in range(8):
            begun = seconds(device)
            for _ in range(10):
                a @ b
            times.append((seconds(device) - begun) / 10)
        best = max(best, 2.0 * size**3 / min(times))
    return best


def seconds(device: str) -> float:
    """The clock, once everything queued on the device is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def network(job: dict[str, Any], dtype: str) -> Any:
    """Random weights of the shape, made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[job["shape"]], max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(job["device"]):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def id_rows(job: dict[str, Any], steps: int) -> list[tuple[list[int], list[bool]]]:
    length, shared, supervised, per_step = ROWS[job["rows"]]
    draw, size = random.Random(0), SHAPES[job["shape"]]["vocab_size"]
    head = [draw.randrange(3, size) for _ in range(shared)]
    flags = [False] * (length - supervised) + [True] * supervised
    return [(head + [draw.randrange(3, size) for _ in range(length - shared)], flags) for _ in range(per_step * steps)]


def told(job: dict[str, Any], times: list[float], trainable: int, body: int, gib: float) -> dict[str, Any]:
    """Rates over the timed steps. body: weights of the layers."""
    length, _, supervised, per_step = ROWS[job["rows"]]
    shape, passes = SHAPES[job["shape"]], 3.0 if job["technique"] == "sft" else 2.0
    flops = per_step * (
        length * 2.0 * body * passes + supervised * 2.0 * shape["vocab_size"] * shape["hidden_size"] * passes
    )
    if job["technique"] == "lora":
        flops += per_step * length * 6.0 * trainable
    step = statistics.median(times[SKIPPED:])
    return {
        "tokens_per_second": per_step * length / step, "flops_per_second": flops / step, "gib": gib,
        "step_seconds": step, "trainable_parameters": trainable,
    }  # fmt: skip


def gib(device: str) -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


def body_weights(model: Any) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and "lora_" not in name)


class Enough(Exception):
    """All steps that are timed are done."""


def train_ours(
    job: dict[str, Any], folder: Path, steps: int, progress: Any, stop: Any = lambda: False
) -> tuple[Any, dict[str, int]]:
    """The best point of our loop (None when `progress` ended it), and numbers of weights. The rows last for a step more
    than is asked for."""
    import torch

    from tailorbird import techniques
    from tailorbird.engine.batches import Encoded, RowSource
    from tailorbird.engine.checkpoints import Checkpoints
    from tailorbird.engine.model import Model
    from tailorbird.engine.optimizer import Schedule
    from tailorbird.engine.probe import set_threads
    from tailorbird.engine.train import train
    from tailorbird.plan.making import MICRO_BATCH_TOKENS
    from tailorbird.testing import training_context

    set_threads(torch.get_num_threads())
    model = Model(network(job, "bfloat16"), device=job["device"])
    technique: Any = techniques.get(job["technique"])
    per_step = ROWS[job["rows"]][3]
    settings = technique.Settings.model_validate(
        {**SETTINGS[job["technique"]], "epochs": 1, "batch_rows": per_step, "schedule": "constant", "warmup_share": 0.0}
    )
    counted = {"body": body_weights(model.network)}
    trainable = technique.trainable(model, settings, training_context())
    counted["trainable"] = trainable.count
    source = RowSource(
        [Encoded(tuple(ids), tuple(flags)) for ids, flags in id_rows(job, steps + 1)],
        batch_rows=per_step,
        micro_batch_tokens=MICRO_BATCH_TOKENS[job["device"]],
        seed=0,
        soft=model.virtual_tokens,
        device=job["device"],
    )
    try:
        best = train(
            model,
            trainable,
            technique.loss,
            source,
            None,
            schedule=Schedule(settings.learning_rate, steps, settings.warmup_share, settings.schedule),
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            checkpoints=Checkpoints(folder),
            checkpoint_steps=10**9,
            progress=progress,
            stop=stop,
        )
    except Enough:
        return None, counted
    return best, counted


def ours(job: dict[str, Any]) -> dict[str, Any]:
    times: list[float] = []
    last = 0.0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last
        now = seconds(job["device"])
        if last:
            times.append(now - last)
        last = now
        if len(times) >= SKIPPED + TIMED:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        _, counted = train_ours(job, Path(folder), SKIPPED + TIMED + 2, progress)
    return told(job, times, counted["trainable"], counted["body"], gib(job["device"]))


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig, PromptTuningConfig
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        last = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = seconds(job["device"])
            if self.last:
                times.append(now - self.last)
            self.last = now

    config: Any = None
    settings = SETTINGS[job["technique"]]
    if job["technique"] == "lora":
        config = LoraConfig(
            r=settings["rank"], lora_alpha=settings["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        )
    elif job["technique"] == "prompt_tuning":
        config = PromptTuningConfig(num_virtual_tokens=settings["total_virtual_tokens"], task_type="CAUSAL_LM")
    steps, per_step = SKIPPED + TIMED + 1, ROWS[job["rows"]][3]
    rows = Dataset.from_list([
        {"input_ids": ids, "labels": [i if wanted else -100 for i, wanted in zip(ids, flags, strict=True)]}
        for ids, flags in id_rows(job, steps)
    ])  # fmt: skip
    words = WordLevel({"[PAD]": 0, "[BOS]": 1, "[EOS]": 2}, unk_token="[PAD]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="[PAD]", eos_token="[EOS]")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=min(job["batch"], per_step),
            gradient_accumulation_steps=max(1, per_step // job["batch"]), learning_rate=settings["learning_rate"],
            lr_scheduler_type="constant", bf16=True, gradient_checkpointing=job["checkpointing"], save_strategy="no",
            report_to=[], disable_tqdm=True, padding_free=job["flat"], max_length=None, use_cpu=job["device"] == "cpu",
            dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        model = network(job, job["stored"])
        body = body_weights(model)
        trainer = SFTTrainer(
            model,
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=config,
            callbacks=[Clock()],
        )
        trainer.train()
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return told(job, times, count, body, gib(job["device"]))


def resume(job: dict[str, Any]) -> dict[str, Any]:
    """Largest difference of any trained value, stopped after three of six steps and continued, against undisturbed."""
    from tailorbird.errors import Interrupted

    job = {**job, "technique": "lora", "rows": "short"}
    silent = lambda done, total, note: None  # noqa: E731
    with tempfile.TemporaryDirectory() as scratch:
        whole, _ = train_ours(job, Path(scratch) / "whole", 6, silent)
        calls = 0

        def stop() -> bool:
            nonlocal calls
            calls += 1
            return calls > 3

        try:
            train_ours(job, Path(scratch) / "halves", 6, silent, stop)
        except Interrupted:
            halves, _ = train_ours(job, Path(scratch) / "halves", 6, silent)
    differences = [float((whole.tensors[name] - halves.tensors[name]).abs().max()) for name in whole.tensors]
    largest = max(float(tensor.abs().max()) for tensor in whole.tensors.values())
    return {"largest_difference": max(differences), "largest_value": largest, "steps": 6}


if __name__ == "__main__":
    main()
