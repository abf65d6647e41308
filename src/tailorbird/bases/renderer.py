"""Messages -> token ids: the single truth for training, scoring, few-shot prompts, `apply`, `chat` and `serve`.

A prompt is rendered with the base's chat template and tokenized in one piece, as servers do it; nothing is added, so a
beginning token is there when the template writes one and never twice. An answer is tokenized apart, and so is the end
token that the template writes after an assistant's turn (which need not be the tokenizer's `eos_token`): that seam is
the only one, it is the same in training and in use, and it holds token for token that

    row(messages).ids == prompt(messages[:-1]) + answer(messages[-1].content)

What a user wrote cannot become a control token: `<|im_end|>` inside a content is encoded as the ten characters it is,
with seams around such places only, and counted. Supervision is by span, never by token id.
Loads with `tokenizers` and `jinja2`, without torch or transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tailorbird.bases.template import DEFAULT_TEMPLATE, ChatTemplate, RenderError, template_hash
from tailorbird.bases.tokens import Tokens, tokenizer_settings
from tailorbird.errors import ArtifactError
from tailorbird.types import Message, Role

__all__ = ["RenderError", "Rendered", "Renderer"]

_PROBE = "qzq"  # a content that occurs in no template


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as ids, with one flag per id: whether its prediction is trained. `neutralized`: control tokens
    that stood in contents and were encoded as text."""

    ids: list[int]
    supervised: list[bool]
    neutralized: int = 0


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the template writes around an assistant's content after the generation prompt: `before` and `after` belong
    to the answer, then comes the end token. `strips`: which ends of a content the template trims."""

    before: str
    after: str
    end: str
    strips: tuple[bool, bool]

    def written(self, content: str) -> str:
        if self.strips[0]:
            content = content.lstrip()
        return content.rstrip() if self.strips[1] else content


class Renderer:
    """Renders for one base. Not for several threads at once."""

    def __init__(self, tokens: Tokens, template: str, *, extra_ends: Sequence[int] = (), where: str | None = None):
        self.tokens, self.template, self.where = tokens, template, where
        self._extra_end = tokens.tokenizer.id_to_token(extra_ends[0]) if extra_ends else None
        self._chat = ChatTemplate(template, where=where)
        self.template_hash = template_hash(template)
        self.vocabulary = tokens.vocabulary
        self.bos_id = tokens.id_of(tokens.named.get("bos_token"))
        self._system: Literal["native", "merged", "dropped"] = self._probe_system()
        self._turn = self._probe_turn()
        end = tokens.id_of(self._turn.end)
        if end is None:
            raise ArtifactError(
                f"the end token {self._turn.end!r} is not in the tokenizer's vocabulary",
                where=where,
                remedy="the tokenizer and the chat template do not belong together: copy both from the same model",
            )
        self.end_ids: list[int] = list(dict.fromkeys([end, *self._eos(), *extra_ends]))
        self._check_beginning()

    @classmethod
    def from_folder(cls, folder: str | Path) -> Renderer:
        """The renderer of a base (or of a customization folder that holds its tokenizer and template)."""
        folder = Path(folder)
        template = read_template(folder)
        tokens = Tokens.from_folder(folder, template or DEFAULT_TEMPLATE)
        _check_vocabulary(folder, tokens)
        ends = _generation_ends(folder)
        return cls(tokens, template or DEFAULT_TEMPLATE, extra_ends=ends, where=str(folder))

    # --- what is said about the template ---

    @property
    def default_template(self) -> bool:
        """Whether the base had no template of its own."""
        return self.template == DEFAULT_TEMPLATE

    @property
    def system_merged(self) -> bool:
        """Whether the template refuses system messages, so that their text is put before the first user turn."""
        return self._system == "merged"

    @property
    def uses_date(self) -> bool:
        """Whether the template writes today's date; it gets a fixed one (template.FIXED_DATE)."""
        return self._chat.uses_date

    @property
    def notes(self) -> list[str]:
        """Sentences a user should read once."""
        said = []
        if self.default_template:
            said.append("the base has no chat template: a plain 'User: … / Assistant: …' one is used")
        if self.system_merged:
            said.append("the chat template has no system role: the system text is put before the first user message")
        if not self._goes_on:
            said.append(
                "the chat template's generation prompt is not how it begins an answer: "
                "only the last answer of a conversation can be supervised"
            )
        if self.uses_date:
            said.append("the chat template asks for today's date: it gets the fixed date 26 July 2024")
        return said

    # --- the three renderings ---

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the assistant's answer starts, as a server makes them."""
        marked, _ = self._mark(messages)
        return self.tokens.encode_marked(self._text(marked, generation=True))

    def around(self, conversation: Callable[[Message], Sequence[Message]]) -> dict[str, Any]:
        """What another program needs to make the ids of `prompt` around a last user's text, as JSON: what is written
        before and after it, with marks; which of its ends are stripped; which of it is marked, and with what."""
        marked, _ = self._mark(conversation(Message(Role.USER, f" \n{_PROBE} \n")))
        before, _, after = self._text(marked, generation=True).rpartition(_PROBE)
        left, right = not before.endswith(" \n"), not after.startswith(" \n")
        return {
            "before": before.removesuffix(" \n"),
            "after": after.removeprefix(" \n"),
            "strips": [left, right],
            **self.tokens.marking(),
        }

    def answer(self, text: str) -> list[int]:
        """Ids of an answer and of the end token, to stand behind a prompt."""
        marked, _ = self.tokens.mark(text)
        return self._answer(marked)

    def plain(self, text: str) -> list[int]:
        """Ids of a text by itself, outside any conversation; control tokens in it are encoded as text."""
        marked, _ = self.tokens.mark(text)
        return self.tokens.encode_marked(marked)

    def row(self, messages: Sequence[Message], supervised: Sequence[bool]) -> Rendered:
        """The whole conversation; supervised are the answers, with their end tokens, of the turns that are flagged."""
        if len(messages) != len(supervised):
            raise ValueError(f"{len(messages)} messages, {len(supervised)} flags")
        marked, neutralized = self._mark(messages)
        if not self._goes_on and any(supervised):
            return self._last_only(marked, supervised, neutralized)
        full = self._text(marked, generation=False)
        shift = len(messages) - len(marked)  # a merged system message is gone from the front
        ids: list[int] = []
        flags: list[bool] = []
        at = 0
        for index in [i for i, flag in enumerate(supervised) if flag]:
            if messages[index].role is not Role.ASSISTANT:
                raise ValueError(f"message {index + 1} is not the assistant's, it cannot be supervised")
            head = self._text(marked[: index - shift], generation=True)
            answer = self._check_turn(full, head, marked[index - shift].content, index)
            context = self._between(full[at : len(head)], first=at == 0)
            target = self._answer(marked[index - shift].content)
            ids += context + target
            flags += [False] * len(context) + [True] * len(target)
            at = len(head) + len(answer)
        if not (supervised and supervised[-1]):
            rest = self._between(full[at:], first=at == 0)
            ids += rest
            flags += [False] * len(rest)
        return Rendered(ids, flags, neutralized)

    def text(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """The conversation as the template writes it, for people to read."""
        return self._text(list(messages), generation=generation)

    def decode(self, ids: list[int]) -> str:
        """Text of ids, control tokens left out."""
        return self.tokens.decode(ids)

    def token_text(self, ids: list[int]) -> list[str]:
        """One text per id (control tokens shown) whose concatenation is the whole text."""
        return self.tokens.pieces(ids)

    def neutralized(self, text: str) -> int:
        """How many control tokens a content holds: encoded as text, and worth counting."""
        return self.tokens.mark(text)[1]

    # --- pieces ---

    def _mark(self, messages: Sequence[Message]) -> tuple[list[Message], int]:
        """Messages as the template gets them: control tokens marked, a system text merged where that is the way."""
        total = 0
        marked: list[Message] = []
        for message in messages:
            content, count = self.tokens.mark(message.content)
            total += count
            marked.append(Message(message.role, content) if count or content != message.content else message)
        return self._merge_system(marked), total

    def _merge_system(self, messages: list[Message]) -> list[Message]:
        if not messages or messages[0].role is not Role.SYSTEM or self._system == "native":
            return messages
        if self._system == "dropped":
            raise RenderError(
                "the chat template drops system messages without a word",
                where=self.where,
                remedy="put the instruction into the user's message, or repair the template",
            )
        if len(messages) < 2 or messages[1].role is not Role.USER:
            raise RenderError("this chat template needs a user message behind a system message", where=self.where)
        return [Message(Role.USER, f"{messages[0].content}\n\n{messages[1].content}"), *messages[2:]]

    def _text(self, messages: Sequence[Message], *, generation: bool) -> str:
        """Render, and see that every content is there, in order, unchanged but for trimmed ends."""
        text = self._render(messages, generation=generation)
        at = 0
        for number, message in enumerate(messages, 1):
            content = message.content.strip()
            found = text.find(content, at)
            if found < 0:
                raise RenderError(
                    f"the chat template drops or rewrites message {number} ({message.role.value}): {_short(content)}",
                    where=self.where,
                    remedy="leave that message (or that part of it) out of the row, or use another template",
                )
            at = found + len(content)
        return text

    def _render(self, messages: Sequence[Message], *, generation: bool) -> str:
        return self._chat.render([m.as_dict() for m in messages], generation=generation, tokens=self.tokens.named)

    def _answer(self, marked: str) -> list[int]:
        text = f"{self._turn.before}{self._turn.written(marked)}{self._turn.after}"
        return [*self.tokens.encode_marked(text, goes_on=True), self.end_ids[0]]

    def _last_only(self, marked: list[Message], supervised: Sequence[bool], neutralized: int) -> Rendered:
        """A row for a template whose answers do not begin as its generation prompt does: what is served is trained."""
        if any(supervised[:-1]) or marked[-1].role is not Role.ASSISTANT:
            raise RenderError(
                "the chat template writes earlier answers differently from how they are generated",
                where=self.where,
                remedy="supervise the last answer only, or use another template",
            )
        context = self.tokens.encode_marked(self._text(marked[:-1], generation=True))
        target = self._answer(marked[-1].content)
        return Rendered(context + target, [False] * len(context) + [True] * len(target), neutralized)

    def _between(self, text: str, *, first: bool) -> list[int]:
        """Ids of what stands between a supervised answer and the next; read behind the end token, as it will stand."""
        if first:
            return self.tokens.encode_marked(text)
        return self.tokens.encode_marked(self._turn.end + text)[1:]

    def _check_turn(self, full: str, head: str, content: str, index: int) -> str:
        """The text of one supervised turn, its end included: what generation will be asked to write, or an error."""
        answer = f"{self._turn.before}{self._turn.written(content)}{self._turn.after}{self._turn.end}"
        if not full.startswith(head):
            raise RenderError(
                f"the chat template rewrites the turns before message {index + 1} when later ones follow",
                where=self.where,
                remedy="supervise the last answer only, or use a template that leaves earlier turns as they were",
            )
        # An end token taken from the tokenizer, not from the template, does not stand in the text.
        if not full.startswith(answer if self._end_written else answer.removesuffix(self._turn.end), len(head)):
            raise RenderError(
                f"the chat template writes the answer in message {index + 1} differently from how it will be generated",
                where=self.where,
                remedy="supervise the last answer only, or remove markup (such as reasoning tags) from the answer",
            )
        return answer if self._end_written else answer.removesuffix(self._turn.end)

    # --- what the template does, found by trying it ---

    def _probe_system(self) -> Literal["native", "merged", "dropped"]:
        user = Message(Role.USER, _PROBE)
        self._text([user], generation=True)
        try:
            text = self._render([Message(Role.SYSTEM, "s" + _PROBE), user], generation=True)
        except RenderError:
            return "merged"
        return "native" if "s" + _PROBE in text else "dropped"

    def _probe_turn(self) -> _Turn:
        user = Message(Role.USER, _PROBE)
        head = self._text([user], generation=True)
        full = self._text([user, Message(Role.ASSISTANT, f" \n{_PROBE} \n")], generation=False)
        self._goes_on = full.startswith(head)
        opening, _, behind = full.rpartition(_PROBE)
        strips = (not opening.endswith(" \n"), not behind.startswith(" \n"))
        before = opening.removesuffix(" \n")[len(head) :] if self._goes_on else ""
        behind = behind.removeprefix(" \n")
        after, end = self._first_control(behind)
        self._end_written = end is not None
        if end is None:
            after, end = "", self.tokens.named.get("eos_token") or self._extra_end
        if end is None:
            raise RenderError(
                "neither the chat template nor the tokenizer has a token that ends an answer",
                where=self.where,
                remedy="set eos_token in tokenizer_config.json",
            )
        return _Turn(before, after, end, strips)

    def _first_control(self, text: str) -> tuple[str, str | None]:
        """What stands before the first control token of a text, and that token."""
        marked, count = self.tokens.mark(text)
        if not count:
            return text, None
        head, _, rest = marked.partition("\U000f0000")
        return head, rest.partition("\U000f0001")[0]

    def _eos(self) -> list[int]:
        eos = self.tokens.id_of(self.tokens.named.get("eos_token"))
        return [] if eos is None else [eos]

    def _check_beginning(self) -> None:
        ids = self.prompt([Message(Role.USER, _PROBE)])
        if self.bos_id is not None and ids[:2] == [self.bos_id, self.bos_id]:
            raise RenderError(
                "the chat template writes the beginning token twice",
                where=self.where,
                remedy="remove one of them from the template",
            )


def read_template(folder: Path) -> str | None:
    """The folder's chat template: its own file first, as in transformers, then tokenizer_config.json; else None."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise ArtifactError("not UTF-8 text", where=str(file)) from None
    template = tokenizer_settings(folder).get("chat_template")
    if isinstance(template, list):  # several by name; servers take the one called default
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None


def _generation_ends(folder: Path) -> list[int]:
    """End tokens that generation_config.json names besides."""
    value = tokenizer_settings(folder, "generation_config.json").get("eos_token_id")
    listed = value if isinstance(value, list) else [value]
    return [i for i in listed if isinstance(i, int) and not isinstance(i, bool)]


def _check_vocabulary(folder: Path, tokens: Tokens) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return
    highest = max(tokens.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if isinstance(size, int) and highest >= size:
        raise ArtifactError(
            f"the tokenizer has ids up to {highest}, the model has embeddings for {size} tokens",
            where=str(folder),
            remedy="the tokenizer is another model's or the embeddings were not resized: copy both from one model",
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "…")
