"""Settings with which each technique of the shelf goes through the contract: to overfit, and to show effects."""

from __future__ import annotations

from typing import Any

from tailorbird.testing.contract import Beside

LEARNING: dict[str, Any] = {
    "learning_rate": 0.003,
    "epochs": 3,
    "batch_rows": 3,
    "warmup_share": 0.5,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "clip": 0.01,
    "dropout": 0.5,
    "label_smoothing": 0.2,
    "l2_to_start": 100.0,
    "patience": Beside(1, {"learning_rate": 1e-12, "epochs": 4}),  # no weight moves, so no loss falls
}
TRAINING: dict[str, Any] = {**LEARNING, "keep_optimizer": True}
# name -> (settings that learn eight rows by heart, another value for each setting)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero_shot": ({}, {"calibration": "on"}),
    "few_shot": ({}, {"examples": 2, "draws": 1, "calibration": "on"}),
    "prompt_tuning": (
        {"learning_rate": 0.3, "epochs": 300, "batch_rows": 8},
        {
            **TRAINING,
            "total_virtual_tokens": 5,
            "initialization": "random",
            "initialization_text": Beside("red or green", {"initialization": "text"}),
        },
    ),
    "p_tuning": (
        {"learning_rate": 0.01, "epochs": 400, "batch_rows": 8, "total_virtual_tokens": 50},
        {
            **TRAINING,
            "keep_optimizer": False,
            "total_virtual_tokens": 5,
            "encoder": "lstm",
            "encoder_hidden_size": 24,
            "encoder_layers": Beside(1, {"encoder": "lstm"}),
            "encoder_dropout": Beside(0.5, {"encoder": "lstm"}),
        },
    ),
    "prefix_tuning": (
        {"learning_rate": 0.1, "epochs": 300, "batch_rows": 8},
        {
            **TRAINING,
            "total_virtual_tokens": 5,
            "initialization": "random",
            "initialization_text": "red or green",
        },
    ),
    "lora": (
        {"learning_rate": 0.01, "epochs": 200, "batch_rows": 8, "rank": 32},
        {**TRAINING, "rank": 4, "alpha": 8.0, "rslora": True, "targets": ("q_proj",)},
    ),
    "peft": (
        {"learning_rate": 0.01, "epochs": 200, "batch_rows": 8, "rank": 32},
        {**LEARNING, "method": "loha", "rank": 4, "alpha": 8.0, "targets": ("q_proj",)},
    ),
    "selective": (
        {"learning_rate": 0.01, "epochs": 200, "batch_rows": 8, "layers": 2},
        {**TRAINING, "update": "norms", "layers": 2},
    ),
    "sft": ({"learning_rate": 0.003, "epochs": 40, "batch_rows": 8}, TRAINING),
}
