"""A model's chat template: made ready, run within its limits, and asked what it knows."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amalia_edge.allowance import ALLOWANCE, Allowance
from amalia_edge.errors import AmaliaError, ModelUnsupported

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST = 1 << 16  # characters of a template


@functools.lru_cache(maxsize=32)
def compile_template(template: str) -> "Template":
    """Make a template ready to run in the sandbox, without running it."""
    from jinja2.nodes import Template as Parsed

    from amalia_edge.sandbox import meter, sandbox

    if len(template) > LONGEST:
        raise ModelUnsupported("chat template", f"{len(template):,} characters", f"at most {LONGEST:,}")
    try:
        parsed = meter(sandbox().parse(template))
        assert isinstance(parsed, Parsed)
        return sandbox().from_string(parsed)
    except AmaliaError:
        raise
    except Exception as problem:  # beside its syntax: nested too deep for jinja's parser, or for Python's
        raise _unusable(problem) from None


def render(template: str, variables: Mapping[str, Any]) -> str:
    """Run a template, which came with a file and is not to be trusted."""
    compiled = compile_template(template)
    token = ALLOWANCE.set(Allowance(dict(variables)))
    try:
        return "".join(compiled.generate(variables))
    except AmaliaError:
        raise
    except Exception as problem:  # a template is a program: it may fail in any way there is
        raise _unusable(problem) from None
    finally:
        ALLOWANCE.reset(token)


def _unusable(problem: Exception) -> ModelUnsupported:
    found = "calls itself too deep" if isinstance(problem, RecursionError) else str(problem) or type(problem).__name__
    return ModelUnsupported("chat template", found, "give --chat-template NAME, or use amalia run --raw")
