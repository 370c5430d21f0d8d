"""numpy's random draws in compiled code, from the same stream: whoever draws next, numpy or compiled code, goes on from there.

Handing a `Generator` to numba takes longer than what is drawn with it. So compiled code works on the state of numpy's own
PCG64 where it lies in memory. Where that is laid out as numpy has it since 1.17 is looked at once; elsewhere `words` gives
None, and the callers draw with numpy.

Source: O'Neill (2014), PCG XSL RR 128/64; Lemire (2019), arXiv:1805.10941, for whole numbers below a bound.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustest.compiled import compiled

Words = NDArray[np.uint64]

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIER_LOW, _MULTIPLIER_HIGH = np.uint64(0x4385DF649FCCF645), np.uint64(0x2360ED051FC65DA4)
_ONE = np.uint64(1)


def words(rng: np.random.Generator) -> tuple[Words, Words] | None:
    """Where a generator's state lies: (4,) state and increment, lower halves first, and (2,), the last of it a 32-bit draw
    kept for later and whether there is one. None if it is no PCG64, or not laid out so. They live as long as `rng`."""
    if not isinstance(rng.bit_generator, np.random.PCG64) or not _as_known():
        return None
    return _words_of(rng.bit_generator)


def _words_of(source: np.random.PCG64) -> tuple[Words, Words]:
    address = id(source) + _inside()
    return _words_at(ctypes.c_uint64.from_address(address).value, 4), _words_at(address, 2)


def _words_at(address: int, count: int) -> Words:
    return np.ctypeslib.as_array((ctypes.c_uint64 * count).from_address(address))


@lru_cache(maxsize=1)
def _inside() -> int:
    """How far inside a PCG64 its state is described: the same for all, and sooner added than asked for."""
    source = np.random.PCG64(0)
    return _address_of(source) - id(source)


def _address_of(source: np.random.PCG64) -> int:
    address: int = source.ctypes.state_address
    return address


@lru_cache(maxsize=1)
def _as_known() -> bool:
    """True if a generator's state is found where it is looked for, beginning with a pointer to a part of the same object."""
    source = np.random.PCG64(20171017)
    np.random.Generator(source).random(dtype=np.float32)  # leaves half a draw for later
    inside = range(id(source), id(source) + sys.getsizeof(source) - 31)
    if sys.byteorder != "little" or _address_of(source) not in inside:
        return False
    if ctypes.c_uint64.from_address(_address_of(source)).value not in inside:
        return False
    state, rest = _words_of(source)
    told = source.state
    both = (told["state"]["state"], told["state"]["inc"])
    return [int(word) for word in state] == [
        half for number in both for half in (number & (1 << 64) - 1, number >> 64)
    ] and (int(rest[1]) == told["has_uint32"] | told["uinteger"] << 32)


@compiled
def _high(first: np.uint64, second: np.uint64) -> np.uint64:
    """The upper 64 bits of a product."""
    low, high = first & _LOW, first >> _HALF
    other_low, other_high = second & _LOW, second >> _HALF
    middle = high * other_low + ((low * other_low) >> _HALF)
    return high * other_high + (middle >> _HALF) + ((low * other_high + (middle & _LOW)) >> _HALF)


@compiled
def next_word(state: Words) -> np.uint64:
    """The next 64 bits."""
    low, high = state[0], state[1]
    product = low * _MULTIPLIER_LOW
    high = high * _MULTIPLIER_LOW + low * _MULTIPLIER_HIGH + _high(low, _MULTIPLIER_LOW)
    low = product + state[2]
    high = high + state[3]
    if low < product:
        high += _ONE
    state[0], state[1] = low, high
    turn = high >> np.uint64(58)
    mixed = high ^ low
    return np.uint64((mixed >> turn) | (mixed << ((np.uint64(64) - turn) & np.uint64(63))))


@compiled
def next_half(state: Words, rest: Words) -> np.uint64:
    """The next 32 bits: half of a draw, the other half is for the next time."""
    kept = rest[1]
    if kept & _LOW:
        rest[1] = kept & ~_LOW
        return np.uint64(kept >> _HALF)
    word = next_word(state)
    rest[1] = (word & ~_LOW) | _ONE
    return np.uint64(word & _LOW)


@compiled
def unit(state: Words) -> np.float64:
    """`rng.random()`."""
    return np.float64(next_word(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def small_unit(state: Words, rest: Words) -> np.float32:
    """`rng.random(dtype=np.float32)`."""
    return np.float32(next_half(state, rest) >> np.uint64(8)) * np.float32(1.0 / 16777216.0)


@compiled
def below(state: Words, rest: Words, bound: int) -> int:
    """`rng.integers(bound)`, of a bound from 1 to 2^31."""
    if bound == 1:
        return 0
    many = np.uint64(bound)
    product = next_half(state, rest) * many
    if (product & _LOW) < many:
        least = ((np.uint64(1) << _HALF) - many) % many
        while (product & _LOW) < least:
            product = next_half(state, rest) * many
    return int(np.int64(product >> _HALF))
