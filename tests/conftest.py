"""Shared by all tests: where the public data lies. Without TAILORBIRD_DATA the tests that need it skip and say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data sets (docs/data.md says which); skips where it is not there."""
    folder = os.environ.get("TAILORBIRD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the public data: set TAILORBIRD_DATA to its folder")
    return Path(folder)
