"""What a technique must pass, and small bases to pass it on. Public: an outsider's technique is held to the same."""

from __future__ import annotations

from tailorbird.testing.contract import Beside, technique_contract
from tailorbird.testing.tiny import make_tiny_base, tiny_rows, training_context

__all__ = ["Beside", "make_tiny_base", "technique_contract", "tiny_rows", "training_context"]
