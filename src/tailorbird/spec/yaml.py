"""YAML text -> plain values with their lines. Refuses what a spec never needs: tags, alias bombs, endless nesting.

Scalars are read as YAML 1.2 does, dates stay strings, keys are strings. Nothing of the text is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailorbird.errors import SafetyError, SpecError

Position = tuple[str | int, ...]
Lines = Mapping[Position, int]

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
MAX_DEPTH = 32


def too_large(where: str) -> SafetyError:
    return SafetyError("is larger than 1 MiB", where=where, remedy="a spec is a page of YAML; rows go in data files")


def parse(text: str, where: str) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML text, and the 1-based line of every key and list item by its position."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise too_large(where)
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        line = f"{where}:{error.problem_mark.line + 1}" if error.problem_mark else where
        raise SpecError(f"is not YAML: {error.problem or error.context}", where=line) from None
    except YAMLError as error:
        raise SpecError(f"is not YAML: {str(error).splitlines()[0]}", where=where) from None
    except RecursionError:
        raise SafetyError("is nested too deeply", where=where) from None
    if node is None:
        raise SpecError("is empty", where=where, remedy="`tailorbird init DATA` writes a spec")
    reader = _Reader(yaml, where)
    value = reader.value(node, ())
    if not isinstance(value, dict):
        raise SpecError(
            "is not a mapping of fields, as a spec is",
            where=where,
            remedy="its first lines are `base: …` and `data: …`; if it holds rows, `tailorbird init DATA` writes one",
        )
    return value, reader.lines


class _Reader:
    def __init__(self, yaml: Any, where: str) -> None:
        self.yaml, self.where = yaml, where
        self.lines: dict[Position, int] = {}
        self.values = 0

    def value(self, node: Any, position: Position) -> Any:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        self.values += 1
        if self.values > MAX_VALUES:
            raise SafetyError(f"expands to more than {MAX_VALUES:,} values (an alias bomb?)", where=self._at(node))
        if len(position) > MAX_DEPTH:
            raise SafetyError(f"is nested more than {MAX_DEPTH} deep, or contains itself", where=self._at(node))
        tag = str(node.tag)
        if not tag.startswith("tag:yaml.org,2002:") or ":python/" in tag or tag.endswith((":binary", ":set", ":omap")):
            raise SafetyError(
                f"YAML tags are not allowed here ({tag})", where=self._at(node), remedy="write the plain value"
            )
        self.lines.setdefault(position, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return self._mapping(node, position)
        if isinstance(node, SequenceNode):
            return [self.value(child, (*position, n)) for n, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: Any, position: Position) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, child in node.value:
            if not isinstance(key_node.value, str):
                raise SpecError("a field's name must be plain text", where=self._at(key_node))
            name = key_node.value
            if name in values:
                first = self.lines[(*position, name)]
                raise SpecError(f"`{name}` is given twice (first on line {first})", where=self._at(key_node))
            self.lines[(*position, name)] = key_node.start_mark.line + 1
            values[name] = self.value(child, (*position, name))
        return values

    def _scalar(self, node: Any) -> Any:
        kind = str(node.tag).rpartition(":")[2]
        if kind not in {"int", "float", "bool", "null"}:
            return node.value
        try:
            value = self.yaml.constructor.construct_object(node)
        except (ValueError, OverflowError):
            return node.value
        return str(node.value) if isinstance(value, int) and abs(value) > 2**63 else value

    def _at(self, node: Any) -> str:
        return f"{self.where}:{node.start_mark.line + 1}"
