"""Mutations of a GGUF's header: bytes, numbers at their edges, lengths, keys, tensors; some of it placed anew to be sound."""

import contextlib
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from amalia_edge.gguf_format import ARRAY, BLOCKS, SCALARS, STRING
from amalia_edge.gguf_keys import OWN, SHARED

UNSIGNED = {0: 8, 2: 16, 4: 32, 10: 64}
SIGNED = {1: 8, 3: 16, 5: 32, 11: 64}
_FLOATS = (0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-45, 3e-5, 1e9)


@dataclass
class Key:
    name: bytes
    kind: int
    value: Any  # a number, bytes, or (kind, list of either)


@dataclass
class Tensor:
    name: bytes
    sides: list[int]
    kind: int
    offset: int


@dataclass
class File:
    """A GGUF taken apart; what is written again may lie."""

    keys: list[Key]
    tensors: list[Tensor]
    data: bytes
    lies: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "File":
        keys = [Key(k.name, k.kind, (k.value[0], list(k.value[1])) if k.kind == ARRAY else k.value) for k in self.keys]
        return File(keys, [replace(t, sides=list(t.sides)) for t in self.tensors], self.data)

    def header(self) -> bytes:
        counts = self.lies.get("tensors", len(self.tensors)), self.lies.get("keys", len(self.keys))
        head = b"GGUF" + struct.pack("<IQQ", self.lies.get("version", 3), *counts)
        head += b"".join(
            _string(key.name) + struct.pack("<I", key.kind & 0xFFFFFFFF) + self._value(key) for key in self.keys
        )
        for one in self.tensors:
            sides = struct.pack(f"<{len(one.sides)}Q", *(side & (1 << 64) - 1 for side in one.sides))
            head += (
                _string(one.name)
                + struct.pack("<I", len(one.sides))
                + sides
                + struct.pack("<IQ", one.kind, one.offset & (1 << 64) - 1)
            )
        return head + b"\0" * (-len(head) % 32)

    def _value(self, key: Key) -> bytes:
        if key.kind != ARRAY:
            return _string(key.value) if key.kind == STRING else _packed(key.kind, key.value)
        kind, values = key.value
        body = b"".join(_string(one) if kind == STRING else _packed(kind, one) for one in values)
        return struct.pack("<IQ", kind, self.lies.get(key.name.decode("latin-1"), len(values))) + body

    def settle(self) -> None:
        """Place the tensors one after the other, as their shapes and types now are; give up where that is huge."""
        at = 0
        for one in self.tensors:
            _, weights, nbytes = BLOCKS.get(one.kind, ("", 1, 4))
            one.offset, size = at, math.prod(one.sides) // weights * nbytes
            at += -(-size // 32) * 32
            if at > 1 << 24:
                return
        self.data = (self.data + bytes(max(0, at - len(self.data))))[: max(at, 1)]


def take_apart(content: bytes) -> File:
    """Read a sound file made by the gguf package."""
    at = 8

    def take(layout: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(layout, content, at)
        at += struct.calcsize(layout)
        return value

    def text() -> bytes:
        nonlocal at
        length = take("<Q")
        at += length
        return content[at - length : at]

    def value(kind: int) -> Any:
        if kind == ARRAY:
            inner, count = take("<I"), take("<Q")
            return inner, [value(inner) for _ in range(count)]
        return text() if kind == STRING else take(SCALARS[kind])

    tensor_count, key_count = take("<Q"), take("<Q")
    keys = []
    for _ in range(key_count):
        name, kind = text(), take("<I")
        keys.append(Key(name, kind, value(kind)))
    tensors = []
    for _ in range(tensor_count):
        name, rank = text(), take("<I")
        tensors.append(Tensor(name, [take("<Q") for _ in range(rank)], take("<I"), take("<Q")))
    return File(keys, tensors, content[-(-at // 32) * 32 :])


def mutant(base: File, dice: random.Random) -> bytes:
    """Give a file with one to three things changed; half of those with changed tensors are placed anew."""
    file = base.copy()
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        dice.choice(CHANGES)(file, dice)
    if dice.random() < 0.5:
        file.settle()
    head = file.header()
    if dice.random() < 0.15:
        changed = bytearray(head)
        for _ in range(dice.randint(1, 3)):
            changed[dice.randrange(len(changed))] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
        head = bytes(changed)
    whole = head + file.data
    if dice.random() < 0.03:
        whole = whole[: dice.randrange(len(whole))]
    return whole + dice.randbytes(dice.randrange(1, 64)) if dice.random() < 0.03 else whole


def reshaped(base: File, dice: random.Random) -> bytes:
    """Give metadata with one to three numbers changed and no tensors: `fill` gives it those that fit."""
    file = base.copy()
    file.tensors, file.data = [], b""
    for _ in range(dice.choice((1, 1, 2, 3))):
        dice.choice((_number, _known_key))(file, dice)
    return file.header()


def filled(content: bytes, shapes: list[tuple[str, tuple[int, ...]]]) -> bytes:
    """Give a file of metadata tensors of these shapes, all zeros; nothing where they are huge."""
    file = take_apart(content)
    file.tensors = [Tensor(name.encode(), list(sides), 0, 0) for name, sides in shapes]
    file.settle()
    return file.header() + file.data if sum(math.prod(sides) for _, sides in shapes) < 1 << 22 else b""


def _number(file: File, dice: random.Random) -> None:
    numbers = [key for key in file.keys if key.kind in SCALARS]
    if numbers:
        key = dice.choice(numbers)
        key.value = edge(key.kind, key.value, dice)


def _array(file: File, dice: random.Random) -> None:
    arrays = [key for key in file.keys if key.kind == ARRAY and key.value[1]]
    if not arrays:
        return
    key = dice.choice(arrays)
    kind, values = key.value
    at = dice.randrange(len(values))
    what = dice.randrange(6)
    if what < 3:
        values[at] = spoilt(values, dice) if kind == STRING else edge(kind, values[at], dice)
    elif what == 3:
        del values[at : at + dice.choice((1, len(values)))]
    elif what == 4:
        values.insert(at, values[at])
    else:
        file.lies[key.name.decode("latin-1")] = dice.choice((0, 1, len(values) - 1, len(values) + 1, 1 << 31, 1 << 63))


def _text(file: File, dice: random.Random) -> None:
    texts = [key for key in file.keys if key.kind == STRING]
    if not texts:
        return
    key = dice.choice(texts)
    names = [b"llama", b"qwen2", b"gemma2", b"gpt2", b"bert", b"yarn", b"longrope", b"no_vocab", b"default", b"qwen2"]
    key.value = dice.choice((b"", b"\0", key.value[:-1], key.value * 2, b"\xff", b"%s%n", dice.choice(names)))


def _key(file: File, dice: random.Random) -> None:
    if not file.keys:
        return
    at = dice.randrange(len(file.keys))
    key, what = file.keys[at], dice.randrange(5)
    if what == 0:
        del file.keys[at]
    elif what == 1:
        file.keys.insert(at, replace(key))
    elif what == 2:
        key.name = dice.choice((b"", b"x", key.name + b"\0", dice.choice(file.keys).name, b"\xff"))
    elif what == 3:
        key.kind = dice.choice((*SCALARS, STRING, 77))
        key.value = edge(key.kind, 1, dice) if key.kind in SCALARS else b"x"
    else:
        file.lies[dice.choice(("keys", "tensors", "version"))] = dice.choice((0, 1, len(file.keys) + 1, 1 << 31))


def _known_key(file: File, dice: random.Random) -> None:
    """Add or replace a key that libllama reads, of the kind it reads, as a number or one for each layer."""
    own = next((key.value for key in file.keys if key.name == b"general.architecture" and key.kind == STRING), b"llama")
    names = [(own + b"." + name.encode(), rule[0]) for name, rule in OWN.items()]
    names += [(name.encode(), kinds) for name, kinds in SHARED.items()]
    names += [(b"tokenizer.ggml.add_bos_token", "bool"), (b"tokenizer.ggml.add_space_prefix", "bool")]
    names += [(b"tokenizer.ggml.eot_token_id", "uint32"), (b"tokenizer.ggml.fim_pad_token_id", "uint32")]
    name, kinds = dice.choice(names)
    told = dice.choice(kinds.split())
    codes = {"uint32": 4, "int32": 5, "float32": 6, "bool": 7, "uint16": 2, "string": STRING}
    code = codes[told.removesuffix("[]")]

    def one() -> Any:
        return (
            dice.choice((b"yarn", b"x", b"longrope"))
            if code == STRING
            else edge(code, dice.choice((1, 2, 4, 16)), dice)
        )

    layers = next(
        (key.value for key in file.keys if key.name == own + b".block_count" and isinstance(key.value, int)), 2
    )
    count = min(layers, 40) if dice.random() < 0.7 else dice.choice((0, 1, 3, 513))
    same = one()
    value = (code, [same if dice.random() < 0.6 else one() for _ in range(count)]) if told.endswith("[]") else same
    name += dice.choice((b"", b"", b"", b"", b"", b"\0"))
    file.keys = [key for key in file.keys if key.name != name] + [
        Key(name, ARRAY if told.endswith("[]") else code, value)
    ]


def _tensor(file: File, dice: random.Random) -> None:
    if not file.tensors:
        return
    at = dice.randrange(len(file.tensors))
    one, other, what = file.tensors[at], dice.choice(file.tensors), dice.randrange(8)
    if what == 0:
        one.name = dice.choice(
            (
                b"",
                b"x" * 63,
                b"x" * 64,
                other.name,
                one.name[:-1],
                one.name + b"\0",
                one.name.replace(b"blk.0", b"blk.9"),
            )
        )
    elif what == 1:
        del file.tensors[at]
    elif what == 2:
        file.tensors.insert(at, replace(one, name=one.name + b"x", sides=list(one.sides)))
    elif what == 3 and one.sides:
        side = dice.randrange(len(one.sides))
        one.sides[side] = edge(10, one.sides[side], dice)
    elif what == 4:
        one.sides = dice.choice(([], [*one.sides, 1], one.sides[:1], one.sides[::-1], list(other.sides), [1] * 5))
    elif what == 5:
        one.offset = dice.choice((edge(10, one.offset, dice), other.offset, one.offset + 32))
    else:
        one.kind = dice.choice((*BLOCKS, 4, 31, 99))


CHANGES: tuple[Callable[[File, random.Random], None], ...] = (
    _number, _number, _array, _text, _key, _known_key, _known_key, _known_key, _tensor, _tensor,
)  # fmt: skip


def edge(kind: int, value: Any, dice: random.Random) -> Any:
    """Give a number of this kind where trouble is likely: at its ends, or beside what it was."""
    if kind == 7:
        return dice.choice((0, 1, 2, 255))
    if kind in (6, 12):
        return dice.choice((*_FLOATS, float(value) * 2, -float(value), dice.uniform(-8, 8)))
    value = value if isinstance(value, int) else 1
    near = (0, 1, 2, 3, 7, value - 1, value + 1, value * 2, value // 2, value * 3)
    bits = UNSIGNED.get(kind) or SIGNED[kind]
    ends = (-1, 1 << bits - 1, (1 << bits - 1) - 1, (1 << bits) - 1, 1 << bits // 2, 1 << 20, dice.getrandbits(bits))
    return dice.choice(near if dice.random() < 0.7 else ends)


def spoilt(values: list[bytes], dice: random.Random) -> bytes:
    old = dice.choice(values)
    return dice.choice(
        (
            b"",
            b"\0",
            old,
            old[:-1],
            old + b" ",
            old + b"\0",
            b"\xff\xfe",
            b"<0x41>",
            b" ",
            b"x" * 5000,
            b"<0x>",
            "€".encode(),
        )
    )


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _packed(kind: int, value: Any) -> bytes:
    if kind not in SCALARS:
        return b"\0" * 4
    if kind in (6, 12):
        with contextlib.suppress(OverflowError):
            return struct.pack(SCALARS[kind], value)
        return struct.pack(SCALARS[kind], math.inf)
    bits = 8 if kind == 7 else UNSIGNED.get(kind) or SIGNED[kind]
    return (int(value) & (1 << bits) - 1).to_bytes(bits // 8, "little")
