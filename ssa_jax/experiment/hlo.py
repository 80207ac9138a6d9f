"""What a compiled program moves through a device's memory and network, from XLA's text of it.

XLA's own sum ("bytes accessed") counts a loop's body once, and buffers that lie in a TPU's vector
memory as if they lay in its main memory; neither is done here. Arrays count with their padding to
tiles. The text's grammar: https://openxla.org/xla/operation_semantics and `tiled_layout`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

BITS = {"pred": 8}  # of an element; other types say theirs: f32, bf16, f8e4m3fn, s4
# They name, group or reinterpret values, which moves nothing.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota",
    "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
SLICES = {"slice", "dynamic-slice"}
NUMBERED = {"constant", "parameter"}
_ARRAY = re.compile(r"([a-z]+\d*[a-z\d]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")


class Buffer(NamedTuple):
    """An array of a program.

    Attributes:
        size: bytes, with the padding of its layout.
        main: whether it lies in the device's main memory.
        scalar: whether it has no dimension.
    """

    size: int
    main: bool
    scalar: bool


class Instruction(NamedTuple):
    """One instruction of a program.

    Attributes:
        name: unique in the program.
        opcode: XLA's name of the operation.
        buffers: the arrays of its result.
        operands: names of the instructions whose results it takes.
        called: names of the computations that it calls.
        condition: name of the computation that ends a loop, else empty.
        trips: how often a loop runs its body, where the text says so.
        number: the value of an integer constant, or the place of a parameter.
        group: devices that take part together in a collective operation, 0 where all do.
        scope: JAX's name of where it comes from, for instance
            'jit(step)/jvp(SSANet)/encoder/stem/conv_general_dilated'; may be empty.
        free: whether it moves nothing.
    """

    name: str
    opcode: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    condition: str
    trips: int | None
    number: int | None
    group: int
    scope: str
    free: bool


Computation = dict[str, Instruction]


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
        kind: XLA's name of it, such as 'all-reduce'.
        size: bytes of a device's result.
        group: number of devices that take part together; 0 for all.
        scope: see `Instruction`.
    """

    kind: str
    size: int
    group: int
    scope: str


class Program:
    """A compiled program.

    Args:
        text: of an optimised module, as `jax.stages.Compiled.as_text` returns it.

    Raises:
        ValueError: no entry computation in it.
    """

    def __init__(self, text: str) -> None:
        self._computations: dict[str, Computation] = {}
        entry = None
        current: Computation = {}
        for line in text.splitlines():
            if line and not line[0].isspace():
                if match := _COMPUTATION.match(line):
                    current = self._computations.setdefault(match[2], {})
                    entry = match[2] if match[1] else entry
            elif match := _INSTRUCTION.match(line):
                item = _instruction(match[1], match[2])
                current[item.name] = item
        if entry is None:
            raise ValueError("not the text of a compiled program: no ENTRY in it")
        self._entry = entry
        self._users = {name: _users(items) for name, items in self._computations.items()}

    def traffic(self) -> Counter[str]:
        """Count the bytes that the program reads from and writes to main memory, by scope."""
        bytes_by_scope: Counter[str] = Counter()
        for times, computation, item in self._executed():
            if moved := times * self._moved(computation, item):
                bytes_by_scope[self._scope(computation, item)] += moved
        return bytes_by_scope

    def started(self) -> int:
        """Count the operations that the device starts: kernels, library calls, copies."""
        return sum(n for n, _, item in self._executed() if not item.opcode.endswith("-done"))

    def collectives(self) -> list[Collective]:
        """List the collective operations in the order of the text, those in loops each time."""
        found = []
        for times, _, item in self._executed():
            kind = item.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                size = sum(buffer.size for buffer in item.buffers)
                if item.opcode.endswith("-start") and kind != "all-reduce":
                    size = max(buffer.size for buffer in item.buffers)  # of operand and result
                found += [Collective(kind, size, item.group, item.scope)] * times
        return found

    def _executed(self) -> Iterator[tuple[int, str, Instruction]]:
        """Yield the instructions that run as such, with how often, and in which computation."""
        pending = [(1, self._entry)]
        while pending:
            times, name = pending.pop()
            for item in self._computations[name].values():
                if item.opcode in ("while", "call", "conditional"):
                    turns = self._trips(item) if item.opcode == "while" else 1
                    pending += [(times * turns, called) for called in item.called]
                elif not item.free:
                    yield times, name, item

    def _trips(self, loop: Instruction) -> int:
        """Return how often a loop runs: JAX's count from 0 to the constant that ends them."""
        if loop.trips is not None:
            return loop.trips
        condition = self._computations[loop.condition].values()
        ends = [item.number for item in condition if item.opcode == "constant"]
        return max((end for end in ends if end is not None), default=1)

    def _scope(self, computation: str, item: Instruction) -> str:
        """Return where an instruction comes from; XLA's copies have the scope of their users."""
        items, users = self._computations[computation], self._users[computation]
        following, pending = [item], [item]
        for current in following:
            if current.scope:
                return current.scope
            following += users[current.name]
        for current in pending:  # a result of the program, which nothing takes
            if current.scope:
                return current.scope
            pending += [items[name] for name in current.operands if name in items]
        return ""

    def _moved(self, computation: str, item: Instruction) -> int:
        """Return the bytes of main memory that an instruction reads and writes."""
        if item.opcode.endswith("-done"):
            return 0
        if item.opcode.endswith("-start") and item.opcode.removesuffix("-start") not in COLLECTIVES:
            # Copies: the result names source and destination, of which a slice is the smaller one.
            arrays = [buffer for buffer in item.buffers if not buffer.scalar]
            return sum(b.main for b in arrays) * min((b.size for b in arrays), default=0)
        there = self._computations[computation]
        operands = [there[name] for name in item.operands if name in there]
        if item.opcode == "fusion":
            return self._moved_by_fusion(operands, item)
        if item.opcode in SLICES:
            return 2 * _size(item)
        if item.opcode == "dynamic-update-slice":
            return 2 * _size(operands[1])
        return _size(item) + sum(map(_size, operands))

    def _moved_by_fusion(self, operands: Sequence[Instruction], item: Instruction) -> int:
        """Return the bytes of a fusion, which may read or write slices of its arrays alone."""
        body = self._computations[item.called[0]]
        # In the text of a GPU's program they stand in any order.
        parameters = {x.number: x for x in body.values() if x.opcode == "parameter"}
        users = self._users[item.called[0]]
        total = 0
        for place, operand in enumerate(operands):
            if size := _size(operand):
                total += min(size, _read(parameters[place], users))
        updates = [x for x in body.values() if x.opcode == "dynamic-update-slice"]
        if not updates:
            return total + _size(item)
        written = sum(sum(b.size for b in body[x.operands[1]].buffers) for x in updates)
        return total + min(_size(item), written)


