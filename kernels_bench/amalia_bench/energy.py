"""Joules for a token: what reading a prompt and writing an answer take beyond an idle machine, at steady state.

First the machine idles with the model loaded. Then it reads prompts, and after that writes answers, each for minutes;
the warm-up is left out, and what is measured begins and ends with a step of the engine, so that no half-read prompt is in
it. The model works in another process; this one only looks at the meters, once or twice a second.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from amalia_bench.energy_trace import Trace
from amalia_bench.intervals import Interval, ratio_bootstrap
from amalia_bench.sensors import Clock, Source
from amalia_bench.speed import Case
from amalia_bench.thermal import Thermometer
from amalia_edge.errors import AmaliaError, BenchError, UsageError
from amalia_edge.model import LoadConfig

BLOCKS = 12  # a measurement is cut into for its interval
MOST_DRIFT = 0.05  # of the power, from the first third to the last
MOST_UNQUIET = 0.1  # of the idle power, half its interval
MOST_WARMING = 3.0  # °C over the measurement
MOST_ROWS = 600  # of a trace in a record
DOING = {True: "reading", False: "writing"}
LEAST_STEPS = 2  # a stretch with fewer has no beginning and end


@dataclass(frozen=True)
class EnergyConfig:
    """How long to measure what; 0 tokens leave a test out."""

    seconds: float = 120.0  # of each test
    idle_s: float = 20.0
    warm_up_s: float = 20.0  # of each test, left out
    prompt: int = 512
    generated: int = 128
    load: LoadConfig = field(default_factory=LoadConfig)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("seconds", self.seconds, 1),
            ("idle", self.idle_s, 1),
            ("warm-up", self.warm_up_s, 0),
        ):
            if not least <= value <= 86_400:
                raise UsageError(f"--{name}", f"{value:g}", f"give seconds, from {least} to 86400")
        if min(self.prompt, self.generated) < 0 or not self.cases:
            raise UsageError("-p, -n", "nothing to measure", "give tokens, as in -p 512 -n 128")

    @property
    def cases(self) -> tuple[Case, ...]:
        both = Case(prompt=self.prompt), Case(generated=self.generated)
        return tuple(case for case in both if case.tokens)

    @property
    def context(self) -> int:
        return max(self.prompt, self.generated) + 1

    @property
    def total_s(self) -> float:
        return self.idle_s + len(self.cases) * (self.warm_up_s + self.seconds)


@dataclass(frozen=True)
class Step:
    """How many tokens of a test were done by when."""

    time_s: float
    tokens: int


class Load(Protocol):
    """A model that can be put to work."""

    def begin(self, case: Case) -> None: ...

    def wait(self, until_s: float) -> list[Step]:
        """Give the steps done since the last call; come back at a step, or at that time."""
        ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Idle:
    """What the machine takes with the model loaded and nothing to do."""

    watts: float
    reach: float  # half of its 95 % interval; infinite where one figure was told
    celsius: float | None


@dataclass(frozen=True)
class Measurement:
    """One test."""

    case: Case
    source: str
    covers: str
    joules: float  # all, idle included
    seconds: float
    tokens: int
    idle: Idle
    per_token: Interval  # joules beyond idle
    trace: list[list[float | None]]
    alarms: list[tuple[float, str]]
    notes: tuple[str, ...]
    whole: bool  # not broken off

    @property
    def watts(self) -> float:
        return self.joules / self.seconds

    def body(self) -> dict[str, Any]:
        """Give the record's keys; where the work took no more than idling there are no joules for a token."""
        net, known = self.per_token.mean, self.per_token.mean > 0
        return {
            "test": self.case.name,
            "source": self.source,
            "covers": self.covers,
            "joules": self.joules,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "engine_ts": self.tokens / self.seconds,
            "joules_per_token": net if known else None,
            "joules_per_token_ci95": self.per_token.bounds,
            "joules_per_token_gross": self.joules / self.tokens,
            "tokens_per_joule": 1 / net if known else None,
            "idle_watts": self.idle.watts,
            "idle_watts_reach95": self.idle.reach if math.isfinite(self.idle.reach) else None,
            "watts": self.watts,
            "trace": self.trace,
            "alarms": [list(alarm) for alarm in self.alarms[:MOST_ROWS]],
            "notes": list(self.notes),
            "whole": self.whole,
        }


