"""A tokenizer file opened with `tokenizers` alone, with the two kinds of encoding that conversations need.

`encode` is what a server does with a rendered prompt: control tokens in the text become their ids, nothing is added.
Text that *users* wrote must not be able to do that, so control tokens inside contents are marked before rendering and
encoded as the plain text they are (`encode_marked`).
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tailorbird.errors import ArtifactError

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Private-use characters around a control token inside a content. They never reach the tokenizer.
OPEN, CLOSE = "\U000f0000", "\U000f0001"
_MARKED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")


class Tokens:
    """Text <-> ids. `template` decides which added tokens that are not flagged special act as control tokens."""

    def __init__(self, tokenizer: Tokenizer, named: dict[str, str], template: str) -> None:
        self.tokenizer, self.named = tokenizer, named
        tokenizer.no_padding()
        tokenizer.no_truncation()
        added = tokenizer.get_added_tokens_decoder()
        known = {token.content for token in added.values()}
        # transformers makes the named tokens (bos, eos, ...) special whatever the file says of them.
        missing = [n for n in dict.fromkeys(named.values()) if n not in known and tokenizer.token_to_id(n) is not None]
        if missing:
            tokenizer.add_special_tokens(missing)
            added = tokenizer.get_added_tokens_decoder()
        self.control_ids = {
            i: token.content
            for i, token in added.items()
            if token.special or (token.content in template and not token.content.isspace())
        }
        longest_first = sorted(set(self.control_ids.values()), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._all_added = [token.content for token in added.values()]
        self._prefixed = self._adds_prefix()

    @classmethod
    def from_folder(cls, folder: Path, template: str) -> Tokens:
        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises a bare Exception
            raise ArtifactError(
                f"cannot be read as a tokenizer: {problem}", where=str(path), remedy="fetch or copy the base again"
            ) from None
        return cls(tokenizer, named_tokens(folder), template)

    @property
    def vocabulary(self) -> int:
        """Number of ids, added tokens included (the highest id may be larger where the file has gaps)."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def id_of(self, text: str | None) -> int | None:
        return None if text is None else self.tokenizer.token_to_id(text)

    def common(self, count: int) -> list[int]:
        """The `count` lowest ids of tokens that are text by themselves: no control or added token, no piece of a
        character, no id beyond the tokenizer's own.

        BPE numbers its merges in the order in which it makes them, the most frequent pair first (Sennrich et al. 2016,
        "Neural Machine Translation of Rare Words with Subword Units", §3.2), and unigram vocabularies lie in the order
        of their likelihood: the lowest ids are the most common tokens of what the tokenizer was made from.
        """
        added = self.tokenizer.get_added_tokens_decoder().keys() | self.control_ids.keys()
        found = []
        for i in sorted(set(self.tokenizer.get_vocab(with_added_tokens=False).values()) - added):
            text = self.tokenizer.decode([i], skip_special_tokens=False)
            if "\ufffd" not in text and (text.isprintable() or text.isspace()):
                found.append(i)
                if len(found) == count:
                    break
        return found

    # --- encoding ---

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text, as a server makes them: control tokens recognized, none added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []

    def encode_on(self, text: str) -> list[int]:
        """Ids of a text that continues another one: without the space that SentencePiece-type tokenizers put before
        the first word of a text (a model that goes on writing does not make that token)."""
        if not self._prefixed or not text:
            return self.encode(text)
        for anchor in ("\n", "."):
            alone, both = self.encode(anchor), self.encode(anchor + text)
            if both[: len(alone)] == alone:
                return both[len(alone) :]
        return self.encode(text)

    def encode_marked(self, text: str, *, goes_on: bool = False) -> list[int]:
        """Ids of a text with marks from `mark`: what stands between marks is encoded as plain text. Seams lie only
        around marks; a text without any is encoded in one piece."""
        if OPEN not in text:
            return self.encode_on(text) if goes_on else self.encode(text)
        ids: list[int] = []
        for number, piece in enumerate(_MARKED.split(text)):
            piece = piece.replace(OPEN, "").replace(CLOSE, "")
            if number % 2:
                ids += self._plain(piece)
            else:
                ids += self.encode_on(piece) if goes_on or number else self.encode(piece)
        return ids

    def mark(self, content: str) -> tuple[str, int]:
        """The content with its control tokens marked, and how many there were."""
        if OPEN in content or CLOSE in content:  # a text must not bring its own marks
            content = content.replace(OPEN, "").replace(CLOSE, "")
        if self._control is None:
            return content, 0
        return self._control.subn(lambda found: f"{OPEN}{found[0]}{CLOSE}", content)

    def marking(self) -> dict[str, Any]:
        """What `mark` and `encode_marked` go by, as JSON. `control`: an expression that finds control tokens."""
        control = "(?!)" if self._control is None else self._control.pattern
        ids = sorted(self.control_ids)
        return {"marks": [OPEN, CLOSE], "control": control, "control_ids": ids, "prefixed": self._prefixed}

    def _plain(self, text: str) -> list[int]:
        """Ids that spell `text` without any added token."""
        ids = self._without_added.encode(text, add_special_tokens=False).ids
        if not self.control_ids.keys() & set(ids):
            return ids
        # A vocabulary that holds the control token as an ordinary piece: spell it in single characters.
        return [i for c in text for i in self._without_added.encode(c, add_special_tokens=False).ids]

    @functools.cached_property
    def _without_added(self) -> Tokenizer:
        """The same tokenizer without its added tokens (made when first needed: it costs a second reading)."""
        state = json.loads(self.tokenizer.to_str())
        state["added_tokens"], state["post_processor"] = [], None
        return Tokenizer.from_str(json.dumps(state))

    def _adds_prefix(self) -> bool:
        pieces = self.tokenizer.encode("x", add_special_tokens=False).tokens
        return bool(pieces) and pieces[0].startswith(("▁", "Ġ"))

    # --- decoding ---

    def decode(self, ids: list[int]) -> str:
        """Text of an answer, control tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def pieces(self, ids: list[int]) -> list[str]:
        """One text per id whose concatenation is the whole text, control tokens shown. An id that ends inside a
        character gets an empty text; the id that completes it gets the character."""
        stream = DecodeStream(skip_special_tokens=False)
        return [self.control_ids.get(i) or stream.step(self.tokenizer, i) or "" for i in ids]


def named_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, ... as the folder's tokenizer_config.json (older: special_tokens_map.json) names them."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name, value in tokenizer_settings(folder, file).items():
            text = value.get("content") if isinstance(value, dict) else value
            if name in _NAMES and isinstance(text, str) and text:
                found[name] = text
    return found


def tokenizer_settings(folder: Path, file: str = "tokenizer_config.json") -> dict[str, Any]:
    path = folder / file
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ArtifactError(f"not valid JSON: {problem}", where=str(path)) from None
    if not isinstance(value, dict):
        raise ArtifactError("not a JSON object", where=str(path))
    return value
