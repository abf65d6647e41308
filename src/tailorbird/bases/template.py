"""Chat templates: compiled in a sandbox with the same names transformers gives them, and with bounded work.

A template comes from whoever made the model: it is untrusted code. jinja2's sandbox stops it from reaching Python, but
not from running for ever or filling the memory (nested loops, doubling strings, `center(3000000000)`, `10 ** 10**8`).
So every loop turn, macro call and string operation here costs fuel, every string has a largest size, and what can
allocate without bound in one step (`**`, padding methods, formatting widths) is refused. Messages are data: they are
never compiled.

What differs from transformers, on purpose: `strftime_now` answers from `FIXED_DATE`, because a prompt that changes at
midnight cannot be measured, cached or resumed; rare filters that chat templates do not use are absent.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tailorbird.errors import DataError, SafetyError

FIXED_DATE = datetime.datetime(2024, 7, 26)  # the date Llama 3's own template falls back to

DEFAULT_TEMPLATE = """\
{%- if bos_token is defined and bos_token %}{{ bos_token }}{% endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' -%}
{{ 'User: ' + message['content'] + '\\n' }}
{%- else -%}
{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
"""For bases without a template: beginning token if there is one, the system text, then `User: …` and `Assistant: …`
lines; an answer ends with the base's end token. The space before an answer belongs to the answer."""

_TEMPLATE_BYTES = 64 * 1024
_STRING_CHARS = 1_000_000  # plus 16 for each character of the conversation
_FUEL = 500_000
_CPU_SECONDS = 2.0
_CLOCK_EVERY = 4096
_RANGE = 10_000
_INTEGER_BITS = 256
# What a template's own mistakes raise while it runs.
_MISTAKES = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError, MemoryError)

_FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float forceescape groupby indent int items join last "
    "length list lower map max min reject rejectattr replace reverse safe select selectattr sort string striptags "
    "title tojson trim truncate unique upper wordcount".split()
)
_BANNED_METHODS = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"})


class RenderError(DataError):
    """The template cannot write this conversation as it stands."""


