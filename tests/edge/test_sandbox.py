"""A chat template ends, in bounds, and reaches nothing but what it was given."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amalia_edge.allowance import SECONDS
from amalia_edge.errors import ModelUnsupported, UsageError
from amalia_edge.template import LONGEST, compile_template, render

STATM = Path("/proc/self/statm")
HELD = "{% set n = namespace(s=START) %}{% for i in range(64) %}{% set n.s = STEP %}{% endfor %}{{ n.s }}"


@pytest.fixture
def memory() -> Iterator[None]:
    """Let this process have half a gigabyte more than it has: who wants more gets a MemoryError."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(STATM.read_text().split()[0]) * resource.getpagesize() if STATM.exists() else 0
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def output(template: str, **variables: Any) -> str:
    return render(template, {"messages": [{"role": "user", "content": "olá"}], **variables})


def grown(step: str, start: str = "'a'") -> str:
    return HELD.replace("START", start).replace("STEP", step)


@pytest.mark.parametrize("template", [
    "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for i in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(64) }}",
    "{% macro m(n) %}{{ m(n - 1, varargs, varargs) if n else varargs }}{% endmacro %}{{ m(64) }}",
    "{{ range(99999) | select('in', range(99999) | list) | list }}",
    "{{ range(99999) | map('center', 99999) | list }}",
    "{% for i in range(99999) %}{% if range(99999) | list == range(99999) | list %}{% endif %}{% endfor %}",
    "{{ ('a' * 300000).rfind('ab' + 'a' * 150000) }}",
    "{{ ('9' * 400000) | int }}",
    "{{ dict(range(70000) | batch(2)) }}",
    "{{ range(0, 30000 * PRIME, PRIME) | unique | list }}".replace("PRIME", str(2**61 - 1)),  # all of one hash
    "{{ ([[1]] * 30000) | sum(start=[]) }}",
    "{% macro m(n) %}{{ m(n - 1, varargs, varargs) if n else {varargs: 1} }}{% endmacro %}{{ m(64) }}",
    HELD.replace("START", "1").replace("STEP", "(n.s, n.s)").replace("{{ n.s }}", "{{ {n.s: 1} }}"),
    *(f"{{% set n = namespace(s=1, t=1) %}}{{% for i in range(64) %}}{{% set n.s = {pair.replace('x', 'n.s')} %}}"
      f"{{% set n.t = {pair.replace('x', 'n.t')} %}}{{% endfor %}}{{{{ n.s == n.t }}}}"
      for pair in ("[x, x]", "(x, x)", "{'a': x, 'b': x}")),
])  # fmt: skip
def test_a_template_that_works_for_ever_is_stopped(template: str) -> None:
    started = time.thread_time()
    with pytest.raises(ModelUnsupported, match=r"too many steps|too much text|seconds|too deep|too big"):
        output(template)
    assert time.thread_time() - started < 3 * SECONDS


