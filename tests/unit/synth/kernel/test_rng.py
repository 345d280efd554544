"""Addressed randomness against other people's numbers: hashlib's SHA-256, a published xoshiro vector, scipy's laws."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from synth.kernel.rng import below, generators, half_normal, key, mix, next32, sha256_mod, shuffle, uniform

# xoshiro128++ from state (1, 2, 3, 4), the reference vector that other implementations are tested with
XOSHIRO = [
    641, 1573767, 3222811527, 3517856514, 836907274, 4247214768, 3867114732, 1355841295, 495546011, 621204420,
]  # fmt: skip


def fresh(index: int = 0, stream: str = "test") -> np.ndarray:
    return generators(5, stream, [index])[0]


@given(st.binary(max_size=300), st.sampled_from([2, 23, 997, 2**31 - 1]))
def test_sha256_equals_hashlib(message, modulus):
    padded = np.frombuffer(message + b"rest that must not count", dtype=np.uint8).astype(np.int64)
    assert sha256_mod(padded, len(message), modulus) == int(hashlib.sha256(message).hexdigest(), 16) % modulus


@pytest.mark.parametrize("length", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000])
def test_sha256_at_block_edges(length):
    message = bytes(i % 251 for i in range(length))
    array = np.frombuffer(message + b"\0", dtype=np.uint8).astype(np.int64)
    assert sha256_mod(array, length, 2**31 - 1) == int(hashlib.sha256(message).hexdigest(), 16) % (2**31 - 1)


def test_generator_is_xoshiro128plusplus():
    state = np.array([1, 2, 3, 4], dtype=np.int64)
    assert [int(next32(state)) for _ in XOSHIRO] == XOSHIRO


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 2**40))
def test_key_is_pure_and_fits_every_seed_argument(seed, stream, index):
    assert key(seed, stream, index) == key(seed, stream, index)
    assert 0 <= key(seed, stream, index) < 2**63
    assert key(seed, stream, index) != key(seed, stream, index + 1)
    assert key(seed, stream, index) != key(seed + 1, stream, index)
    assert key(seed, stream, index) != key(seed, stream + "x", index)


def test_seed_and_index_do_not_add_up():
    """The usual mistake, seed + index, would make (0, 7) and (7, 0) the same, and neighbours overlap."""
    drawn = {tuple(row) for seed in range(20) for row in generators(seed, "data", range(20))}
    assert len(drawn) == 400
    assert key(0, "data", 7) != key(7, "data", 0)
    assert key(1, "1", 1) != key(11, "", 1) != key(1, "", 11)


def test_states_do_not_depend_on_the_batch():
    whole = generators(3, "data", range(10))
    assert whole.shape == (10, 4)
    assert whole.dtype == np.int64
    assert ((whole >= 0) & (whole < 2**32)).all()
    assert np.array_equal(generators(3, "data", [7, 2]), whole[[7, 2]])
    assert np.array_equal(generators(3, "data", np.array([7], dtype=np.int32)), whole[[7]])
    assert generators(3, "data", []).shape == (0, 4)


def chi_square(counts, expected) -> float:
    return float(stats.chisquare(counts, expected).pvalue)


@pytest.mark.parametrize("n", [2, 3, 23, 52])
def test_below_is_uniform(n):
    s = fresh(n)
    counts = np.bincount([int(below(s, n)) for _ in range(400 * n)], minlength=n)
    assert len(counts) == n
    assert chi_square(counts, np.full(n, 400.0)) > 1e-4


def test_below_one_is_zero():
    assert below(fresh(), 1) == 0


def test_uniform_and_half_normal_have_their_laws():
    s = fresh(1)
    flat = np.array([uniform(s) for _ in range(5000)])
    assert flat.min() >= 0
    assert flat.max() < 1
    assert stats.kstest(flat, "uniform").pvalue > 1e-4
    assert len({x * 2**53 % 2 for x in flat}) == 2  # the last of 53 bits is used
    assert stats.kstest([half_normal(s) for _ in range(5000)], "halfnorm").pvalue > 1e-4


def test_shuffle_draws_every_permutation_alike():
    s, counts = fresh(2), {}
    for _ in range(4800):
        array = np.arange(6)
        shuffle(s, array, 4)
        assert sorted(array[:4]) == [0, 1, 2, 3]
        assert list(array[4:]) == [4, 5]
        counts[tuple(array[:4])] = counts.get(tuple(array[:4]), 0) + 1
    assert len(counts) == 24
    assert chi_square(list(counts.values()), [200.0] * 24) > 1e-4


@given(st.integers(0, 2**32 - 1), st.integers(-1, 2**32 - 1))
def test_mix_stays_in_32_bits_and_is_one_to_one(h, x):
    assert 0 <= mix(h, x) < 2**32
    assert mix(h, x) != mix(h, (x & 0xFFFFFFFF) ^ 1)