def template_hash(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


class ChatTemplate:
    """One compiled template. `render` gives the text that a server would tokenize. Not for several threads at once."""

    def __init__(self, text: str, *, where: str | None = None) -> None:
        self.text, self.where = text, where
        if len(text.encode("utf-8", "surrogatepass")) > _TEMPLATE_BYTES:
            raise self._unsafe(f"it is larger than {_TEMPLATE_BYTES // 1024} KB")
        self._environment = _Environment()
        try:
            self._compiled = self._environment.from_string(text)
        except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as problem:
            raise RenderError(
                f"the chat template cannot be compiled: {problem}",
                where=where,
                remedy="repair the template, or give the base another one",
            ) from None

    @property
    def uses_date(self) -> bool:
        """Whether it asks for today's date (and gets FIXED_DATE)."""
        return "strftime_now" in self.text

    def render(self, messages: Sequence[Mapping[str, str]], *, generation: bool, tokens: Mapping[str, str]) -> str:
        """The conversation as text; with `generation`, up to where the assistant's answer starts."""
        size = sum(len(m["content"]) for m in messages)
        environment = self._environment
        environment.refuel(_STRING_CHARS + 16 * size, _FUEL + size)
        pieces: list[str] = []
        left = environment.largest
        try:
            for piece in self._compiled.generate(
                messages=[dict(m) for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=generation,
                **tokens,
            ):
                left -= len(piece)
                if left < 0:
                    raise SafetyError(f"its output is larger than {environment.largest} characters")
                pieces.append(piece)
        except SafetyError as refused:
            raise self._unsafe(refused.what) from None
        except SecurityError as refused:
            raise self._unsafe(str(refused.message)) from None
        except TemplateError as refused:
            said = f"the chat template refuses this conversation: {refused.message}"
            raise RenderError(said, where=self.where) from None
        except _MISTAKES as problem:
            raise RenderError(
                f"the chat template fails on this conversation: {type(problem).__name__}: {problem}", where=self.where
            ) from None
        return "".join(pieces)

    def _unsafe(self, why: str) -> SafetyError:
        return SafetyError(
            f"the chat template was refused: {why}",
            where=self.where,
            remedy="use the base's own template; a chat template needs none of this",
        )


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's text for transformers; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment (trim_blocks, lstrip_blocks, loop controls, its globals) with a meter on it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Folding constants would run a template's arithmetic before any limit holds.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols])
        self.refuel(_STRING_CHARS, _FUEL)
        ours = {"replace": self._replace_filter, "join": self._join_filter, "indent": self._indent_filter}
        ours["tojson"] = _tojson
        self.filters = {name: self._metered(self.filters[name]) for name in _FILTERS - ours.keys()} | ours
        namespace, dictionary = self.globals["namespace"], self.globals["dict"]
        self.globals.clear()
        self.globals |= {
            "namespace": namespace, "dict": dictionary, "range": self._range,
            "raise_exception": _raise_exception, "strftime_now": FIXED_DATE.strftime,
        }  # fmt: skip

    # --- the meter ---

    def refuel(self, largest: int, fuel: int) -> None:
        self.largest, self.fuel = largest, fuel
        self._clock_at, self._deadline = fuel - _CLOCK_EVERY, time.thread_time() + _CPU_SECONDS

    def tick(self, cost: int = 1) -> str:
        """Spend fuel; the thread's own processor time is looked at now and then, for steps that are not metered."""
        self.fuel -= cost
        if self.fuel < 0:
            raise SafetyError("it does far more work than writing a conversation takes")
        if self.fuel < self._clock_at:
            self._clock_at = self.fuel - _CLOCK_EVERY
            if time.thread_time() > self._deadline:
                raise SafetyError(f"it ran for more than {_CPU_SECONDS:g} seconds")
        return ""

    def size(self, characters: int) -> None:
        """A string or list of this size is about to be made."""
        if characters > self.largest:
            raise SafetyError(f"it makes a string or list of more than {self.largest} elements")
        self.tick(1 + characters // 64)

    def tilde(self, *parts: Any) -> str:
        """`a ~ b`."""
        texts = [str(part) for part in parts]
        self.size(sum(map(len, texts)))
        return "".join(texts)

    # --- compilation: put the meter where jinja2 has no hook ---

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        bodies: list[nodes.For | nodes.Macro | nodes.CallBlock] = [
            *tree.find_all(nodes.For), *tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)
        ]  # fmt: skip
        for node in bodies:
            node.body.insert(0, nodes.ExprStmt(_meter("tick", []), lineno=node.lineno))
        _replace_concat(tree)
        return tree

    # --- run time: what jinja2's sandbox lets us intercept ---

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SafetyError("it uses the power operator")
        if operator == "+":
            if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
                self.size(len(left) + len(right))
        elif operator == "*":
            self._check_product(left, right)
        elif isinstance(left, str):
            if re.search(r"%[^a-zA-Z%]*(\d{4}|\*)", left):
                raise SafetyError("it formats with a very large or variable width")
            self.size(len(left) + 1000 * left.count("%") + (len(right) if isinstance(right, str) else 0))
        return super().call_binop(context, operator, left, right)

    def _check_product(self, left: Any, right: Any) -> None:
        for thing, times in ((left, right), (right, left)):
            if isinstance(thing, str | list | tuple) and isinstance(times, int):
                self.size(len(thing) * max(0, times))
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _INTEGER_BITS:
            raise SafetyError("it computes with huge numbers")

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self._allowed(obj, super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._allowed(obj, super().getitem(obj, argument))

    @staticmethod
    def _allowed(obj: Any, value: Any) -> Any:
        if isinstance(obj, str) and getattr(value, "__name__", None) in _BANNED_METHODS:
            raise SafetyError(f"it uses the string method {value.__name__}")
        return value

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            name = obj.__name__
            if name == "replace" and len(args) >= 2:
                self._check_replace(owner, args[0], args[1])
            elif name == "join" and args:
                args = (self._check_join(owner, args[0]), *args[1:])
            else:
                self.tick(1 + len(owner) // 64)
        return super().call(context, obj, *args, **kwargs)

    def _check_replace(self, text: str, old: Any, new: Any) -> None:
        found = text.count(old) if isinstance(old, str) else 0
        self.size(len(text) + found * len(str(new)))

    def _check_join(self, separator: str, parts: Iterable[Any]) -> list[Any]:
        listed = list(parts)
        self.size(sum(len(str(p)) for p in listed) + len(separator) * len(listed))
        return listed

    def _range(self, *arguments: int) -> range:
        numbers = range(*arguments)
        if len(numbers) > _RANGE:
            raise SafetyError(f"it counts further than {_RANGE}")
        return numbers

    # --- filters ---

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # keeps jinja2's mark that a filter wants its context
        def metered(*args: Any, **kwargs: Any) -> Any:
            self.tick(1 + sum(len(a) // 64 for a in args if isinstance(a, str)))
            return function(*args, **kwargs)

        return metered

    def _replace_filter(self, text: Any, old: str, new: str, count: int | None = None) -> str:
        self._check_replace(str(text), old, new)
        return str(text).replace(str(old), str(new), -1 if count is None else count)

    def _join_filter(self, parts: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            parts = [self.getitem(part, attribute) for part in parts]
        return str(d).join(str(part) for part in self._check_join(str(d), parts))

    def _indent_filter(self, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        from jinja2.filters import do_indent

        unit = len(width) if isinstance(width, str) else abs(width)
        self.size(len(s) + unit * (s.count("\n") + 1))
        return do_indent(s, width, first, blank)


def _meter(method: str, arguments: list[nodes.Expr]) -> nodes.Call:
    """A call of the environment's own method. Not by a name: a template could give the name another meaning."""
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)


def _replace_concat(node: nodes.Node) -> None:
    """Turn every `a ~ b` below `node` into a metered call."""
    for field, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, field, [_metered_concat(item) for item in value])
        else:
            setattr(node, field, _metered_concat(value))


def _metered_concat(item: Any) -> Any:
    if not isinstance(item, nodes.Node):
        return item
    _replace_concat(item)
    return _meter("tilde", item.nodes).set_lineno(item.lineno) if isinstance(item, nodes.Concat) else item


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    """transformers' filter: jinja2's own would escape HTML characters."""
    if isinstance(indent, int) and indent > 100:
        raise SafetyError("it indents by more than 100")
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
