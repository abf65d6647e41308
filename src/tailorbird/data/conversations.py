"""A `messages` field to turns: roles known, in order, ending with an assistant's answer that is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tailorbird.data.records import BadRow
from tailorbird.data.text import is_blank, printable, suggest
from tailorbird.types import Role

_KNOWN = tuple(r.value for r in Role)
_MEANT = {"human": "user", "gpt": "assistant", "developer": "system", "bot": "assistant", "model": "assistant"}
# ShareGPT and its kin: {"from": "human", "value": "…"}; who speaks, what is said, and what the speakers are called
_SPEAKER, _SAID = ("from", "speaker"), ("value", "text", "content")
_SPEAKERS = _MEANT | {
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "ai": "assistant",
    "human_user": "user",
}


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    content: str
    supervised: bool


def turns_of(value: Any, field: str, *, answered: bool = True) -> list[Turn]:
    """The turns, or BadRow. `answered`: must end with an assistant turn; else with a user turn (a question)."""
    if not isinstance(value, list):
        raise BadRow(field, "D17", f"is {kind_of(value)}, a list of messages is needed")
    if not value:
        raise BadRow(field, "D21", "the list of messages is empty")
    turns = [_turn(message, f"{field}[{i}]") for i, message in enumerate(value)]
    if not answered:
        while turns and turns[-1].role is Role.ASSISTANT:  # the answer that is to be given anew
            turns.pop()
    _check_order(turns, field, answered)
    return turns


def _turn(message: Any, field: str) -> Turn:
    if not isinstance(message, dict):
        raise BadRow(field, "D17", f"is {kind_of(message)}, an object with role and content is needed")
    message, who, said = _renamed(message, field)
    for missing in ("role", "content"):
        if missing not in message and not message.get("tool_calls") and not message.get("function_call"):
            near = suggest(missing, message)
            hint = f"; did you mean that by {printable(near)!r}?" if near else ""
            raise BadRow(field, "D16", f"{missing!r} is missing{hint}")
    role = _role(message.get("role"), f"{field}.{who}")
    if message.get("tool_calls") or message.get("function_call"):
        raise BadRow(field, "D21", "a turn with tool calls; only turns of text are read")
    content = _content(message["content"], f"{field}.{said}")
    if is_blank(content):
        code = "D30" if role is Role.ASSISTANT else "D25"
        raise BadRow(f"{field}.{said}", code, "is empty or holds nothing visible")
    weight = message.get("weight", 1)
    if role is Role.ASSISTANT and (isinstance(weight, bool) or weight not in (0, 1)):
        raise BadRow(f"{field}.weight", "D17", "the weight of a turn is 0 or 1")
    return Turn(role, content, role is Role.ASSISTANT and weight == 1)


def _renamed(message: dict[str, Any], field: str) -> tuple[dict[str, Any], str, str]:
    """A turn of ShareGPT's kind by our names, any other as it is; and what it calls role and content itself."""
    speaker = next((name for name in _SPEAKER if name in message), None)
    said = next((name for name in _SAID if name in message), None)
    if "role" in message or speaker is None:
        return message, "role", "content"
    if said is None:
        raise BadRow(field, "D16", f"{'value' if speaker == 'from' else 'text'!r} is missing")
    who = message[speaker]
    role = _SPEAKERS.get(who.casefold(), who) if isinstance(who, str) else who
    rest = {name: value for name, value in message.items() if name not in (speaker, said)}
    return {**rest, "role": role, "content": message[said]}, speaker, said


def _role(value: Any, field: str) -> Role:
    if not isinstance(value, str):
        raise BadRow(field, "D17", f"is {kind_of(value)}, text is needed")
    if value in _KNOWN:
        return Role(value)
    if value in ("tool", "function", "ipython", "function_call", "observation"):
        raise BadRow(field, "D19", f"{value!r}: turns of tools are not read")
    meant = _MEANT.get(value.casefold()) or suggest(value, _KNOWN, 0.6)
    hint = f"; did you mean {meant!r}?" if meant else f"; roles are {', '.join(_KNOWN)}"
    raise BadRow(field, "D19", f"unknown role {printable(value[:40])!r}{hint}")


def _content(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow(field, "D21", "is null")
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        return "".join(part["text"] for part in value)  # OpenAI's content parts
    if isinstance(value, list) and any(isinstance(p, dict) and p.get("type") not in (None, "text") for p in value):
        raise BadRow(field, "D17", "has parts that are not text; only text is read")
    raise BadRow(field, "D17", f"is {kind_of(value)}, text is needed")


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _check_order(turns: Sequence[Turn], field: str, answered: bool) -> None:
    start = 1 if turns and turns[0].role is Role.SYSTEM else 0
    for i, turn in enumerate(turns[start:], start):
        expected = Role.USER if (i - start) % 2 == 0 else Role.ASSISTANT
        if turn.role is expected:
            continue
        where = f"{field}[{i}]"
        if turn.role is Role.SYSTEM:
            raise BadRow(where, "D19", "a system turn that is not the first")
        if turn.role is Role.ASSISTANT and i > start:
            raise BadRow(where, "D22", "two assistant turns in a row; make them one")
        raise BadRow(where, "D19", f"{turn.role.value} where {expected.value} must stand")
    if len(turns) == start:
        raise BadRow(field, "D19", "no user turn")
    if answered and turns[-1].role is not Role.ASSISTANT:
        raise BadRow(field, "D19", "ends with a user turn: there is no answer to learn")
    if answered and not turns[-1].supervised:
        raise BadRow(field, "D19", "the last answer has weight 0: nothing to learn or to measure at the end")


def kind_of(value: Any) -> str:
    """A JSON value's kind in words, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")
