"""One cell of bench_speed on the peers' side, in a process of its own: `python theirs.py JOB.json RESULT.json`.

TRL's `SFTTrainer`, or `transformers.Trainer` with TRL's collator, with PEFT where something small is trained: the rows,
their order, the number of rows an optimizer step, optimizer, rate and start are those of our side. What is left to
them is in the cell: compute type, micro-batch, activation checkpointing, and how rows are laid out:

padded        micro-batches in the order of the rows, padded on the right to the longest of each
grouped       the same, the rows of one optimizer step sorted by length first (what `group_by_length` is for, without
              giving a step other rows)
padding_free  TRL's flattened batches: no padding, one sequence, positions reset, attention kept inside each row
packing       TRL's packing (`bfd`): its own order of rows and number of rows a step, so losses are not compared
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DTYPES = ("float32", "bfloat16", "bfloat16-stored")  # the last: a frozen base stored in bf16, what is trained in fp32


def dataset(job: dict[str, Any]) -> tuple[Any, int]:
    """The rows in the order of the steps, and the length of a pack (0: none)."""
    from datasets import Dataset

    stored = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))
    cell, order = job["cell"], list[int]()
    for numbers in job["order"]:
        by_length = cell["layout"] == "grouped"
        order += sorted(numbers, key=lambda i: len(stored[i][0])) if by_length else numbers
    rows = [
        {"input_ids": ids, "labels": [t if wanted else -100 for t, wanted in zip(ids, flags, strict=True)]}
        for ids, flags in (stored[i] for i in order)
    ]
    longest = max(len(row["input_ids"]) for row in rows)
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    return Dataset.from_list(rows), max(longest, round(mean * cell["batch"]))


def network(job: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    stored = torch.bfloat16 if job["cell"]["dtype"] == "bfloat16-stored" else torch.float32
    return AutoModelForCausalLM.from_pretrained(job["base"], dtype=stored, local_files_only=True)


def peft_config(job: dict[str, Any]) -> Any:
    from peft import LoraConfig, PromptTuningConfig

    settings = job["settings"]
    if job["technique"] == "lora":
        return LoraConfig(
            r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=0.0, target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
    if job["technique"] == "prompt_tuning":
        return PromptTuningConfig(num_virtual_tokens=settings["total_virtual_tokens"], task_type="CAUSAL_LM")
    return None


def same_start(model: Any, path: Path, technique: str) -> None:
    """Copy where our side began into the peers' parameters, by name; every trained tensor must be met."""
    import torch
    from safetensors.torch import load_file

    ours, met = load_file(str(path)), 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or technique == "sft":
            continue
        parameter.data = parameter.data.float()
        if technique == "lora":
            key = name.removeprefix("base_model.model.").replace(".lora_A.default.weight", ".A")
            key = key.replace(".lora_B.default.weight", ".B")
        else:
            key = "prompt_embeddings"
        with torch.no_grad():
            parameter.copy_(ours[key])
        met += 1
    if technique != "sft" and met != len(ours):
        sys.exit(f"{met} tensors of {len(ours)} were given our start: the names have changed")


def trainer(job: dict[str, Any], folder: str, watch: Any) -> Any:
    from transformers import AutoTokenizer, Trainer, TrainingArguments
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    cell, (rows, pack) = job["cell"], dataset(job)
    packing, flat = cell["layout"] == "packing", cell["layout"] in ("packing", "padding_free")
    batch = 1 if packing else cell["batch"]
    common: dict[str, Any] = {
        "output_dir": folder, "max_steps": job["steps"], "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": max(1, job["rows_per_step"] // cell["batch"]),
        "learning_rate": job["learning_rate"], "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "optim": "adamw_torch_fused", "bf16": cell["dtype"] != "float32",
        "gradient_checkpointing": cell["checkpointing"], "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "train_sampling_strategy": "sequential", "seed": 0,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(job["base"], local_files_only=True)
    model, config = network(job), peft_config(job)
    if cell["trainer"] == "trl":
        arguments = SFTConfig(
            **common, packing=packing, padding_free=flat, max_length=pack if packing else None,
            dataset_kwargs=None if packing else {"skip_prepare_dataset": True},
        )  # fmt: skip
        made: Any = SFTTrainer(
            model, args=arguments, train_dataset=rows, processing_class=tokenizer, peft_config=config, callbacks=[watch]
        )
    else:
        if config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, config)
            if cell["checkpointing"]:
                model.enable_input_require_grads()
        made = Trainer(
            model, args=TrainingArguments(**common), train_dataset=rows, processing_class=tokenizer, callbacks=[watch],
            data_collator=DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=flat),
        )  # fmt: skip
    same_start(made.model, Path(job["start"]), job["technique"])
    made.training_step = watch.counting(made.training_step)
    return made


def make_watch(job: dict[str, Any]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Seconds, loss and work of each step, as the trainer's own callbacks see them."""

        def __init__(self) -> None:
            self.steps: list[dict[str, float]] = []
            self.rows = self.tokens = 0
            self.begun = self.last = time.perf_counter()

        def counting(self, training_step: Any) -> Any:
            """`training_step`, which is given each micro-batch, with what it computes counted."""

            def step(model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
                rows = inputs["input_ids"].shape[0]
                if "attention_mask" not in inputs:
                    rows = int((inputs["position_ids"] == 0).sum())
                self.rows += rows
                virtual = job["settings"].get("total_virtual_tokens", 0)
                self.tokens += inputs["input_ids"].numel() + virtual * rows
                return training_step(model, inputs, *arguments, **named)

            return step

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = self.last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = time.perf_counter()
            self.steps.append({"seconds": now - self.last, "rows": self.rows, "computed_tokens": self.tokens})
            self.rows = self.tokens = 0
            self.last = now
            if len(self.steps) >= job["least_steps"] and now - self.begun > job["seconds"]:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.steps[-1]["loss"] = logs["loss"]

    return Watch()


def measure(job: dict[str, Any]) -> dict[str, Any]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(job["threads"])
    watch = make_watch(job)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(job, folder, watch)
        made.train()
    count = sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    return {"steps": watch.steps, "peak_mb": peak_mb(), "trainable_parameters": count}


def peak_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    result = measure(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