def _users(computation: Computation) -> dict[str, list[Instruction]]:
    """Return the instructions that take the result of each."""
    users: dict[str, list[Instruction]] = {name: [] for name in computation}
    for item in computation.values():
        for name in item.operands:
            users.get(name, []).append(item)
    return users


def _read(value: Instruction, users: dict[str, list[Instruction]]) -> int:
    """Return how many bytes of a fusion's operand are read; those replaced by an update are not."""
    total = 0
    for user in users[value.name]:
        if user.opcode in SLICES:
            total += sum(buffer.size for buffer in user.buffers)
        elif user.opcode == "bitcast":
            total += _read(user, users)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != value.name:
            return sum(buffer.size for buffer in value.buffers)
    return total


def _size(item: Instruction) -> int:
    """Return the bytes of an instruction's result in main memory."""
    return sum(buffer.size for buffer in item.buffers if buffer.main)


def _instruction(name: str, text: str) -> Instruction:
    """Read what follows `name = `: the type, the operation, its operands and attributes."""
    kind, rest = _split_type(text)
    opcode, _, rest = rest.strip().partition("(")
    end = _closing(rest)
    operands, attributes = rest[:end], rest[end + 1 :]
    called = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", attributes)
    branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    condition = re.search(r"condition=%?([\w.\-]+)", attributes)
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    scope = re.search(r'op_name="([^"]*)"', attributes)
    return Instruction(
        name=name,
        opcode=opcode,
        buffers=tuple(_buffer(*match.groups()) for match in _ARRAY.finditer(kind)),
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        called=(*called, *(re.findall(r"[\w.\-]+", branches[1]) if branches else ())),
        condition=condition[1] if condition else "",
        trips=int(trips[1]) if trips else None,
        number=int(operands) if opcode in NUMBERED and operands.isdecimal() else None,
        group=_group(attributes),
        scope=scope[1] if scope else "",
        free=opcode in FREE or 'custom_call_target="ConcatBitcast"' in attributes,
    )


def _group(attributes: str) -> int:
    """Read the size of a group: `{{0,1},{2,3}}`, or `[2,2]<=[4]` for two groups of two."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\},\{", attributes):
        return listed[1].count(",") + 1
    if (counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes)) and counted[1] != "1":
        return int(counted[2])
    return 0


def _split_type(text: str) -> tuple[str, str]:
    """Split `TYPE operation(...)`; the type of several results is in brackets."""
    if text.startswith("("):
        end = _closing(text[1:]) + 2
        return text[:end], text[end:]
    kind, _, rest = text.partition(" ")
    return kind, rest


def _closing(text: str) -> int:
    """Return where the bracket closes that was open before the text."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    return len(text)


def _buffer(kind: str, dimensions: str, layout: str | None) -> Buffer:
    """Read an array's type, `bf16[8,64,64,32]{3,0,2,1:T(8,128)(2,1)S(1)}` for instance."""
    sides = [int(side) for side in dimensions.split(",") if side]
    order, _, rest = (layout or "").partition(":")
    minor_first = [int(axis) for axis in order.split(",") if axis] or [*reversed(range(len(sides)))]
    tile = re.search(r"T\(([\d,*]+)\)", rest)
    for axis, side in zip(minor_first, reversed(tile[1].split(",")) if tile else (), strict=False):
        if side != "*":
            sides[axis] = math.ceil(sides[axis] / int(side)) * int(side)
    digits = re.search(r"\d+", kind)
    bits = BITS.get(kind) or (int(digits[0]) if digits else 0)
    place = re.search(r"S\((\d+)\)", rest)
    return Buffer(math.prod(sides) * bits // 8, place is None, not dimensions)
