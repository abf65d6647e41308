"""No Hypothesis deadline: the first example of a test may pay for an import of scipy or scikit-learn."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
