"""The report: one offline HTML page without scripts or remote parts, readable on a phone and in print."""

from __future__ import annotations

from tailorbird.reporting.page.input import ReportInput
from tailorbird.reporting.page.write import render, write_report

__all__ = ["ReportInput", "render", "write_report"]
