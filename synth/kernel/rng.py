"""Addressed randomness, random members of sets, and hashes: integers that are the same with and without numba.

Every random thing in the lab is a pure function of (seed, stream name, index): the triple is hashed to 128 bits, which
start a fresh generator (xoshiro128++, Blackman & Vigna 2021: 32-bit words, no multiplication, so plain Python integers
and compiled 64-bit ones agree). Nothing is ever seeded with `seed + index`. In kernels a generator is called `s`; a set
is a mask over slots, or a word whose bits are the members.

    >>> key(0, "data", 7) == key(0, "data", 7), key(0, "data", 7) == key(7, "data", 0)
    (True, False)
"""

import hashlib
import math
from collections.abc import Iterable

import numpy as np

from synth.kernel.jit import jit


def _digest(seed: int, stream: str, index: int, size: int) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{stream}\x1f{index}".encode(), digest_size=size).digest()


def key(seed: int, stream: str, index: int) -> int:
    """The 63-bit non-negative integer addressed by (seed, stream, index); ours. Fits every library's seed argument."""
    return int.from_bytes(_digest(seed, stream, index, 8), "little") >> 1


def generators(seed: int, stream: str, indices: Iterable[int]) -> np.ndarray:
    """Generators int64[N, 4], one for each index: each row is the state of an xoshiro128++ in four 32-bit words."""
    digests = b"".join(_digest(seed, stream, int(index), 16) for index in indices)
    words = np.frombuffer(digests, dtype="<u4").astype(np.int64).reshape(-1, 4)
    words[~words.any(axis=1), 0] = 1  # the all-zero state is the generator's one fixed point
    return words


@jit
def next32(s):
    """Next 32-bit word of xoshiro128++; `s` is a generator int64[4], changed in place."""
    x = (s[0] + s[3]) & 0xFFFFFFFF
    result = ((((x << 7) | (x >> 25)) & 0xFFFFFFFF) + s[0]) & 0xFFFFFFFF
    t = (s[1] << 9) & 0xFFFFFFFF
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = ((s[3] << 11) | (s[3] >> 21)) & 0xFFFFFFFF
    return result


@jit
def below(s, n):
    """Uniform integer in 0..n-1 by multiply-and-shift; bias below n / 2**32."""
    return (next32(s) * n) >> 32


@jit
def uniform(s):
    """Uniform float in [0, 1) with 53 random bits."""
    high = next32(s) >> 5
    low = next32(s) >> 6
    return (high * 67108864.0 + low) / 9007199254740992.0


@jit
def half_normal(s):
    """|N(0, 1)| by Box and Muller."""
    return abs(math.sqrt(-2.0 * math.log(1.0 - uniform(s))) * math.cos(2.0 * math.pi * uniform(s)))


@jit
def shuffle(s, array, n):
    """Uniform random permutation of the first n entries of `array`, in place (Fisher and Yates)."""
    for i in range(n - 1, 0, -1):
        j = below(s, i + 1)
        array[i], array[j] = array[j], array[i]


@jit
def pick(s, mask):
    """A uniformly random slot among those with mask > 0, or -1 when there is none."""
    count = 0
    for x in range(mask.shape[0]):
        if mask[x] > 0:
            count += 1
    if count == 0:
        return -1
    chosen = below(s, count)
    for x in range(mask.shape[0]):
        if mask[x] > 0:
            if chosen == 0:
                return x
            chosen -= 1
    return -1


@jit
def count_bits(word):
    """Number of bits set in a non-negative word of at most 48 bits."""
    word = word - ((word >> 1) & 0x5555555555555555)
    word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F
    word += word >> 8
    word += word >> 16
    return (word + (word >> 32)) & 0x7F


@jit
def lowest(word):
    """Index of the lowest bit set in a positive word."""
    return count_bits((word & -word) - 1)


@jit
def pick_bit(s, word):
    """Index of a uniformly random bit set in `word`, or -1 when there is none."""
    count = count_bits(word)
    if count == 0:
        return -1
    for _ in range(below(s, count)):
        word &= word - 1
    return lowest(word)


@jit
def mix(h, x):
    """One round of a 32-bit hash (murmur3's finaliser on h xor x); products stay below 2**63."""
    h = (int(h) ^ (int(x) & 0xFFFFFFFF)) & 0xFFFFFFFF
    h ^= h >> 16
    h = (h * 0x45D9F3B) & 0xFFFFFFFF
    h ^= h >> 15
    h = (h * 0x2C1B3C6D) & 0xFFFFFFFF
    h ^= h >> 13
    return (h + 0x9E3779B9) & 0xFFFFFFFF


_K = np.array(
    [int(math.modf(p ** (1 / 3))[0] * 2**32) for p in range(2, 312) if all(p % q for q in range(2, math.isqrt(p) + 1))],
    dtype=np.int64,
)
_H = np.array([int(math.modf(math.sqrt(p))[0] * 2**32) for p in (2, 3, 5, 7, 11, 13, 17, 19)])


@jit
def sha256_mod(message, length, modulus):
    """SHA-256 (FIPS 180-4) of the first `length` bytes of the integer array `message`, as an integer mod `modulus`.
    Needed inside compiled code because a draw is accepted or rejected by its template's hash; equality with hashlib is
    tested."""
    blocks = (length + 8) // 64 + 1
    h = _H.copy()
    w = np.zeros(64, dtype=np.int64)
    for block in range(blocks):
        start = block * 64
        if start + 64 <= length:
            for t in range(16):
                q = start + t * 4
                word = (int(message[q]) << 24) | (int(message[q + 1]) << 16) | (int(message[q + 2]) << 8)
                w[t] = word | int(message[q + 3])
        else:
            for t in range(16):
                word = 0
                for q in range(start + t * 4, start + t * 4 + 4):
                    byte = int(message[q]) if q < length else (0x80 if q == length else 0)
                    word = (word << 8) | byte
                w[t] = word
            if block == blocks - 1:
                w[15] = length * 8
        for t in range(16, 64):  # a word beside its copy rotates right by one shift
            u, v = int(w[t - 15]), int(w[t - 2])
            u2, v2 = u | (u << 32), v | (v << 32)
            s0 = (u2 >> 7) ^ (u2 >> 18) ^ (u >> 3)
            s1 = (v2 >> 17) ^ (v2 >> 19) ^ (v >> 10)
            w[t] = (int(w[t - 16]) + (s0 & 0xFFFFFFFF) + int(w[t - 7]) + (s1 & 0xFFFFFFFF)) & 0xFFFFFFFF
        a, b, c, d, e, f, g, hh = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
        for t in range(64):
            e2, a2 = e | (e << 32), a | (a << 32)
            s1 = ((e2 >> 6) ^ (e2 >> 11) ^ (e2 >> 25)) & 0xFFFFFFFF
            t1 = (hh + s1 + (g ^ (e & (f ^ g))) + _K[t] + w[t]) & 0xFFFFFFFF
            s0 = ((a2 >> 2) ^ (a2 >> 13) ^ (a2 >> 22)) & 0xFFFFFFFF
            majority = (a & b) | (c & (a | b))
            t2 = (s0 + majority) & 0xFFFFFFFF
            hh, g, f, e, d, c, b, a = g, f, e, (d + t1) & 0xFFFFFFFF, c, b, a, (t1 + t2) & 0xFFFFFFFF
        for t, word in enumerate((a, b, c, d, e, f, g, hh)):
            h[t] = (h[t] + word) & 0xFFFFFFFF
    remainder = 0
    for t in range(8):
        remainder = ((remainder << 32) | h[t]) % modulus
    return remainder
