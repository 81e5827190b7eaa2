"""Changes that make a valid file harmful: of its JSON, of its bytes."""

import copy
import json
import math

from hypothesis import strategies as st

# Written into JSON as it stands.
_MARK = "raw token "
DEEP = _MARK + "[" * 20_000 + "]" * 20_000

NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 255, 256, 65_536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64),
    *(
        1000,
        4096,
        5000,
        10**9,
        -(10**9),
        10**18,
        10**40,
        10**400,
        0.5,
        -0.5,
        1e-320,
        1e-30,
        1e30,
        1e300,
        -1e300,
    ),
    *(math.nan, math.inf, -math.inf),
)
TEXTS = (
    *("", " ", "x", "\x00", "a\nb", "\u202eabc", "\ud83d\ude00", "é" * 300, "x" * 100_000),
    *("../../../etc/passwd", "/etc/passwd", "./", "../", "/", "NaN", "1e999", "{}", "a'b\"c`$(id)"),
    *(
        "float32",
        "uint8",
        "unet",
        "resnet18",
        "building",
        "/vsizip//tmp/a.zip",
        "https://localhost:1/a",
    ),
)
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": {"b": [1]}}, [0] * 10_000, [1e300], DEEP)
VALUES = (*NUMBERS, *TEXTS, *OTHERS)


def values():
    """Values that no header should have, and some that it may have."""
    return st.sampled_from(range(len(VALUES))).map(VALUES.__getitem__)


@st.composite
def changed_json(draw, document):
    """A document with up to three values replaced, removed, added, repeated or nested."""
    tree = {"": copy.deepcopy(document)}
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        places = list(_places(tree))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(
            st.sampled_from(("nudge",) * 5 + ("replace",) * 4 + ("remove", "add", "repeat", "nest"))
        )
        _change(draw, holder, key, change)
    return tree.get("")


def _change(draw, holder, key, change):
    value = holder[key]
    if change == "remove" and key != "":
        del holder[key]
    elif change == "add" and isinstance(value, dict):
        value[draw(st.sampled_from(TEXTS))] = copy.deepcopy(draw(values()))
    elif change == "repeat" and isinstance(value, list):
        holder[key] = value * draw(st.sampled_from((0, 2, 1000)))
    elif change == "nudge":
        holder[key] = _nudge(draw, value)
    elif change == "nest":
        holder[key] = [value] if draw(st.booleans()) else {"a": value}
    else:
        holder[key] = copy.deepcopy(draw(values()))


def _nudge(draw, value):
    """A value near a valid one, which may pass the checks of its type and range."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * draw(st.sampled_from((-1, 0, 0.5, 2, 10, 1000, 1e6))) + draw(
            st.sampled_from((0, 0, 1, -1))
        )
    if isinstance(value, str):
        return draw(
            st.sampled_from((value.upper(), value[1:], value * 2, f"{value}/..", f"{value}\n"))
        )
    if isinstance(value, list):
        return draw(st.sampled_from((value[1:], value[::-1], value + value[:1])))
    if isinstance(value, dict):
        return dict(list(value.items())[1:])
    return value


def _places(tree):
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def to_text(document):
    """JSON of a changed document, with NaN, infinities and raw tokens."""
    text = json.dumps(document)
    return text.replace(f'"{DEEP}"', DEEP.removeprefix(_MARK))


@st.composite
def changed_bytes(draw, data):
    """Bytes that are cut, flipped, overwritten, repeated or removed in up to four places."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        size = len(changed)
        if not size:
            break
        # Headers are at the beginning or the end of a file.
        start = draw(
            st.one_of(
                st.integers(0, size - 1),
                st.integers(0, min(size, 400) - 1),
                st.integers(max(0, size - 400), size - 1),
            )
        )
        change = draw(st.sampled_from(("cut", "flip", "set", "set", "insert", "repeat", "remove")))
        length = draw(st.sampled_from((1, 2, 4, 8, 64, 1000)))
        if change == "cut":
            del changed[start:]
        elif change == "flip":
            changed[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            word = draw(st.sampled_from((b"\xff", b"\x00", b"\x7f", b"\x80", b"\x01", b"[")))
            changed[start : start + length] = word * min(length, size - start)
        elif change == "insert":
            changed[start:start] = draw(st.binary(min_size=1, max_size=16))
        elif change == "repeat":
            changed[start:start] = changed[start : start + length]
        else:
            del changed[start : start + length]
    return bytes(changed)
