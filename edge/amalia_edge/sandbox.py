"""The sandbox chat templates run in: jinja2's immutable one, in which every operation is metered and named.

Jinja2's own sandbox keeps a template from Python's internals, not from running for ever or filling the memory. So a
template may only use the operators, methods, filters and functions listed here; each asks its `Allowance` before it
does what could take long, and accounts for what it made. What the environment has no hook for (loops, literals, slices,
comparisons, text) is passed through a filter that a pass over the parsed template puts there.
"""

import functools
import json
import operator
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from amalia_edge.allowance import ALLOWANCE, BITS, each, made, refuse, spend
from amalia_edge.errors import UsageError

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.nodes import Node

METHODS: dict[type, tuple[str, ...]] = {
    str: (
        "capitalize", "casefold", "center", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
        "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "ljust", "lower",
        "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition",
        "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill",
    ),
    dict: ("get", "items", "keys", "values"),
    list: ("count", "index"),
    tuple: ("count", "index"),
}  # fmt: skip
FILTERS = (
    "abs", "attr", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort",
    "string", "sum", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
LOOP = (
    "index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "cycle",
    "changed", "depth", "depth0",
)  # fmt: skip
AT_ONCE = ("length", "count", "first", "last", "default", "d")  # however much they are given
WRITING = ("join", "string", "format", "e", "escape", "title", "trim", "truncate", "indent", "center")
PADDING = ("center", "ljust", "rjust", "zfill", "batch", "slice", "round", "truncate")
ALONE = ("Extends", "Block", "Include", "Import", "FromImport")  # a chat template is one file
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "**": operator.pow, "%": operator.mod,
}  # fmt: skip
PLACE = re.compile(r"%(?:\([^()]*\))?[#0\- +]*(?P<width>\*|\d*)(?:\.(?P<precision>\*|\d*))?")
WIDEST, WIDEST_MARK = 999, 16  # characters of a place in a format, and of what stands between JSON's values


@functools.lru_cache(maxsize=1)
def sandbox() -> "Environment":
    """Make the environment, once."""
    from jinja2.filters import FILTERS as THEIRS
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.tests import TESTS
    from jinja2.utils import Namespace

    class Sandbox(_Metered, ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(OPERATORS)

    class Notes(Namespace):
        """A namespace that does not write out what it holds: it may hold itself."""

        def __repr__(self) -> str:
            return "<namespace>"

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, optimized=False, finalize=_writer(),
        extensions=["jinja2.ext.loopcontrols", _generation()],  # some templates on the Hub break out of a loop
    )  # fmt: skip
    environment.filters = {name: _metered(name, THEIRS[name]) for name in FILTERS}
    environment.filters |= {"tojson": _to_json, " each": each, " made": made, " joined": _joined}
    environment.tests = {name: _stepping(test) for name, test in TESTS.items()}
    environment.globals = {
        "range": environment.globals["range"], "namespace": Notes, "dict": _dict, "raise_exception": _raise,
        "strftime_now": _now,
    }  # fmt: skip
    return environment


def meter(node: "Node") -> "Node":
    """Put the meter into a parsed template, wherever the environment would not be asked."""
    from jinja2 import nodes

    for field, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [meter(part) if isinstance(part, nodes.Node) else part for part in value]
        elif isinstance(value, nodes.Node):
            setattr(node, field, meter(value))

    def through(name: str, value: nodes.Node) -> nodes.Node:
        made = nodes.Filter(value, name, [], [], None, None, lineno=node.lineno)
        made.set_environment(sandbox())
        return made

    kind = type(node).__name__
    if kind in ALONE:
        refuse(f"has a part that belongs to other files: {kind.lower()}")
    if isinstance(node, nodes.TemplateData):
        return nodes.Const(node.data, lineno=node.lineno, environment=sandbox())  # to be written through `_writer`
    if isinstance(node, nodes.For):
        node.iter = through(" each", node.iter)
    if isinstance(node, nodes.Concat):
        return through(" joined", nodes.List(node.nodes, lineno=node.lineno, environment=sandbox()))
    sliced = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    loaded = isinstance(node, nodes.Tuple) and node.ctx == "load"
    if sliced or loaded or isinstance(node, (nodes.Compare, nodes.List, nodes.Dict)):
        return through(" made", node)
    return node


