"""A plan fits the machine it was made for, or says what would; what it says, followed, fits and loads."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from amalia_convert.shape import headers
from amalia_edge import machine
from amalia_edge.adapter import Adapter
from amalia_edge.cli.door import run_door
from amalia_edge.errors import DoesNotFit
from amalia_edge.gguf import Header, TensorInfo, read_header
from amalia_edge.host import GPU_RESERVE, LEAST_RESERVE, Host, recorded_host
from amalia_edge.load_config import LoadConfig
from amalia_edge.model import Model
from amalia_edge.native import BackendDevice
from amalia_edge.placement import PROCESS
from amalia_edge.plan import Plan, make_plan
from amalia_edge.requantized import LEVELS, at_level, smaller_levels
from amalia_edge.sampler import SamplingConfig
from models import tiny_model

from .built_headers import Geometry, built_header

MACHINES = Path(__file__).parents[1] / "machines"
MB, GB = 10**6, 10**9
ROOMY = Host(total=64 * GB, free=60 * GB, cores=8, features=("AVX2", "REPACK"))
AMALIA = headers("amalia-9b")


def host_with(model_bytes: int) -> Host:
    """Give a machine without a GPU that has just so many bytes for a model."""
    total = LEAST_RESERVE  # so little that the least reserve is what counts
    return Host(total=total, free=LEAST_RESERVE + PROCESS + model_bytes, cores=2, features=("AVX2", "REPACK"))


def gpu(nbytes: int, name: str = "CUDA0", kind: str = "gpu") -> BackendDevice:
    return BackendDevice(name, "a GPU", kind, nbytes, nbytes)


def recorded(name: str) -> Host:
    return recorded_host(machine.look(MACHINES / name), name)


def refusal(header: Header, wish: LoadConfig, host: Host) -> DoesNotFit:
    with pytest.raises(DoesNotFit) as caught:
        make_plan(header, wish, host)
    assert caught.value.shortage is not None
    return caught.value


geometries = some.builds(
    Geometry,
    layers=some.integers(1, 48),
    head=some.sampled_from([32, 48, 64, 128]),
    heads=some.sampled_from([8, 16, 32]),
    heads_kv=some.sampled_from([2, 8]),
    feed_forward=some.sampled_from([1024, 4096, 12288]),
    vocabulary=some.sampled_from([4096, 32000, 128000]),
    trained=some.sampled_from([1000, 4096, 131072]),
    kind=some.sampled_from(["F16", "Q8_0", "Q4_0", "BF16"]),
    tied=some.booleans(),
)
wishes = some.builds(
    LoadConfig,
    context=some.one_of(some.none(), some.integers(1, 200_000)),
    sequences=some.integers(1, 9),
    gpu_layers=some.sampled_from([-1, 0, 1, 7, 99]),
    micro_batch=some.sampled_from([32, 512, 2048]),
    cache_keys=some.sampled_from(["f16", "f32", "q8_0"]),
    cache_values=some.sampled_from(["f16"]),
    flash_attention=some.sampled_from(["auto", "off"]),
    mapped=some.booleans(),
    locked=some.booleans(),
)


@some.composite
def hosts(draw: some.DrawFn) -> Host:
    free = draw(some.integers(300 * MB, 60 * GB))
    gpus = draw(some.sampled_from([(), (2 * GB,), (8 * GB,), (4 * GB, 12 * GB)]))
    shared = len(gpus) == 1 and draw(some.booleans())
    name = draw(some.sampled_from(["CUDA", "MTL"]))
    return Host(
        total=2 * free,
        free=free,
        cores=4,
        features=draw(some.sampled_from([(), ("AVX2", "REPACK"), ("AVX512_VNNI", "AMX_INT8", "AVX2", "REPACK")])),
        gpus=tuple(gpu(free if shared else size, f"{name}{index}") for index, size in enumerate(gpus)),
        shared=shared,
    )


def check_that_it_fits(plan: Plan, host: Host) -> None:
    """Hold a plan's own figures against the machine."""
    cpu, *others = plan.needs
    assert (plan.needed if host.shared else cpu.needed) <= host.budget
    for one, device in zip(others, host.gpus if plan.config.gpu_layers else (), strict=True):
        assert one.needed <= host.gpu_budget(device)
    assert plan.config.context and plan.config.threads and plan.config.gpu_layers >= 0


