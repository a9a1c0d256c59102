"""Cases for the targets: corpus entries with a few mutations, and purely random bytes.

The same seed gives the same cases. A case costs a few microseconds, so the parsers dominate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

INTERESTING_BYTES = bytes(
    [0, 1, 2, 3, 4, 7, 8, 0x0F, 0x10, 0x1F, 0x20, 0x40, 0x7F, 0x80, 0xE4, 0xEA, 0xFE, 0xFF]
)
INTERESTING_WORDS = (
    [value.to_bytes(2, "big") for value in (0, 1, 4, 0x18, 0x1C, 0x20, 0x7FFF, 0x8000, 0xFFFF)]
    + [value.to_bytes(3, "big") for value in (0, 1, 0x200, 0x2000, 0xFFFFFF)]
    + [value.to_bytes(4, "big") for value in (0, 1, 0x20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)]
    + [value.to_bytes(8, "big") for value in (0, 1, 1 << 63, (1 << 64) - 1)]
)
LONGEST = 4096
"""Bytes of a mutated case; it may be longer only where its corpus entry is."""
LONGEST_RANDOM = 256


class Mutator:
    """A stream of cases made from a corpus."""

    def __init__(self, corpus: list[bytes], seed: str) -> None:
        self._corpus = corpus
        self._random = Random(seed)
        self._mutations: tuple[Callable[[bytearray], None], ...] = (
            self._flip,
            self._flip,
            self._set,
            self._interesting_byte,
            self._interesting_byte,
            self._interesting_word,
            self._interesting_word,
            self._cut,
            self._append,
            self._delete,
            self._repeat,
            self._splice,
        )

    def cases(self, first: list[bytes]) -> Iterator[bytes]:
        """Without end: `first` as they are, then made ones."""
        yield from first
        while True:
            yield self.case()

    def case(self) -> bytes:
        random = self._random.random
        if random() < 0.125:
            return self._random.randbytes(int(random() * LONGEST_RANDOM))
        original = self._pick()
        data = bytearray(original)
        for _ in range(1 + int(random() * 4)):
            self._mutations[int(random() * len(self._mutations))](data)
        limit = max(LONGEST, len(original))
        return bytes(data[:limit])

    def _pick(self) -> bytes:
        return self._corpus[int(self._random.random() * len(self._corpus))]

    def _at(self, data: bytearray) -> int:
        return int(self._random.random() * len(data))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] ^= 1 << int(self._random.random() * 8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] = int(self._random.random() * 256)

    def _interesting_byte(self, data: bytearray) -> None:
        if data:
            choice = int(self._random.random() * len(INTERESTING_BYTES))
            data[self._at(data)] = INTERESTING_BYTES[choice]

    def _interesting_word(self, data: bytearray) -> None:
        word = INTERESTING_WORDS[int(self._random.random() * len(INTERESTING_WORDS))]
        at = self._at(data)
        data[at : at + len(word)] = word

    def _cut(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _append(self, data: bytearray) -> None:
        data += self._random.randbytes(1 + int(self._random.random() * 40))

    def _delete(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + 1 + int(self._random.random() * 32)]

    def _repeat(self, data: bytearray) -> None:
        at = self._at(data)
        piece = data[at : at + 1 + int(self._random.random() * 64)]
        data[at:at] = piece

    def _splice(self, data: bytearray) -> None:
        other = self._pick()
        at = self._at(data)
        start = int(self._random.random() * len(other)) if other else 0
        data[at:] = other[start:]