class _Metered:
    """What of the environment compiled templates call for their operators, attributes and calls."""

    def call_binop(self, _context: Any, sign: str, left: Any, right: Any) -> Any:
        _weigh_operation(sign, left, right)
        return made(OPERATORS[sign](left, right))

    def is_safe_attribute(self, owner: Any, name: str, _value: Any) -> bool:
        kinds = _kinds()
        if isinstance(owner, kinds.loop):
            return name in LOOP
        if isinstance(owner, kinds.namespace):
            return not name.startswith("_")
        return any(name in names for kind, names in METHODS.items() if isinstance(owner, kind))

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = cast(Any, super()).wrap_str_format(value)  # jinja2's: it guards what the fields look up
        return wrapped and _Format(value.__self__, wrapped)

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        of_loops = {name: named.pop(name) for name in ("_loop_vars", "_block_vars") if name in named}
        owner, kinds = getattr(function, "__self__", None), _kinds()
        if isinstance(owner, tuple(METHODS)):
            return _call_method(function, arguments, named)
        known = any(function is one for one in sandbox().globals.values())
        if not (known or isinstance(owner, kinds.loop) or isinstance(function, (*kinds.callable, _Format))):
            raise kinds.forbidden(f"{type(function).__name__} is not to be called")
        made([*arguments, *named.values()])
        return made(context.call(function, *arguments, **named, **of_loops))


@dataclass(frozen=True)
class _Kinds:
    """Jinja2's own types that a template meets."""

    loop: type
    namespace: type
    callable: tuple[type, ...]
    forbidden: type[Exception]


@functools.lru_cache(maxsize=1)
def _kinds() -> _Kinds:
    from jinja2.exceptions import SecurityError
    from jinja2.runtime import LoopContext, Macro, Undefined
    from jinja2.utils import Namespace

    return _Kinds(LoopContext, Namespace, (Macro, LoopContext, Undefined), SecurityError)


class _Format:
    """A text's `format`, whose places have widths that someone could read."""

    def __init__(self, text: str, wrapped: Callable[..., str]) -> None:
        self._text, self._wrapped = text, wrapped

    def __call__(self, *arguments: Any, **named: Any) -> str:
        for _, _, form, _ in string.Formatter().parse(self._text):
            if form and ("{" in form or any(int(digits) > WIDEST for digits in re.findall(r"\d+", form))):
                refuse(f"formats with {form[:20]!r}")
        _weigh_places(self._text.count("{"), [*arguments, named])
        return self._wrapped(*arguments, **named)


