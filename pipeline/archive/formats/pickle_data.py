"""Reads a pickle as data: an interpreter of its opcodes that looks nothing up, imports nothing and calls nothing.

`read_pickle(data)` builds plain values; whatever the pickle would call stays a `Call` that says what and with which
arguments. The C unpickler with a stubbed `find_class` is as safe against code, and not against memory: one opcode
makes it allocate a memo of 32 GB, and a deep tuple as a dict key overflows its stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.archive.guarded import short

MAX_OPCODES = 4_000_000
"""A checkpoint of 3000 tensors has 100 000; each makes at most 80 bytes of objects."""
MAX_TEXT = 64 << 20
"""Bytes of text that is not ASCII, as Python may keep it: four per character."""
MAX_NUMBER_BYTES = 1024
"""Of one whole number."""
MAX_KEY_PARTS = 16
"""Of a tuple as a dict key: longer ones would be hashed again and again."""


class PickleError(ValueError):
    """The pickle is damaged, or larger than is sensible for what describes a checkpoint."""


class PickleCutError(PickleError):
    """The data ends before the pickle does."""


class _EndOfDataError(ValueError):
    pass


class Global:
    """A name that the pickle would import."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __repr__(self) -> str:
        return f"{self.module:.80}.{self.name:.80}"


class Call:
    """What the pickle would call: never called. `state` is what it would set afterwards, `entries` and `items` what
    it would put into it (a dict subclass, a list subclass)."""

    __slots__ = ("args", "entries", "function", "items", "kwargs", "state")

    def __init__(self, function: Any, args: Any, kwargs: Any = None) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.state: Any = None
        # None until something is put in: a hostile pickle can make millions of calls.
        self.entries: dict[Any, Any] | None = None
        self.items: list[Any] | None = None

    def __repr__(self) -> str:
        return f"{self.function!r}(...)" if isinstance(self.function, Global) else "an object"


class Persistent:
    """An object that lives outside of the pickle, by its id: torch's storages."""

    __slots__ = ("id",)

    def __init__(self, pid: Any) -> None:
        self.id = pid


@dataclass(frozen=True)
class Pickled:
    """One pickle's value, the byte behind its end, and the persistent objects that it refers to."""

    value: Any
    end: int
    persistent: list[Persistent]


class _Key:
    """Stands in for a dict key that is not plain; hashing an arbitrary one could run deep."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Stop(Exception):  # noqa: N818 - the end of the pickle, not an error
    pass


_PLAIN = (str, int, float, bool, bytes, type(None), Global, Call, Persistent)


def _key(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple) and len(value) <= MAX_KEY_PARTS and all(isinstance(part, _PLAIN) for part in value):
        return value
    return _Key(value)


_BINPUT, _LONG_BINPUT, _BINGET, _LONG_BINGET, _BININT1, _MARK = b"qrhjK("


def read_pickle(data: bytes, max_opcodes: int = MAX_OPCODES) -> Any:
    """The value a pickle describes (protocols 0 to 5), with `Call`, `Global` and `Persistent` where it would act."""
    return read_pickle_at(data, 0, max_opcodes).value


def read_pickle_at(data: bytes, start: int, max_opcodes: int = MAX_OPCODES) -> Pickled:
    """The pickle that begins at byte `start`. PickleCutError when `data` ends inside it."""
    machine = _Machine(data, start)
    at, stack, marks, memo, handlers = start, machine.stack, machine.marks, machine.memo, _HANDLERS
    try:
        for _ in range(max_opcodes):
            opcode = data[at]
            at += 1
            # The opcodes that nine of ten are, in place: a checkpoint has tens of thousands, and many checkpoints.
            if opcode == _BINPUT:
                memo[data[at]] = stack[-1]
                at += 1
            elif opcode == _LONG_BINPUT:
                memo[int.from_bytes(data[at : at + 4], "little")] = stack[-1]
                at += 4
            elif opcode == _BINGET:
                stack.append(memo[data[at]])
                at += 1
            elif opcode == _LONG_BINGET:
                stack.append(memo[int.from_bytes(data[at : at + 4], "little")])
                at += 4
            elif opcode == _BININT1:
                stack.append(data[at])
                at += 1
            elif opcode == _MARK:
                marks.append(len(stack))
            else:
                machine.at = at
                handlers[opcode](machine)
                at = machine.at
    except _Stop:
        return Pickled(machine.result, machine.at, machine.persistent)
    except _EndOfDataError as error:
        raise PickleCutError(f"ends too early, after byte {at}: {error}") from error
    except KeyError as error:
        _raise_if_cut(data, at)
        raise PickleError(f"unknown opcode or memo {short(error.args[0])} before byte {at}") from error
    except (IndexError, ValueError, TypeError, AttributeError, struct.error, OverflowError) as error:
        _raise_if_cut(data, at)
        raise PickleError(f"broken before byte {at}: {str(error)[:200]}") from error
    raise PickleError(f"more than {max_opcodes} opcodes")


def _raise_if_cut(data: bytes, at: int) -> None:
    """PickleCutError when an opcode or its argument of four bytes can lie beyond the end."""
    if at + 4 > len(data):
        raise PickleCutError(f"cut off: it has no end after {len(data):,} bytes")


class _Machine:
    """The state of the interpreter: position, stack, marks, memo, and the persistent objects so far."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.at = data, start
        self.persistent: list[Persistent] = []
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None
        self.text_bytes = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _EndOfDataError(f"{count:,} bytes expected, {len(self.data) - self.at:,} remain")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def text(self, count: int) -> str:
        text = self.take(count).decode("utf-8", "surrogatepass")
        if not text.isascii():
            self.text_bytes += 4 * len(text)
            if self.text_bytes > MAX_TEXT:
                raise ValueError(f"more than {MAX_TEXT} bytes of text that is not ASCII")
        return text

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _EndOfDataError("a line without an end")
        text = self.data[self.at : end]
        self.at = end + 1
        return text.decode("latin-1")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items