@settings(max_examples=60, deadline=None)
@given(geometries, wishes, hosts())
def test_a_plan_fits_and_every_advice_of_a_refusal_followed_fits(
    geometry: Geometry, wish: LoadConfig, host: Host
) -> None:
    header = built_header(geometry)
    try:
        check_that_it_fits(make_plan(header, wish, host), host)
        return
    except DoesNotFit as refused:
        shortage = refused.shortage
    assert shortage is not None and shortage.needed > shortage.free
    for option in shortage.options:
        changes = dict(option.settings)
        other = at_level(header, changes.pop("level")) if "level" in changes else header
        assert changes or other is not header
        check_that_it_fits(make_plan(other, dataclasses.replace(wish, **changes), host), host)
    if any("level" not in option.settings for option in shortage.options):
        smaller = make_plan(header, dataclasses.replace(wish, fit=True), host)
        check_that_it_fits(smaller, host)
        assert smaller.reductions


NUMBERS = (
    "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "expert_used_count", "vocab_size", "attention.sliding_window",
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    some.dictionaries(
        some.sampled_from(NUMBERS),
        some.one_of(some.integers(-(2**63), 2**64 - 1), some.floats(), some.text(max_size=3), some.booleans()),
    )
)
def test_whatever_numbers_a_header_holds_it_is_planned_or_refused(numbers: dict[str, Any]) -> None:
    header = built_header(Geometry())
    odd = TensorInfo("blk." + "9" * 5000 + ".attn_q.weight", (256, 256), "Q8_0", 0, 69632)
    metadata = header.metadata | {f"llama.{key}": value for key, value in numbers.items()}
    header = dataclasses.replace(header, metadata=metadata, tensors=(*header.tensors, odd))
    with contextlib.suppress(DoesNotFit):
        make_plan(header, LoadConfig(), ROOMY)


@pytest.mark.parametrize("shape", ["amalia-9b", "eurollm-1.7b", "qwen3-8b", "leolm-7b"])
def test_a_level_s_guess_is_never_below_its_file_and_close_above(shape: str) -> None:
    real = headers(shape)
    for level in LEVELS:
        guess = at_level(real["F16"], level).weight_bytes
        assert 1.0 <= guess / real[level].weight_bytes < 1.1, level


def test_a_coarse_cache_is_offered_only_where_heads_are_whole_blocks() -> None:
    for head, offered in ((64, True), (48, False)):
        header = built_header(Geometry(head=head, layers=16))
        host = host_with(make_plan(header, LoadConfig(), ROOMY).needed - PROCESS - 50 * MB)
        settings = [option.settings for option in refusal(header, LoadConfig(), host).shortage.options]  # type: ignore[union-attr]
        assert any("cache_keys" in one for one in settings) == offered


def test_levels_are_named_only_below_the_file_s_own() -> None:
    assert [level for level, _ in smaller_levels(AMALIA["Q5_K_M"])] == ["Q4_K_M", "Q4_0", "Q3_K_M"]


