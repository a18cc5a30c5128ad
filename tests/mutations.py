"""Damaged files: seeded changes of bytes, of values in JSON and TOML, and of members of zip archives."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

EXTREMES = tuple(
    bytes.fromhex(value) for value in ("00000000", "ffffffff", "ffffff7f", "00000080", "01000000", "00ca9a3b")
)
"""Of 32 bits: what sizes, counts and offsets break over."""

VALUES = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    10**11,
    10**30,
    0.5,
    -2.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0é",
    [],
    [1],
    {},
    {"a": 1},
)
"""What a value of JSON is replaced by."""

WORDS = (
    "true",
    "-1",
    "0",
    "99999999999",
    "1e999",
    "nan",
    '""',
    '"x"',
    "[]",
    "[1, 2]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "[[",
    "=",
    "'''",
)
"""What a word of TOML is replaced by."""

Mutation = Callable[[bytes, random.Random], bytes]


def damage_bytes(file: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite, remove, repeat or insert bytes, sometimes many."""
    made = bytearray(file)
    at = rng.randrange(len(made))
    kind = rng.randrange(8)
    if kind == 0:
        del made[at:]
    elif kind == 1:
        made[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        for _ in range(rng.randrange(1, 20)):
            made[rng.randrange(len(made))] = rng.randrange(256)
    elif kind == 3:
        del made[at : at + rng.randrange(1, 64)]
    elif kind == 4:
        made[at:at] = made[at : at + rng.randrange(1, 64)]
    elif kind == 5:
        at -= at % 4
        made[at : at + 4] = rng.choice(EXTREMES)
    elif kind == 6:
        made[at:at] = rng.randbytes(rng.randrange(1, 16))
    else:
        made[at:at] = rng.choice([b"[", b'{"a":', b"(", b"9"]) * 100_000
    return bytes(made)


def damage_numbers(file: bytes, rng: random.Random) -> bytes:
    """Change a few of the aligned 32-bit numbers a little: lengths, offsets, indices, sizes."""
    made = bytearray(file)
    for _ in range(rng.randrange(1, 4)):
        at = 4 * rng.randrange(len(made) // 4)
        number = int.from_bytes(made[at : at + 4], "little") + rng.choice((-4, -2, -1, 1, 2, 3, 4))
        made[at : at + 4] = (number % 2**32).to_bytes(4, "little")
    return bytes(made)


def damage_json(file: bytes, rng: random.Random) -> bytes:
    """Replace, remove or rename one value, however deep it lies."""
    value = json.loads(file)
    places = list(_places(value))
    holder, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def damage_line(file: bytes, rng: random.Random) -> bytes:
    """Damage one line, each of which is JSON."""
    lines = file.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = damage_json(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def _places(value: Any) -> Any:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield value, key
        yield from _places(inner)


def damage_words(file: bytes, rng: random.Random) -> bytes:
    """Replace one word, number or sign of a text by another."""
    text = file.decode()
    found = rng.choice(list(re.finditer(r"[\w.\"]+|[^\w\s]", text)))
    return (text[: found.start()] + rng.choice(WORDS) + text[found.end() :]).encode()


def damage_member(mutations: dict[str, Mutation]) -> Mutation:
    """Damage one member of a zip archive whose name ends in a key, and pack it again, so that its checksum is right."""

    def damage(file: bytes, rng: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        chosen = rng.choice(sorted(members))
        mutation = next(mutation for end, mutation in mutations.items() if chosen.endswith(end))
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, mutation(content, rng) if name == chosen else content)
        return made.getvalue()

    return damage


def damage_header(file: bytes, rng: random.Random) -> bytes:
    """Damage the JSON in an .npy file of one string."""
    import numpy as np

    text = str(np.load(io.BytesIO(file)))
    made = io.BytesIO()
    np.save(made, np.array(damage_json(text.encode(), rng).decode()))
    return made.getvalue()
