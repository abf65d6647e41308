"""From a plan's contestant to a customization on disk: encode rows, train or search, hand over with check rows.

The glue between techniques, engine, artifacts and answerers; it knows no statistics and no Validation or Test row.
"""

from __future__ import annotations

from tailorbird.customize.job import Compute, Job, decode_of
from tailorbird.customize.making import customize
from tailorbird.customize.rehearsal import rehearse

__all__ = ["Compute", "Job", "customize", "decode_of", "rehearse"]