def measure_energy(
    load: Load,
    sources: Sequence[Source],
    thermometer: Thermometer,
    clock: Clock,
    config: EnergyConfig,
    wanted: Sequence[Case] | None = None,
    watch: Callable[[float], None] = lambda seconds: None,
    told: Callable[[str], float] | None = None,
) -> Iterator[Measurement]:
    """Measure idling and then each test; a test that is broken off is given as far as it went, and then the reason.

    `watch` hears of seconds that have passed, `config.total_s` of them in all. `told` gives the watts a person read off
    a meter while the machine did what it is called with; without it the sources tell them.
    """
    idle = _idle(Trace(sources, thermometer, clock), config.idle_s, watch, told)
    for case in config.cases if wanted is None else wanted:
        trace, steps = Trace(sources, thermometer, clock), _Steps(config)
        stopped: BaseException | None = None
        try:
            _work(load, case, trace, steps, watch)
        except (KeyboardInterrupt, AmaliaError) as reason:  # the model's process may be gone
            stopped = reason
        if told is not None and stopped is None:
            trace.tell(told(DOING[bool(case.prompt)]))
        if trace.lost:
            after = f"gone {trace.ends_s - trace.began_s:.0f} s after the test began: {trace.lost}"
            stopped = stopped or BenchError(
                f"energy from {_name(sources)}", after, "see what became of it, then measure again"
            )
        measured = _measurement(case, sources, idle, trace, steps, stopped)
        if measured is not None:
            yield measured
        if stopped is not None:
            raise stopped


@dataclass
class _Steps:
    """The steps of a test: those of the warm-up, and then those that are measured."""

    config: EnergyConfig
    measured: list[Step] = field(default_factory=list)

    def add(self, step: Step, began_s: float) -> None:
        if step.time_s - began_s >= self.config.warm_up_s:
            self.measured.append(step)

    @property
    def complete(self) -> bool:
        return bool(self.measured) and self.measured[-1].time_s - self.measured[0].time_s >= self.config.seconds


def _idle(trace: Trace, seconds: float, watch: Callable[[float], None], told: Callable[[str], float] | None) -> Idle:
    """Look at the meters while nothing is done."""
    ends_s = trace.began_s + seconds
    while (left_s := ends_s - trace.clock.now()) > 0.001 and not trace.lost:
        trace.clock.sleep(min(trace.period_s, left_s))
        trace.take()
        watch(min(trace.period_s, left_s))
    if trace.lost or trace.ends_s - trace.began_s < seconds / 2:
        why = trace.lost or "too few readings"
        raise BenchError(f"energy from {_name(trace.sources)}", why, "see what became of it, then measure again")
    if told is not None:
        trace.tell(told("idling"))
    times = list(np.linspace(trace.samples[0].time_s, trace.ends_s, BLOCKS + 1))
    joules, lengths = np.diff(trace.joules_at(times)), np.diff(times)
    power = ratio_bootstrap(joules, lengths, np.arange(BLOCKS))
    return Idle(power.mean, (power.high - power.low) / 2, trace.samples[-1].celsius)


def _work(load: Load, case: Case, trace: Trace, steps: _Steps, watch: Callable[[float], None]) -> None:
    """Let the model work until there are seconds enough between two of its steps."""
    load.begin(case)
    next_s = heard_s = trace.clock.now()
    while not steps.complete and not trace.lost:
        next_s += trace.period_s
        while (now := trace.clock.now()) < next_s:
            for step in load.wait(next_s):
                steps.add(step, trace.began_s)
        trace.take()
        next_s = max(next_s, now)  # a reading that took longer is not made up for
        watch(now - heard_s)
        heard_s = now
    load.end()  # not after an error: it would wait for a prompt's end


