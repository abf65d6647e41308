"""What is done to text for reading and for comparing: repairs that are counted, and a folding that never leaves this
layer.

`clean` changes what a model will see and is therefore small (invisible controls only). `normalize` and the shingles
are for comparing rows only; nothing is trained on their output.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

# C0 and C1 controls except tab, line feed, carriage return; and the bidi embeddings, overrides and isolates that make
# text read otherwise than it is stored (CVE-2021-42574).
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_BREAKS = re.compile("[\x0b\x0c\x85]")  # vertical tab, form feed, next line: they part words, so they become a blank
_INVISIBLE = re.compile("[\\s\u00ad\u180e\u200b-\u200f\u2060-\u2064\ufeff]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Signs of arithmetic say something as words do ("3 + 4" is not "3 * 4"); a hyphen only before a digit ("top-up" is
# "top up"). Signs of money do not: "a $1 charge" and "a £1 charge" must not stand on two sides of a split.
_SIGNS = r"+*/%^<>=|~\u00ac\u00b1\u00d7\u00f7\u2200-\u22ff"
_TOKENS = re.compile(rf"[^\W_]+|[{_SIGNS}]|-(?=\s*\d)")

# Spellings by which common tokenizers write their control tokens. In user's text they are counted here and encoded as
# plain text by the renderer; a spelling missing here is still neutralized there (it knows the base's own list).
_SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id|python_tag|"
    r"system|user|assistant|end|endofprompt|fim_prefix|fim_middle|fim_suffix|pad|padding|unk|bos|eos|startoftext)\|>"
    r"|</?s>|<(?:bos|eos|pad|unk|mask|sep|cls)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|PAD|MASK|UNK)\]"
    r"|\[/?(?:TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
)


def clean(text: str) -> tuple[str, bool]:
    """The text without control characters and bidi overrides, and whether anything was removed."""
    if text.isprintable():
        return text, False
    cleaned = _CONTROLS.sub("", _BREAKS.sub(" ", text))
    return cleaned, cleaned != text


def is_blank(text: str) -> bool:
    """True when nothing visible is left: white space, zero-width characters, soft hyphens."""
    return not _INVISIBLE.sub("", text)


def has_surrogate(text: str) -> bool:
    return _SURROGATE.search(text) is not None


def printable(text: str) -> str:
    """The text with lone surrogates written as escapes, so that it can be put into any UTF-8 file."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def special_tokens(text: str) -> list[str]:
    """The special-token spellings in a text, in order."""
    return _SPECIAL.findall(text) if "<" in text or "[" in text else []


def normalize(text: str) -> str:
    """The folding by which two texts count as the same: NFKC, case folded, words and signs parted by single blanks,
    punctuation dropped. A text of punctuation alone ("?", "...") keeps it, so that such texts are not all one.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded)  # case folding can leave composed characters apart (U+0390)
    return " ".join(_TOKENS.findall(folded)) or " ".join(folded.split())


def shingles(text: str, words: int = 8) -> frozenset[str]:
    """All runs of `words` normalized words; a shorter text is one shingle, a blank one none."""
    tokens = normalize(text).split()
    if not tokens:
        return frozenset()
    return frozenset(" ".join(tokens[i : i + words]) for i in range(max(1, len(tokens) - words + 1)))


def character_shingles(normalized: str, length: int = 5) -> frozenset[str]:
    """All runs of `length` characters of a text that is normalized already."""
    return frozenset(normalized[i : i + length] for i in range(max(1, len(normalized) - length + 1)))


def content_id(turns: Sequence[tuple[str, str, bool]], label: str | None) -> str:
    """20 hex digits of what a row says: (role, content, supervised) of each turn and the label, in Unicode NFC.

    Text is composed for hashing only (NFC and NFD spellings of one text have one id); the row keeps its own spelling.
    """
    composed = [[role, unicodedata.normalize("NFC", content), supervised] for role, content, supervised in turns]
    canonical = json.dumps([composed, label], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:20]


def fold_name(name: str) -> str:
    """A column or label name without case and separators: "Best Answer", "best-answer" and "best_answer" are one."""
    return re.sub(r"[\s\-_.]+", "_", name.strip().casefold()).strip("_")


def suggest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The known name that is nearest to a misspelt one, or None when none is near."""
    import difflib

    folded: Mapping[str, str] = {fold_name(k): k for k in reversed(list(known))}
    near = difflib.get_close_matches(fold_name(name), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None
