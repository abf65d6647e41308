"""The one YAML file: every field explained where it is declared. Knows neither data nor techniques.

`load` reads YAML 1.2 (`1e-4` is a number, `no` is a string), expands the short forms (`data: rows.csv`, `- lora`),
applies overrides and reports every problem at once: line, field, the nearest known field. A contestant's settings stay
a raw mapping here; `plan` types them with the technique's own `Settings`.
"""

from tailorbird.spec.fields import (
    REFERENCES,
    BaseSpec,
    Contestant,
    DataSpec,
    ExampleSource,
    Limits,
    ReplaySpec,
    ReportSpec,
    Requirements,
    Spec,
    SplitSpec,
    TaskSpec,
    Tune,
    checked_name,
)
from tailorbird.spec.problems import Problem, did_you_mean, problems_error
from tailorbird.spec.reading import build, load

__all__ = [
    "Spec",
    "BaseSpec",
    "DataSpec",
    "ExampleSource",
    "ReplaySpec",
    "TaskSpec",
    "Contestant",
    "Tune",
    "Requirements",
    "Limits",
    "SplitSpec",
    "ReportSpec",
    "REFERENCES",
    "load",
    "build",
    "Problem",
    "problems_error",
    "did_you_mean",
    "checked_name",
]
