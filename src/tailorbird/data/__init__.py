"""Data in: files to rows, rows to splits, answers that the user brings. No torch, no numpy."""

from tailorbird.data.answers import AnswersFile, inputs_to_answer, read_answers
from tailorbird.data.collections import Mixed, Source, mix, take
from tailorbird.data.facts import DataFacts
from tailorbird.data.inputs import InputRow, read_inputs
from tailorbird.data.learned import Learned, met
from tailorbird.data.overlap import check_no_overlap
from tailorbird.data.reading import Dataset, detect, read, rejected_record
from tailorbird.data.replay import replay_rows, usable
from tailorbird.data.shapes import Shape
from tailorbird.data.splitting import SplitFacts, manifest, split
from tailorbird.data.text import normalize, shingles

__all__ = [
    "AnswersFile",
    "DataFacts",
    "Dataset",
    "InputRow",
    "Learned",
    "Mixed",
    "Shape",
    "Source",
    "SplitFacts",
    "check_no_overlap",
    "detect",
    "inputs_to_answer",
    "manifest",
    "met",
    "mix",
    "normalize",
    "read",
    "read_answers",
    "read_inputs",
    "rejected_record",
    "replay_rows",
    "shingles",
    "split",
    "take",
    "usable",
]