def _measurement(
    case: Case, sources: Sequence[Source], idle: Idle, trace: Trace, steps: _Steps, stopped: BaseException | None
) -> Measurement | None:
    """Give what lies between the first and the last measured step; None where that is nothing."""
    if not trace.samples:
        return None
    measured = [step for step in steps.measured if trace.samples[0].time_s <= step.time_s <= trace.ends_s]
    if len(measured) < LEAST_STEPS or measured[-1].tokens == measured[0].tokens:
        return None
    chosen = _spread(measured, BLOCKS + 1)
    times = [step.time_s for step in chosen]
    joules, lengths = np.diff(trace.joules_at(times)), np.diff(times)
    tokens = np.diff([step.tokens for step in chosen])
    seconds, counted = float(lengths.sum()), int(tokens.sum())
    beyond = ratio_bootstrap(joules - idle.watts * lengths, tokens, np.arange(len(tokens)))
    return Measurement(
        case=case,
        source=_name(sources),
        covers=" and ".join(source.covers for source in sources),
        joules=float(joules.sum()),
        seconds=seconds,
        tokens=counted,
        idle=idle,
        per_token=_widened(beyond, idle.reach * seconds / counted),
        trace=trace.rows(MOST_ROWS),
        alarms=trace.alarms,
        notes=tuple(_notes(trace, idle, times, steps.config.seconds, beyond.mean, stopped)),
        whole=stopped is None,
    )


def _spread(steps: list[Step], most: int) -> list[Step]:
    """Choose steps that lie about evenly in time, the first and the last among them."""
    times = np.array([step.time_s for step in steps])
    wished = np.linspace(times[0], times[-1], min(most, len(steps)))
    return [steps[place] for place in sorted({int(np.abs(times - wish).argmin()) for wish in wished})]


def _widened(interval: Interval, reach: float) -> Interval:
    """Add the uncertainty of what was subtracted."""
    low, high = (math.hypot(interval.mean - bound, reach) for bound in (interval.low, interval.high))
    return Interval(interval.mean, interval.mean - low, interval.mean + high, math.hypot(interval.stderr, reach / 2))


def _notes(
    trace: Trace, idle: Idle, times_s: list[float], wanted_s: float, net: float, stopped: BaseException | None
) -> Iterator[str]:
    """Say what a reader of the figures must know."""
    first_s, last_s = times_s[0], times_s[-1]
    if stopped is not None:
        why = "stopped by hand" if isinstance(stopped, KeyboardInterrupt) else str(stopped)
        yield f"broken off after {last_s - first_s:.0f} of {wanted_s:.0f} s: {why}"
    thirds = trace.joules_at(list(np.linspace(first_s, last_s, 4)))
    early, late = thirds[1] - thirds[0], thirds[3] - thirds[2]
    if early > 0 and abs(late / early - 1) > MOST_DRIFT:
        yield f"no steady state: the power went {'up' if late > early else 'down'} by {abs(late / early - 1):.0%}"
    inside = [sample.celsius for sample in trace.samples if first_s <= sample.time_s <= last_s]
    heat = [celsius for celsius in inside if celsius is not None]
    if heat and heat[-1] - heat[0] > MOST_WARMING:
        yield f"no steady state: from {heat[0]:.0f} to {heat[-1]:.0f} °C"
    if math.isfinite(idle.reach) and idle.reach > MOST_UNQUIET * idle.watts:
        yield f"idling was unquiet: {idle.watts:.1f} ± {idle.reach:.1f} W"
    if net <= 0:
        yield "the work took no more than idling, as far as this source can tell"


def _name(sources: Sequence[Source]) -> str:
    return "+".join(source.name for source in sources)