@pytest.mark.parametrize("template", [
    "{{ 'a' * 10**10 }}", "{{ 10**10 * 'a' }}", "{{ ['a'] * 10**10 }}", "{{ 2 ** (10**10) }}",
    "{{ '%1000000000d' % 1 }}", "{{ '%.1000000000f' % 1 }}", "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%(a(b)c)1000000000d' % {'a(b)c': 1} }}", "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}", "{{ '{:{}}'.format(1, 1000000000) }}", "{{ '{a:{b}}'.format_map({'b': 10**9}) }}",
    "{{ 'a' | center(10**10) }}", "{{ 'a'.center(10**10) }}", "{{ 'a'.zfill(10**10) }}", "{{ 'a'.ljust(10**10) }}",
    "{{ 'a\n' | indent(10**10, true) }}", "{{ ('a\n' * 1000) | indent(10**6) }}", "{{ 'a\n' | indent('b' * 1000000) }}",
    "{{ [1] | batch(10**10, 'x') | list }}", "{{ [1] | slice(10**10) | list }}", "{{ 1.5 | round(10**10) }}",
    "{{ [1] | tojson(indent=10**10) }}", "{{ (range(999) | list) | tojson(separators=('a' * 99999, 'b')) }}",
    "{{ ('a' * 99999).replace('a', 'b' * 99999) }}", "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "{{ ('a' * 99999).join('b' * 99999) }}", "{{ (range(99999) | list) | join('b' * 99999) }}",
    "{{ '%s%s%s%s%s%s%s%s' % ((('a' * 500000),) * 8) }}", "{{ ([[1]] * 100000) | sum(start=[]) }}",
    "{{ ('a ' * 500000).split() }}{{ ('a ' * 500000).split() }}",
    grown("n.s ~ n.s"), grown("n.s + n.s"), grown("n.s * 2"), grown("n.s.replace('a', 'aa')"), grown("[n.s, n.s] | join(n.s)"),
    grown("'%s%s' % (n.s, n.s)"), grown("'{0}{0}'.format(n.s)"), grown("[n.s, n.s] | string"), grown("n.s | escape + n.s"),
    grown("n.s + n.s", "['a']"), grown("[n.s, n.s]"), grown("(n.s, n.s)"), grown("{'a': n.s, 'b': n.s}"),
    grown("[n.s, n.s] | tojson"), grown("[n.s, n.s] | list"), grown("n.s * n.s", "2"), grown("n.s ** 3", "2"),
    "{% set n = namespace(s='a') %}{% for i in range(64) %}{% set x %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = x %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "a" * 20000 + "{% endfor %}{% endset %}",
    "{% set x = range(99999) | list %}{{ [" + "x[1:], " * 5000 + "] }}",
    "{{ ('{0}' * 9000).format('a' * 99999) }}", "{{ ('%(a)s' * 9000) % {'a': 'a' * 99999} }}",
    "{{ range(99999) | map('string') | join('b' * 99999) }}",
])  # fmt: skip
def test_a_template_that_would_fill_the_memory_is_refused(memory: None, template: str) -> None:
    with pytest.raises(
        ModelUnsupported, match=r"too much text|too many steps|formats with|reckons|marks"
    ):  # no MemoryError
        output(template)


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__ }}", "{{ messages.__class__.__base__.__subclasses__() }}", "{{ ().__class__.x }}",
    "{{ (''|attr('__class__')).mro() }}", "{{ (['']|map(attribute='__class__')|first).x }}",
    "{{ messages|map(attribute='__class__.__mro__')|list }}", "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}", "{{ ('{0.__class__.__mro__}'|attr('format'))(1) }}",
    "{% set f = ''.format %}{{ f.__globals__.x }}", "{{ raise_exception.__globals__.x }}", "{{ namespace.__init__.x }}",
    "{{ cycler.__init__.__globals__.os }}", "{{ lipsum.__globals__.x }}", "{{ self.__init__.x }}", "{{ self._context.x }}",
    "{{ joiner('x')._ }}", "{{ range.__class__.x }}", "{{ dict.fromkeys('ab').x }}", "{{ (1).bit_length() }}",
    "{{ (messages | map(attribute='role')).gi_frame.f_builtins }}", "{{ namespace(a=1)._Namespace__attrs.x }}",
    "{% block a %}{% endblock %}", "{{ loop.__class__.x }}", "{% for x in [1] %}{{ loop._iterator.x }}{% endfor %}", "{{ messages.append(1) }}",
    "{{ messages[0].update({}) }}", "{{ messages[0].pop('role') }}", "{% set m = messages[0].clear %}{{ m() }}",
    "{{ 'a'.encode() }}", "{{ 'a'.translate({}) }}", "{{ 'a'.maketrans({}) }}", "{{ ''.join.__self__.x }}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'os' as os %}", "{% from 'os' import path %}",
    "{% block a %}{{ self.a() }}{% endblock %}", "{{ 'a' | xmlattr }}", "{{ 'a' | pprint }}", "{{ 'www.' | urlize }}",
])  # fmt: skip
def test_a_template_reaches_nothing_but_what_is_listed(template: str) -> None:
    with pytest.raises(ModelUnsupported):
        output(template)


@pytest.mark.parametrize("template", ["{" * LONGEST, "(" * LONGEST, "{{" + "(" * 50000, "{{" + "-" * 50000 + "1}}",
    "{{ " + "not " * 15000 + "x }}", "{% if x %}" * 6000, "{% for x in y %}" * 4000, "{{ x" + "|a" * 30000 + "}}",
    "x" * (LONGEST + 1), "{% set a = 1", "{{ 'a", "{#", "{% raw %}"])  # fmt: skip
