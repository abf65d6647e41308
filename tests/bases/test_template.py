"""Chat templates: transformers' output, and nothing that runs for ever, fills the memory or reaches Python."""

from __future__ import annotations

import time

import pytest

from tailorbird.bases.template import ChatTemplate, RenderError, template_hash
from tailorbird.errors import SafetyError

MESSAGES = [{"role": "user", "content": "hi"}]


def render(text: str, messages: list[dict[str, str]] | None = None, **tokens: str) -> str:
    return ChatTemplate(text).render(messages or MESSAGES, generation=True, tokens=tokens)


LOOP = "{% set ns = namespace(s='aaaa', l=[1], n=99999999999) %}{% for i in range(99) %}"
BOMBS = {
    "power": "{{ 10**100000000 }}",
    "padding method": "{{ 'a'.center(3000000000) }}",
    "padding method by name": "{{ 'a'['cen' ~ 'ter'](3000000000) }}",
    "ljust": "{{ 'a'.ljust(3000000000) }}",
    "zfill": "{{ 'a'.zfill(3000000000) }}",
    "format": "{{ '{:>3000000000}'.format(1) }}",
    "percent": "{{ '%3000000000d' % 3 }}",
    "percent star": "{{ '%*d' % (3000000000, 3) }}",
    "repeated string": "{{ 'a' * 3000000000 }}",
    "repeated list": "{{ [1] * 3000000000 }}",
    "huge integers": LOOP + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "counting": "{% for i in range(100000) %}{% endfor %}",
    "nested loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "doubling by plus": LOOP + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling by tilde": LOOP + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubling a list": LOOP + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "replace method": "{{ ('a' * 60000).replace('a', 'b' * 60000) }}",
    "replace filter": "{{ ('a' * 60000) | replace('a', 'b' * 60000) }}",
    "join method": "{{ ('b' * 60000).join(['a'] * 60000) }}",
    "join filter": "{{ (['a'] * 60000) | join('b' * 60000) }}",
    "indent": "{{ 'a\\na' | indent(3000000000) }}",
    "tojson indent": "{{ [1] | tojson(indent=3000000000) }}",
    "macro calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "output": "{% for i in range(9999) %}{{ 'a' * 900000 }}{% endfor %}",
    "slow steps": "{% set s = 'a' * 900000 %}{% for i in range(9999) %}{% for j in range(20) %}"
    "{% if 'b' in s %}{% endif %}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_template_that_works_without_bound_is_refused_within_seconds(text: str) -> None:
    start = time.process_time()
    with pytest.raises((SafetyError, RenderError)):  # RenderError: the recursion limit, or a filter that is not there
        render(text)
    assert time.process_time() - start < 4


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "attr filter": "{{ '' | attr('__class__') }}",
    "change the messages": "{{ messages.append(1) }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "environment": "{{ self._TemplateReference__context.environment }}",
    "file": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "switch the meter off": "{% set tick = 0 %}{% set environment = 0 %}{{ 'a' * 3000000000 }}",
}


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_template_cannot_reach_python(text: str) -> None:
    try:
        assert render(text) == ""  # an attribute that is not given is undefined, and undefined writes nothing
    except (SafetyError, RenderError):
        pass


def test_a_template_larger_than_64_kb_is_refused() -> None:
    with pytest.raises(SafetyError, match="larger than 64 KB"):
        ChatTemplate("a" * 65537)


@pytest.mark.parametrize(
    "text", ["{% if %}", "{{ " + "(" * 9000 + ")" * 9000 + " }}", "{{ " + "9" * 9000 + " }}", "{% nothing %}"]
)
def test_a_template_that_does_not_compile_is_an_error_a_person_can_read(text: str) -> None:
    with pytest.raises(RenderError, match="cannot be compiled"):
        ChatTemplate(text)


def test_what_a_template_says_through_raise_exception_is_shown() -> None:
    with pytest.raises(RenderError, match="Conversation roles must alternate") as caught:
        render("{{ raise_exception('Conversation roles must alternate') }}")
    assert caught.value.exit_code == 2


def test_a_missing_token_is_an_error_not_an_empty_text() -> None:
    with pytest.raises(RenderError, match="bos_token"):
        render("{{ bos_token + 'x' }}")
    assert render("{{ bos_token + 'x' }}", bos_token="<s>") == "<s>x"


def test_the_date_is_fixed_and_that_is_said() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}")
    assert template.uses_date
    assert template.render(MESSAGES, generation=True, tokens={}) == "26 Jul 2024"


def test_message_texts_are_data_never_template_source() -> None:
    hostile = "{{ 7*7 }}{% raw %}{# x #}"
    assert render("{{ messages[0]['content'] }}", [{"role": "user", "content": hostile}]) == hostile


def test_a_long_conversation_has_the_room_it_needs() -> None:
    messages = [{"role": "user", "content": "x" * 200_000}] * 20
    text = "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content | trim + '\\n' }}{% endfor %}"
    assert len(render(text, messages)) == 20 * (200_000 + len("<user>\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{%- for m in messages %}\n  {{- m.role }}\n{%- endfor %}", "user"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),  # trim_blocks, lstrip_blocks
        ("{% generation %}a{% endgeneration %}", "a"),
        ("{% for m in messages %}{% break %}x{% endfor %}", ""),
        ("{{ {'b': 'é<', 'a': 1} | tojson }}", '{"b": "é<", "a": 1}'),
        ("{{ messages | map(attribute='role') | join(',') }}", "user"),
        ("{{ ' a ' | trim ~ 1 ~ none }}", "a1None"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
        ("{{ 'a%s' % 'b' }}", "ab"),
        ("{{ tools is none }}{{ documents is defined }}{{ add_generation_prompt }}", "TrueTrueTrue"),
    ],
)
def test_the_language_is_that_of_transformers(text: str, expected: str) -> None:
    assert render(text) == expected


def test_equal_templates_have_equal_hashes() -> None:
    assert template_hash("a") == template_hash("a") != template_hash("b")
    assert template_hash("").startswith("sha256:e3b0c442")
