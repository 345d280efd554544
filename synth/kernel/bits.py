"""Random members of sets, which are masks over slots or words whose bits are the members."""

from synth.kernel.jit import jit
from synth.kernel.rng import below


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
