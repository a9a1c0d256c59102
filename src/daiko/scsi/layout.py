"""Bit-field tables, compiled once at import to code over one `struct.Struct`.

A layout says where the fields of a CDB or of a fixed piece of parameter data lie, as the tables of
the standards do: byte, highest bit, width. It is written as data and read as data (the mask for
REPORT SUPPORTED OPERATION CODES, the table in a document), but a READ or WRITE is decoded by
straight code: fields that share bytes form a *cell*, each cell is one item of the `Struct`, and a
generated function takes the fields out of the cells by shift and mask. The result is a named tuple
made for the layout: immutable, without a dictionary, and quicker to build than any class with an
`__init__`. A table walked for each command would cost four times as much.

`pack` is the mirror: one generated function with a keyword argument per field. Both directions come
from the same table, so they cannot disagree. Bits outside all fields are reserved: `pack` sends 0,
`unpack` ignores them, `repack` keeps them, and `stray_bit` finds them.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

Buffer = bytes | bytearray | memoryview


class MalformedData(ValueError):
    """Bytes that do not have the format they should have; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a layout. Use the constructors below rather than this class."""

    name: str
    byte: int
    """First byte of the field, from the start of the layout."""
    high: int
    """Highest bit of the field in its first byte, 7 to 0."""
    width: int
    """Bits; a field may run over several bytes, high-order first."""
    default: int | bytes = 0
    """What `pack` writes when no value is given."""
    fixed: bool = False
    """The value is part of the format: an operation code, a page code."""
    legal: bool = True
    """False: a field of the standard that this product takes only as 0."""
    is_octets: bool = False

    @property
    def end(self) -> int:
        """The byte after the last one that the field touches."""
        return self.byte + (7 - self.high + self.width + 7) // 8

    def shift(self, end: int) -> int:
        """Position of the lowest bit in an integer made of the bytes up to `end`."""
        return 8 * (end - self.byte) - (7 - self.high) - self.width


def number(name: str, byte: int, size: int, *, default: int = 0, legal: bool = True) -> Field:
    """A big-endian number of whole bytes; `size` in bytes."""
    return Field(name, byte, 7, 8 * size, default, legal=legal)


def bits(
    name: str, byte: int, high: int, low: int, *, default: int = 0, legal: bool = True
) -> Field:
    """A number in bits `high` to `low` of one byte."""
    return Field(name, byte, high, high - low + 1, default, legal=legal)


def bit(name: str, byte: int, position: int, *, default: int = 0, legal: bool = True) -> Field:
    """A flag."""
    return Field(name, byte, position, 1, default, legal=legal)


def span(name: str, byte: int, high: int, width: int) -> Field:
    """A number that starts at bit `high` of a byte and runs over the next ones; `width` in bits."""
    return Field(name, byte, high, width)


def octets(name: str, byte: int, size: int, *, default: bytes | None = None) -> Field:
    """Bytes as they are."""
    value = bytes(size) if default is None else default
    return Field(name, byte, 7, 8 * size, value, is_octets=True)


def constant(name: str, byte: int, value: int, *, high: int = 7, width: int = 8) -> Field:
    """A value that belongs to the format; `unpack` does not check it."""
    return Field(name, byte, high, width, int(value), fixed=True)


@dataclass(frozen=True, slots=True)
class _Cell:
    """Bytes that are read as one integer (or as octets), and the fields in them."""

    start: int
    end: int
    fields: tuple[Field, ...]

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_octets(self) -> bool:
        return self.fields[0].is_octets


_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _cells(fields: tuple[Field, ...]) -> list[_Cell]:
    """Group the fields whose bytes overlap."""
    cells: list[_Cell] = []
    for item in sorted(fields, key=lambda item: (item.byte, -item.high)):
        if cells and item.byte < cells[-1].end:
            last = cells.pop()
            cells.append(_Cell(last.start, max(last.end, item.end), (*last.fields, item)))
        else:
            cells.append(_Cell(item.byte, item.end, (item,)))
    return cells


def _parts(size: int) -> list[int]:
    """A cell of `size` bytes as sizes that `struct` knows: 3 is 1 + 2, 6 is 2 + 4."""
    parts = []
    while size:
        part = next(known for known in (8, 4, 2, 1) if known <= size)
        parts.append(part)
        size -= part
    return parts[::-1]


def _too_large(layout: str, field: str, value: object, limit: str) -> NoReturn:
    raise ValueError(f"{layout}.{field}: {value!r} does not fit {limit}")


class Layout:
    """A fixed-length piece of a command or of parameter data.

    `unpack(buffer, offset=0)` returns a named tuple with the fields as attributes; raises
    MalformedData when the buffer is too short. `pack(**values)` returns bytes; raises ValueError
    when a value does not fit and TypeError for a name that is no field.
    """

    __slots__ = ("_stray", "fields", "length", "mask", "name", "pack", "record", "unpack")

    unpack: Callable[..., Any]
    pack: Callable[..., bytes]

    def __init__(self, name: str, length: int, *fields: Field) -> None:
        self.name = name
        self.length = length
        """Bytes."""
        self.fields = fields
        self._check()
        self.record: Any = namedtuple(name, [item.name for item in fields])  # type: ignore[misc]
        """The class of what `unpack` returns."""
        cells = _cells(fields)
        self.unpack = self._compile_unpack(cells)
        self.pack = self._compile_pack(cells)
        self.mask = self.legal_bits()
        """The legal bits, as CDB USAGE DATA of REPORT SUPPORTED OPERATION CODES shows them: the
        value of a fixed field, ones for every other legal field."""
        self._stray = ~int.from_bytes(self.mask, "big") & ((1 << (8 * length)) - 1)

    def __repr__(self) -> str:
        return f"<Layout {self.name}, {self.length} bytes>"

    def _check(self) -> None:
        taken = 0
        for item in self.fields:
            if item.byte < 0 or item.end > self.length or not 0 <= item.high <= 7:
                raise ValueError(f"{self.name}.{item.name} lies outside the layout")
            place = ((1 << item.width) - 1) << item.shift(self.length)
            if taken & place:
                raise ValueError(f"{self.name}.{item.name} overlaps another field")
            taken |= place

    def legal_bits(self, *, refused: tuple[str, ...] = ()) -> bytes:
        """The mask without the fields named in `refused`."""
        legal = 0
        for item in self.fields:
            if item.fixed:
                legal |= int(item.default) << item.shift(self.length)
            elif item.legal and item.name not in refused:
                legal |= ((1 << item.width) - 1) << item.shift(self.length)
        return legal.to_bytes(self.length, "big")

    def stray_bit(self, buffer: Buffer, mask: bytes | None = None) -> tuple[int, int] | None:
        """The first bit that is set and not legal, as (byte, bit); None when there is none.
        The buffer must hold at least `length` bytes."""
        stray = self._stray if mask is None else ~int.from_bytes(mask, "big")
        found = int.from_bytes(buffer[: self.length], "big") & stray
        if not found:
            return None
        position = found.bit_length() - 1
        return self.length - 1 - position // 8, position % 8

    def repack(self, image: Buffer, **values: Any) -> bytes:
        """`image` with the fields in `values` replaced and every other bit as it was."""
        result = int.from_bytes(image[: self.length], "big")
        for item in self.fields:
            if item.name not in values:
                continue
            value = values[item.name]
            if item.is_octets:
                if len(value) != item.width // 8:
                    _too_large(self.name, item.name, value, f"{item.width // 8} bytes")
                value = int.from_bytes(value, "big")
            if value >> item.width:
                _too_large(self.name, item.name, value, f"{item.width} bits")
            shift = item.shift(self.length)
            result = result & ~(((1 << item.width) - 1) << shift) | int(value) << shift
        return result.to_bytes(self.length, "big")

    def _format(self, cells: list[_Cell]) -> struct.Struct:
        text, at = ">", 0
        for cell in cells:
            text += f"{cell.start - at}x" if cell.start > at else ""
            if cell.is_octets:
                text += f"{cell.size}s"
            else:
                text += "".join(_CODES[part] for part in _parts(cell.size))
            at = cell.end
        return struct.Struct(text + (f"{self.length - at}x" if self.length > at else ""))

    def _compile_unpack(self, cells: list[_Cell]) -> Callable[..., Any]:
        names: list[str] = []
        expressions: dict[str, str] = {}
        for number_, cell in enumerate(cells):
            parts = [cell.size] if cell.is_octets else _parts(cell.size)
            variables = [f"c{number_}_{index}" for index in range(len(parts))]
            names += variables
            value, after = "", cell.size
            for variable, part in zip(variables, parts, strict=True):
                after -= part
                value += f" | {variable} << {8 * after}" if after else f" | {variable}"
            value = value[3:]
            for item in cell.fields:
                expressions[item.name] = _extract(item, cell, value, bare=len(parts) == 1)
        items = ", ".join(expressions[item.name] for item in self.fields)
        source = (
            "def unpack(buffer, offset=0):\n"
            "    try:\n"
            f"        {', '.join(names)}, = unpack_from(buffer, offset)\n"
            "    except error:\n"
            "        truncated(buffer, offset)\n"
            f"    return new(record, ({items},))\n"
        )
        return self._generate("unpack", source, cells)

    def _compile_pack(self, cells: list[_Cell]) -> Callable[..., bytes]:
        arguments = ", ".join(f"{item.name}={item.default!r}" for item in self.fields)
        lines = [f"def pack(*, {arguments}):"]
        for item in self.fields:
            if item.is_octets:
                size = item.width // 8
                lines.append(f"    if len({item.name}) != {size}:")
                limit = f"{size} bytes"
            else:
                lines.append(f"    if {item.name} >> {item.width}:")
                limit = f"{item.width} bits"
            lines.append(f"        too_large({self.name!r}, {item.name!r}, {item.name}, {limit!r})")
        values: list[str] = []
        for cell in cells:
            if cell.is_octets:
                values.append(cell.fields[0].name)
                continue
            whole = " | ".join(_insert(item, cell) for item in cell.fields)
            after = cell.size
            parts = _parts(cell.size)
            for part in parts:
                after -= part
                narrow = f"(({whole}) >> {8 * after}) & {(1 << (8 * part)) - 1}"
                values.append(whole if len(parts) == 1 else narrow)
        lines.append(f"    return pack_({', '.join(values)})")
        return self._generate("pack", "\n".join(lines), cells)

    def _generate(self, function: str, source: str, cells: list[_Cell]) -> Callable[..., Any]:
        form = self._format(cells)
        scope: dict[str, Any] = {
            "unpack_from": form.unpack_from,
            "pack_": form.pack,
            "error": struct.error,
            "truncated": self._truncated,
            "too_large": _too_large,
            "new": tuple.__new__,
            "record": self.record,
        }
        exec(compile(source, f"<layout {self.name}>", "exec"), scope)
        compiled: Callable[..., Any] = scope[function]
        return compiled

    def _truncated(self, buffer: Buffer, offset: int) -> NoReturn:
        have = max(0, len(buffer) - offset)
        raise MalformedData(f"{self.name}: {self.length} bytes needed, {have} present") from None


def _extract(item: Field, cell: _Cell, value: str, *, bare: bool) -> str:
    """The expression that takes a field out of the integer of its cell."""
    if item.is_octets or (item.width == 8 * cell.size and bare):
        return value
    shift = item.shift(cell.end)
    text = value if bare else f"({value})"
    if shift:
        text = f"{text} >> {shift}"
    reaches_top = item.byte == cell.start and item.high == 7
    return text if reaches_top else f"({text}) & {(1 << item.width) - 1}"


def _insert(item: Field, cell: _Cell) -> str:
    """The expression that puts a field into the integer of its cell."""
    shift = item.shift(cell.end)
    return f"{item.name} << {shift}" if shift else item.name