def test_each_piece_of_advice_followed_really_loads(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    wish = LoadConfig(context=4096, sequences=3, gpu_layers=0)
    needed = make_plan(read_header(path), wish, ROOMY).needed - PROCESS
    seen = set()
    for share in (0.95, 0.8, 0.5, 0.35):
        host = host_with(int(needed * share))
        for option in refusal(read_header(path), wish, host).shortage.options:  # type: ignore[union-attr]
            seen |= set(option.settings)
            changes = dict(option.settings)
            level = changes.pop("level", None)
            file = path if level is None else tiny_model(tmp_path / f"{level}.gguf", kind=level)
            plan = make_plan(read_header(file), dataclasses.replace(wish, **changes), host)
            with Model.open(file, plan.config) as model:
                assert list(model.complete(model.prompt("a"), SamplingConfig(limit=2, temperature=0)))
    assert {"context", "cache_keys", "sequences", "micro_batch", "level"} <= seen


def test_the_default_context_is_the_smaller_of_8192_and_the_trained_one() -> None:
    contexts = [make_plan(built_header(Geometry(trained=n)), LoadConfig(), ROOMY).config.context for n in (1000, 32768)]
    assert contexts == [1000, 8192]


def test_a_context_beyond_the_trained_one_is_allowed_and_warned_of() -> None:
    plan = make_plan(built_header(Geometry(trained=4096)), LoadConfig(context=8192), ROOMY)
    assert plan.config.context == 8192 and "more than the 4096 it was trained for" in " ".join(plan.reasons)


def test_what_is_taken_instead_of_the_wish_is_announced() -> None:
    header = built_header(Geometry())
    wish = LoadConfig(fit=True)
    plan = make_plan(header, wish, host_with(make_plan(header, wish, ROOMY).needed - PROCESS - 20 * MB))
    assert "tokens computed at once: 128 instead of 512" in plan.reductions


def test_a_refusal_tells_needed_free_and_what_would_do() -> None:
    refused = refusal(AMALIA["Q4_K_M"], LoadConfig(), recorded("orin-nano-headless"))
    said = r"memory for Q4_K_M at 8192 tokens: 7\.\d\d GB needed, 6\.\d\d GB free beside 639\.2 MB left to the system"
    assert re.fullmatch(said, refused.found)
    ways = r"would fit: -c \d+; or -c \d+ -ctk q8_0 -ctv q8_0; or the level Q4_0 \(about 5\.28 GB\) with .*; or let --fit choose"
    assert re.fullmatch(ways, refused.advice)


def test_an_orin_nano_runs_amalia_only_without_its_desktop_with_little_context_and_a_q8_0_cache() -> None:
    wish = LoadConfig(fit=True)
    refused = refusal(AMALIA["Q4_K_M"], wish, recorded("orin-nano"))
    assert "sudo systemctl set-default multi-user.target" in refused.advice
    config = make_plan(AMALIA["Q4_K_M"], wish, recorded("orin-nano-headless")).config
    assert 2048 <= (config.context or 0) < 8192 and config.cache_keys == "q8_0"
    assert {"level"} <= set(refusal(AMALIA["Q8_0"], wish, recorded("orin-nano-headless")).shortage.options[0].settings)  # type: ignore[union-attr]


def test_only_a_jetson_is_told_how_to_start_without_its_desktop() -> None:
    laptop = dataclasses.replace(recorded("orin-nano"), jetson=False)
    assert machine.HEADLESS in refusal(AMALIA["Q8_0"], LoadConfig(), recorded("orin-nano")).advice
    assert "desktop" not in refusal(AMALIA["Q8_0"], LoadConfig(), laptop).advice


@pytest.mark.parametrize("board", ["orin-nx", "orin-agx"])
def test_larger_jetsons_run_amalia_as_it_is(board: str) -> None:
    plan = make_plan(AMALIA["Q4_K_M"], LoadConfig(), recorded(board))
    assert (plan.config.context, plan.config.cache_keys, plan.config.gpu_layers) == (8192, "f16", 43)
    assert not plan.reductions and make_plan(AMALIA["Q8_0"], LoadConfig(context=2048, fit=True), recorded(board))


def test_memory_that_cpu_and_gpu_share_is_counted_once_and_together() -> None:
    header = built_header(Geometry(layers=32, feed_forward=12288, heads=32))
    apart = dataclasses.replace(ROOMY, gpus=(gpu(60 * GB),))
    together = dataclasses.replace(apart, shared=True)
    needed = make_plan(header, LoadConfig(), together).needed
    tight = dataclasses.replace(together, free=together.reserve + needed - 1)
    assert make_plan(header, LoadConfig(gpu_layers=99), dataclasses.replace(tight, shared=False))
    refusal(header, LoadConfig(gpu_layers=99), tight)


def test_as_many_layers_as_fit_go_to_a_small_gpu() -> None:
    host = dataclasses.replace(ROOMY, gpus=(gpu(4 * GB),))
    plan = make_plan(AMALIA["Q4_K_M"], LoadConfig(), host)
    assert 0 < plan.config.gpu_layers < 43
    more = dataclasses.replace(plan.config, gpu_layers=plan.config.gpu_layers + 1)
    refused = refusal(AMALIA["Q4_K_M"], more, host)
    assert refused.found.startswith("CUDA0 for Q4_K_M") and "-ngl" in refused.advice


def test_a_full_gpu_leaves_the_model_to_the_cpu() -> None:
    host = dataclasses.replace(ROOMY, gpus=(gpu(0),))
    host = dataclasses.replace(host, gpus=(dataclasses.replace(host.gpus[0], memory_total=24 * GB, memory_free=MB),))
    for wish in (LoadConfig(), LoadConfig(gpu_layers=0)):
        plan = make_plan(AMALIA["Q4_K_M"], wish, host)
        assert plan.config.gpu_layers == 0 and [one.device for one in plan.needs] == ["CPU"]
        assert plan.needs == make_plan(AMALIA["Q4_K_M"], wish, ROOMY).needs


def test_weights_beyond_the_memory_are_run_from_the_disk_where_that_is_forced() -> None:
    header = built_header(Geometry(layers=48, kind="F16"))  # a kind that no kernel wants in another order
    needs = make_plan(header, LoadConfig(), ROOMY).needs[0]
    host = host_with(needs.anonymous - PROCESS + needs.mapped // 2)
    assert "would run slowly from the disk with --no-plan" in refusal(header, LoadConfig(), host).advice
    plan = make_plan(header, LoadConfig(forced=True), host)
    assert plan.shortage in plan.reasons and "not there" in plan.shortage
    assert not make_plan(header, LoadConfig(forced=True), ROOMY).shortage
    reduced = make_plan(header, LoadConfig(forced=True, fit=True, context=30000), host_with(needs.needed - PROCESS))
    assert reduced.reductions and not reduced.shortage


def test_running_from_the_disk_is_offered_only_where_all_else_fits() -> None:
    header = built_header(Geometry(layers=48, kind="F16"))
    needs = make_plan(header, LoadConfig(), ROOMY).needs[0]
    for wish, room in ((LoadConfig(), needs.anonymous - MB), (LoadConfig(locked=True), needs.anonymous + MB)):
        assert "--no-plan" not in refusal(header, wish, host_with(room - PROCESS)).advice


def test_a_gpu_keeps_its_reserve() -> None:
    assert ROOMY.gpu_budget(gpu(4 * GB)) == 4 * GB - GPU_RESERVE


def test_a_mac_s_gpu_reads_the_file_s_pages_where_they_lie() -> None:
    plan = make_plan(AMALIA["Q3_K_M"], LoadConfig(), recorded("mac-m2"))
    assert plan.needs[1].device == "MTL0" and plan.needs[1].weights == 0 < plan.needs[1].mapped


def test_a_plan_s_numbers_are_json_and_its_lines_are_short() -> None:
    adapters = (Adapter(Path("a.gguf"), 0.5),)
    plan = make_plan(AMALIA["Q4_K_M"], LoadConfig(sequences=2, adapters=adapters), ROOMY)
    told: dict[str, Any] = json.loads(json.dumps(plan.as_dict()))
    assert told["config"]["context"] == 8192 and told["needs"][0]["needed"] == plan.needed == told["needed"]
    assert told["config"]["adapters"] == [{"path": "a.gguf", "scale": 0.5}]
    assert plan.lines()["context"] == "8192 tokens × 2"


def test_an_adapter_s_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(bytes(5000))
    wish = LoadConfig(adapters=(Adapter(tmp_path / "a.gguf"),))
    header = built_header(Geometry())
    assert make_plan(header, wish, ROOMY).needed - make_plan(header, LoadConfig(), ROOMY).needed == 5000


def test_a_refusal_s_options_are_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    code = run_door(["doctor", str(path), "-c", "16000000", "-np", "200", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert code == 9 and error["needed"] > error["free"] and error["options"][0]["settings"]