def _set_entries(target: Any, flat: list[Any]) -> None:
    if isinstance(target, Call):
        target.entries = entries = target.entries or {}
    else:
        entries = target
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        entries[_key(key)] = value


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, Call):
        target.items = target = target.items or []
    target.extend(values)


def _global(m: _Machine) -> None:
    module = m.line()
    m.push(Global(module, m.line()))


def _stack_global(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a global's name is not a string")
    m.push(Global(module, name))


def _reduce(m: _Machine) -> None:
    args = m.stack.pop()
    m.push(Call(m.stack.pop(), args))


def _new_with_keywords(m: _Machine) -> None:
    kwargs, args = m.stack.pop(), m.stack.pop()
    m.push(Call(m.stack.pop(), args, kwargs))


def _build(m: _Machine) -> None:
    state = m.stack.pop()
    if isinstance(m.stack[-1], Call):
        m.stack[-1].state = state


def _inst(m: _Machine) -> None:
    module = m.line()
    name = m.line()
    m.push(Call(Global(module, name), tuple(m.pop_mark())))


def _obj(m: _Machine) -> None:
    function, *args = m.pop_mark()
    m.push(Call(function, tuple(args)))


def _pop(m: _Machine) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.stack.pop()


def _dict(m: _Machine) -> None:
    entries: dict[Any, Any] = {}
    _set_entries(entries, m.pop_mark())
    m.push(entries)


def _set_item(m: _Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_entries(m.stack[-1], [key, value])


def _set_items(m: _Machine) -> None:
    flat = m.pop_mark()
    _set_entries(m.stack[-1], flat)


def _append(m: _Machine) -> None:
    value = m.stack.pop()
    _extend(m.stack[-1], [value])


def _appends(m: _Machine) -> None:
    values = m.pop_mark()
    _extend(m.stack[-1], values)


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def make(m: _Machine) -> None:
        if len(m.stack) < count:
            raise ValueError("the stack is empty")
        items = tuple(m.stack[-count:])
        del m.stack[-count:]
        m.push(items)

    return make


def _text(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.text(m.number(width)))


def _latin(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.number(width)).decode("latin-1"))


def _bytes(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.number(width)))


def _long(width: int) -> Callable[[_Machine], None]:
    def make(m: _Machine) -> None:
        if (count := m.number(width)) > MAX_NUMBER_BYTES:
            raise ValueError(f"a whole number of {count} bytes")
        m.push(int.from_bytes(m.take(count), "little", signed=True))

    return make


def _int_line(m: _Machine) -> None:
    text = m.line()
    m.push({"00": False, "01": True}[text] if text in ("00", "01") else int(text))


def _persistent(m: _Machine, pid: Any) -> None:
    m.persistent.append(Persistent(pid))
    m.push(m.persistent[-1])


def _stop(m: _Machine) -> None:
    m.result = m.stack.pop()
    raise _Stop


def _refuse(m: _Machine) -> None:
    raise ValueError("extension codes and out-of-band buffers, which checkpoints never contain")


_HANDLERS: dict[int, Callable[[_Machine], None]] = {
    ord(code): handler
    for code, handler in {
        ".": _stop,
        "0": _pop,
        "1": lambda m: m.pop_mark() and None,
        "2": lambda m: m.push(m.stack[-1]),
        "F": lambda m: m.push(float(m.line())),
        "I": _int_line,
        "J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
        "L": lambda m: m.push(int(m.line().rstrip("L"))),
        "M": lambda m: m.push(m.number(2)),
        "N": lambda m: m.push(None),
        "P": lambda m: _persistent(m, m.line()),
        "Q": lambda m: _persistent(m, m.stack.pop()),
        "R": _reduce,
        "S": lambda m: m.push(m.line()[1:-1]),
        "T": _latin(4),
        "U": _latin(1),
        "V": lambda m: m.push(m.line().encode("latin-1").decode("raw-unicode-escape")),
        "X": _text(4),
        "a": _append,
        "b": _build,
        "c": _global,
        "d": _dict,
        "}": lambda m: m.push({}),
        "e": _appends,
        "g": lambda m: m.push(m.memo[int(m.line())]),
        "i": _inst,
        "l": lambda m: m.push(m.pop_mark()),
        "]": lambda m: m.push([]),
        "o": _obj,
        "p": lambda m: m.memo.__setitem__(int(m.line()), m.stack[-1]),
        "s": _set_item,
        "t": lambda m: m.push(tuple(m.pop_mark())),
        ")": lambda m: m.push(()),
        "u": _set_items,
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "\x80": lambda m: m.take(1) and None,
        "\x81": _reduce,
        "\x82": _refuse,
        "\x83": _refuse,
        "\x84": _refuse,
        "\x85": _tuple_of(1),
        "\x86": _tuple_of(2),
        "\x87": _tuple_of(3),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "\x8a": _long(1),
        "\x8b": _long(4),
        "B": _bytes(4),
        "C": _bytes(1),
        "\x8c": _text(1),
        "\x8d": _text(8),
        "\x8e": _bytes(8),
        # Sets become lists: their elements need not be hashed.
        "\x8f": lambda m: m.push([]),
        "\x90": _appends,
        "\x91": lambda m: m.push(m.pop_mark()),
        "\x92": _new_with_keywords,
        "\x93": _stack_global,
        "\x94": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
        "\x95": lambda m: m.take(8) and None,
        "\x96": _bytes(8),
        "\x97": _refuse,
        "\x98": _refuse,
    }.items()
}
