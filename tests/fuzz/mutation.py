"""How programs are changed: by records and pieces half of the time, else as libFuzzer changes any bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

from program import ACTIONS, MARK, PIECES, encode

_LETTERS = [letter.encode() for letter in ACTIONS]
_COMMON = [letter.encode() for letter in "cccCCnkhxrrrRRofzwwuvaAlistpq"]
# Records worth putting anywhere, beside those of the seeds.
_RECORDS = [
    *(b"w" + bytes([at]) for at in range(7)),
    *(b"u" + bytes([at]) for at in range(10)),
    *(letter for letter in _LETTERS),
    encode("r HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    encode("r hello"),
    encode("c hello"),
    encode("c 0\r\n\r\n"),
    encode("r 0\r\n\r\n"),
]


class Mutator:
    """`seeds`: programs that are begun with anew, and whose records are put into others.

    `mutate` is libFuzzer's own way. One time in four it is not what was given that is changed, but a seed: the corpus
    grows by what covers more, and soon hardly ever offers the plain conversations in which a state goes wrong.
    """

    def __init__(self, seeds: list[bytes], mutate: Callable[[bytes, int], bytes]) -> None:
        self._records = _RECORDS + [record for seed in seeds for record in seed.split(MARK) if record]
        self._seeds = seeds
        self._mutate = mutate

    def __call__(self, data: bytes, limit: int, seed: int) -> bytes:
        dice = random.Random(seed)
        way = dice.random()
        if way < 0.25:
            return self._mutate(data, limit)
        if way < 0.5:
            data = dice.choice(self._seeds)
        records = [record for record in data.split(MARK) if record]
        for _ in range(dice.choice((1, 1, 2, 3, 5))):
            dice.choice(_CHANGES)(self, records, dice)
        return MARK.join(records)[:limit]

    def insert(self, records: list[bytes], dice: random.Random) -> None:
        records.insert(dice.randint(0, len(records)), dice.choice(self._records))

    def replace(self, records: list[bytes], dice: random.Random) -> None:
        if records:
            records[dice.randrange(len(records))] = dice.choice(self._records)

    def append(self, records: list[bytes], dice: random.Random) -> None:
        """Another conversation behind this one, or in the middle of it."""
        at = len(records) if dice.random() < 0.5 else dice.randint(0, len(records))
        records[at:at] = [record for record in dice.choice(self._seeds).split(MARK) if record]

    def remove(self, records: list[bytes], dice: random.Random) -> None:
        if records:
            del records[dice.randrange(len(records))]

    def copy(self, records: list[bytes], dice: random.Random) -> None:
        if records:
            records.insert(dice.randint(0, len(records)), dice.choice(records))

    def swap(self, records: list[bytes], dice: random.Random) -> None:
        if len(records) > 1:
            a, b = dice.randrange(len(records)), dice.randrange(len(records))
            records[a], records[b] = records[b], records[a]

    def split(self, records: list[bytes], dice: random.Random) -> None:
        """What was said at once is said in two."""
        if records:
            at = dice.randrange(len(records))
            record = records[at]
            if len(record) > 2 and record[:1] in b"cnr":
                cut = dice.randint(2, len(record) - 1)
                letter = b"c" if record[:1] == b"n" else record[:1]
                records[at : at + 1] = [record[:cut], letter + record[cut:]]

    def shred(self, records: list[bytes], dice: random.Random) -> None:
        """What was said at once is said in small pieces."""
        if records:
            at = dice.randrange(len(records))
            record = records[at]
            if record[:1] in b"cr":
                records[at] = record[:1].upper() + bytes([dice.randrange(8)]) + record[1:]

    def join(self, records: list[bytes], dice: random.Random) -> None:
        if len(records) > 1:
            at = dice.randrange(len(records) - 1)
            if records[at][:1] == records[at + 1][:1]:
                records[at : at + 2] = [records[at] + records[at + 1][1:]]

    def letter(self, records: list[bytes], dice: random.Random) -> None:
        if records:
            at = dice.randrange(len(records))
            records[at] = dice.choice(_COMMON) + records[at][1:]

    def piece(self, records: list[bytes], dice: random.Random) -> None:
        """Another piece in the place of one, or between two."""
        if records:
            at = dice.randrange(len(records))
            record = records[at]
            places = [place for place in range(1, len(record)) if record[place] >= 0x80] or [len(record)]
            place = dice.choice(places)
            piece = bytes([0x80 + dice.randrange(len(PIECES))])
            records[at] = record[:place] + piece + record[place + dice.randrange(2) :]

    def byte(self, records: list[bytes], dice: random.Random) -> None:
        if records:
            at = dice.randrange(len(records))
            record = records[at]
            place = dice.randint(1, len(record))
            records[at] = record[:place] + bytes([dice.randrange(255)]) + record[place + dice.randrange(2) :]

    def drop(self, records: list[bytes], dice: random.Random) -> None:
        """A byte, or the end of what is said, goes."""
        if records:
            at = dice.randrange(len(records))
            record = records[at]
            if len(record) > 1:
                place = dice.randrange(1, len(record))
                records[at] = record[:place] + (record[place + 1 :] if dice.random() < 0.6 else b"")


_CHANGES = [
    Mutator.insert,
    Mutator.insert,
    Mutator.replace,
    Mutator.replace,
    Mutator.append,
    Mutator.remove,
    Mutator.copy,
    Mutator.swap,
    Mutator.split,
    Mutator.shred,
    Mutator.join,
    Mutator.letter,
    Mutator.piece,
    Mutator.piece,
    Mutator.byte,
    Mutator.drop,
]