def test_a_template_nobody_could_parse_does_not_hold_us_up(template: str) -> None:
    started = time.thread_time()
    with contextlib.suppress(ModelUnsupported):
        compile_template(template)
    assert time.thread_time() - started < 2 * SECONDS


def test_the_limits_hold_in_every_thread_for_itself() -> None:
    found: list[str] = []

    def work() -> None:
        try:
            output("{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}")
        except ModelUnsupported as error:
            found.append(error.found)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert output("{{ messages[0].content }}") == "olá"
    for thread in threads:
        thread.join()
    assert found == ["takes too many steps"] * 2


def test_a_long_conversation_has_room_for_what_templates_do_with_it() -> None:
    text = "palavra " * 20_000
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}] * 20
    template = (
        "{% set rest = messages[1:] %}{% for m in rest %}{% set c = m.content | trim %}"
        "{{ '<a>' + m.role + ('\n' ~ c.split('</a>')[-1].lstrip('\n')) + '</a>' }}{{ rest | length }}{% endfor %}"
    )
    assert len(output(template, messages=messages)) > 39 * 159_999


@pytest.mark.parametrize(("template", "expected"), [
    ("{{ x | tojson }}", '{"z": "<é>&\'", "a": [1, null]}'),
    ("{{ x | tojson(indent=2) }}", json.dumps({"z": "<é>&'", "a": [1, None]}, ensure_ascii=False, indent=2)),
    ("{{ x.a | tojson(separators=(',', ':')) }}", "[1,null]"),
    ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
    ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
    ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "013"),
    ("{% for i in 'ab' %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.nextitem }}{{ loop.cycle(1, 2) }}{% endfor %}",
     "1False2b12True22"),
    ("{% for k, v in x | dictsort %}{{ k }}{% else %}none{% endfor %}", "az"),
    ("{% for i in nothing %}{% else %}none{% endfor %}", "none"),
    ("{% for i in [3, 1, 2] if i > 1 %}{{ loop.index }}:{{ i }} {% endfor %}", "1:3 2:2 "),
    ("{% set n = namespace(a=1) %}{% for i in [1, 2] %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}", "4"),
    ("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m(3, b=4) %}!{% endcall %}", "1234!"),
    ("{{ none }}{{ true }}{{ 1.5 }}{{ nothing }}{{ [1, 'a'] }}{{ (1,) }}", "NoneTrue1.5[1, 'a'](1,)"),
    ("{{ 'a' ~ 1 ~ none }}{{ '%s-%03d' % ('x', 7) }}{{ '{:>4}|{a}'.format('é', a=1) }}", "a1Nonex-007   é|1"),
    ("{{ x.items() | list }}{{ x.get('q', 'd') }}{{ 'z' in x }}{{ x.q is defined }}", "[('z', \"<é>&'\"), ('a', [1, None])]dTrueFalse"),
    ("{{ [1, 2, 3][::-1] }}{{ 'abc'[1:] }}{{ [{'a': 1}, {'a': 2}] | map(attribute='a') | list }}", "[3, 2, 1]bc[1, 2]"),
    ("{{ [{'a': 1}, {'b': 2}] | selectattr('a', 'defined') | list | length }}{{ [3, 1] | sort | join(',') }}", "11,3"),
    ("{{ 'a,b'.split(',') | last | upper }}{{ ' x '.strip() }}{{ 'xay'.replace('a', '-', 1) }}{{ 'a b' | title }}", "Bxx-yA B"),
    ("{{ 10 ** 10 * 1.5 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ -3 + 1 }}", "15000000000.033-2"),
    ("{% if x %}\n  a\n{% endif %}\nb{# c #}\n", "  a\nb"),
    ("{% filter upper %}a{% endfilter %}{% set t %}b{{ 1 }}{% endset %}{{ t }}", "Ab1"),
    ("{{ strftime_now('%%') }}{{ dict(a=1) }}{{ '<b>' | e }}", "%{'a': 1}&lt;b&gt;"),
    ("{% generation %}{{ 1 }}{% endgeneration %}", "1"),
])  # fmt: skip
def test_what_templates_do_gives_what_it_gives_in_transformers(template: str, expected: str) -> None:
    assert output(template, x={"z": "<é>&'", "a": [1, None]}) == expected


def test_a_template_may_refuse_a_conversation_in_its_own_words() -> None:
    with pytest.raises(UsageError, match="only users"):
        output("{{ raise_exception('only users') }}")