def _call_method(method: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    owner, name = method.__self__, method.__name__
    if not any(name in names for kind, names in METHODS.items() if isinstance(owner, kind)):
        raise _kinds().forbidden(f"{name} is not to be called")
    if isinstance(owner, str):
        if name == "join" and arguments:
            arguments = (list(each(arguments[0])),)
            parts, characters = ALLOWANCE.get().size(arguments[0])
            spend(parts, characters + parts * len(owner))
        _weigh_text(name, owner, [*arguments, *named.values()])
    return made(method(*arguments, **named))


def _metered(name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Weigh what goes into one of jinja2's filters, and account for what comes out."""
    first = 1 if hasattr(theirs, "jinja_pass_arg") else 0  # after the context, where a filter wants one

    @functools.wraps(theirs)
    def run(*arguments: Any, **named: Any) -> Any:
        before, value, rest = arguments[:first], arguments[first], [*arguments[first + 1 :], *named.values()]
        if isinstance(value, Iterator) and name not in AT_ONCE:
            value = list(value)
        parts, characters = (1, 0) if name in AT_ONCE else ALLOWANCE.get().size(value)
        texts = sum(len(text) for text in rest if isinstance(text, str))
        spend(parts, (characters + parts * texts) * (name in WRITING))
        if name in ("unique", "sum"):  # keys may collide, and lists may be summed
            spend(parts * parts >> 10)
        elif name == "format":
            _weigh_operation("%", value, rest)
        elif isinstance(value, str) or name in PADDING:
            _weigh_text(name, value if isinstance(value, str) else "", rest)
        return made(theirs(*before, value, *arguments[first + 1 :], **named))

    return run


def _weigh_text(name: str, text: str, arguments: list[Any]) -> None:
    """Ask for what a text's method or filter could take, or make, before it does."""
    texts = [argument for argument in arguments if isinstance(argument, str)]
    widths = sum(abs(argument) for argument in arguments if isinstance(argument, int))
    spend(len(text) * sum(map(len, texts)) >> 12)  # searching from the right can take that many comparisons
    if name == "replace" and len(texts) > 1:
        spend(1, text.count(texts[0]) * len(texts[1]))
    elif name == "indent":
        spend(1, (text.count("\n") + 1) * (widths + sum(map(len, texts))))
    elif name == "int":
        spend(len(text) ** 2 >> 10)
    elif name in PADDING:
        spend(1, widths)


def _weigh_operation(sign: str, left: Any, right: Any) -> None:
    """Ask for what an operator could make, before it does."""
    if isinstance(left, str) and sign == "%":
        for place in PLACE.finditer(left):
            sizes = [size for size in place.groups() if size]
            if left[place.end() : place.end() + 1] == "(" or any(size == "*" or int(size) > WIDEST for size in sizes):
                refuse(f"formats with {left[place.start() :][:20]!r}")
        _weigh_places(left.count("%"), right)
    elif isinstance(left, int) and isinstance(right, int):
        if sign == "**" and left.bit_length() * max(right, 0) > BITS:
            refuse(f"reckons with numbers of more than {BITS} bits")
    elif sign in "+*" and isinstance(left, (str, list, tuple, int)) and isinstance(right, (str, list, tuple, int)):
        times = max(left if isinstance(left, int) else 1, right if isinstance(right, int) else 1)
        parts, characters = ALLOWANCE.get().size([left, right])
        spend(parts, characters * times)
        spend(0 if isinstance(left, str) or isinstance(right, str) else parts * times)


def _weigh_places(count: int, values: Any) -> None:
    parts, characters = ALLOWANCE.get().size(values)
    spend(parts, count * (characters + 2 * WIDEST))


def _joined(parts: list[Any]) -> str:
    spend(*ALLOWANCE.get().size(parts))
    return "".join(map(str, parts))


def _stepping(test: Any) -> Callable[..., Any]:
    @functools.wraps(test)
    def run(*arguments: Any) -> Any:
        spend()
        return test(*arguments)

    return run


def _writer() -> Callable[[Any, Any], Any]:
    from jinja2 import pass_context

    @pass_context  # which also keeps jinja2 from working out constants while it compiles
    def write(_context: Any, value: Any) -> Any:
        spend(*ALLOWANCE.get().size(value))
        return value

    return write


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON as transformers' filter does: jinja2's own escapes HTML and sorts."""
    spend(*ALLOWANCE.get().size(value))
    for mark in (indent, *(separators or ())):
        if (mark if isinstance(mark, int) else len(mark or "")) > WIDEST_MARK:
            refuse(f"writes JSON with marks of more than {WIDEST_MARK} characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None and separators is None:
        return str(made(encoder.encode(value)))
    return "".join(str(made(piece)) for piece in encoder.iterencode(value))


def _dict(*pairs: Iterable[Any], **named: Any) -> dict[Any, Any]:
    given = [list(each(values)) if isinstance(values, Iterator) else values for values in pairs]
    count = sum(ALLOWANCE.get().size(values)[0] for values in given)
    spend(count * count >> 10)  # its keys may all collide
    return dict(*given, **named)


def _raise(message: str) -> None:
    raise UsageError("chat template", str(message), "change the conversation's roles or their order")


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _generation() -> type:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """Pass a block's body through: transformers marks with it what an assistant said, for training."""

        tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
