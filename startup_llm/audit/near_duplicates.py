"""Near-equal texts in about linear time.

Each text is the set of its 4-character shingles. MinHash (Broder 1997) keeps 64 numbers per text, of which two texts
share as large a part as their sets do (Jaccard similarity); banded locality-sensitive hashing (Leskovec et al., Mining
of Massive Datasets, section 3.4) brings those together that agree on a band of 4; the pairs that come together are
then compared exactly, so what is reported is never an estimate.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

SHINGLE_CHARACTERS = 4
BANDS, ROWS_PER_BAND = 16, 4
_COMPARED_CHARACTERS = 5_000
_BATCH_TEXTS = 20_000
_BATCH_PAIRS = 20_000
_CROWD = 8
_NEIGHBOURS = 4
_PREFILTER_SLACK = 0.12
"""How far signatures may be below the wanted similarity: more than two standard errors of their estimate."""
_WORD = re.compile(r"\w+")


def find_near_duplicates(texts: Sequence[str], similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of texts that are near-equal, punctuation, case and white space aside.

    In a crowd of like texts not every pair is compared, but each text with some neighbours and with the first, and no
    longer when both have eight partners.

    Args:
        texts: Different texts.
        similarity: Least Jaccard similarity of a pair, above 0.5 (below, the bands would miss many).

    Returns:
        Pairs of positions, shape (pairs, 2), int64, the smaller first, ordered; and their similarity, shape (pairs,).
    """
    normal = [normalise_text(text)[:_COMPARED_CHARACTERS] for text in texts]
    compared, shares = np.empty(0, np.int64), np.empty(0)
    partners = np.zeros(len(normal), np.int64)
    for candidates in _propose_pairs(compute_signatures(normal), similarity):
        ends = np.stack([candidates // len(normal), candidates % len(normal)])
        candidates = candidates[(partners[ends] < _CROWD).any(axis=0) & ~np.isin(candidates, compared)]
        new = [np.empty(0)]
        for start in range(0, len(candidates), _BATCH_PAIRS):
            batch = candidates[start : start + _BATCH_PAIRS]
            left, right = ([normal[i] for i in side] for side in (batch // len(normal), batch % len(normal)))
            new.append(compute_similarities(left, right))
        compared, shares = np.concatenate([compared, candidates]), np.concatenate([shares, *new])
        near = candidates[np.concatenate(new) >= similarity]
        partners += np.bincount(np.concatenate([near // len(normal), near % len(normal)]), minlength=len(normal))
    order = np.argsort(compared, kind="stable")
    order = order[shares[order] >= similarity]
    pairs = compared[order]
    return np.stack([pairs // max(len(normal), 1), pairs % max(len(normal), 1)], axis=1), shares[order]


def normalise_text(text: str) -> str:
    """Return a text's words in lower case; of a text without words, its characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()


def hash_shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of `SHINGLE_CHARACTERS` characters of each text, a space before and after it.

    Returns:
        Hashes of all texts one after the other, shape (shingles,), uint32; and where each text's begin, with the end
        of the last, shape (texts + 1,). Every text has one at least.
    """
    width = SHINGLE_CHARACTERS
    padded = [f" {text} ".ljust(width) for text in texts]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    windows = len(codes) - width + 1
    hashes = np.zeros(windows, np.uint32)
    for offset in range(width):
        hashes = hashes * np.uint32(0x01000193) + codes[offset : offset + windows]
    crosses = np.zeros(len(codes), bool)  # windows that reach into the next text
    ends = lengths.cumsum()
    for distance in range(1, width):
        crosses[ends - distance] = True
    return _mix(hashes[~crosses[:windows]]), np.concatenate([[0], (lengths - width + 1).cumsum()])


def compute_signatures(texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """Return MinHash signatures, shape (texts, 64), uint32.

    A permutation is h -> a h + b mod 2^32 with odd a, a bijection, as in datasketch's scheme affine32.
    """
    generator = np.random.default_rng(seed)
    count = BANDS * ROWS_PER_BAND
    factors = generator.integers(0, 2**31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    offsets = generator.integers(0, 2**32, count, dtype=np.uint32)
    signatures = np.empty((len(texts), count), np.uint32)
    for start in range(0, len(texts), _BATCH_TEXTS):
        hashes, starts = hash_shingles(texts[start : start + _BATCH_TEXTS])
        for column, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
            lowest = np.minimum.reduceat(hashes * factor + offset, starts[:-1])
            signatures[start : start + _BATCH_TEXTS, column] = lowest
    return signatures


def compute_similarities(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """Return the Jaccard similarity of the texts' shingle sets, pair by pair, shape (pairs,)."""
    sets = []
    for texts in (left, right):
        hashes, starts = hash_shingles(texts)
        owners = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(starts))
        sets.append(_sort_distinct(owners << np.uint64(32) | hashes))
    both = np.sort(np.concatenate(sets))
    shared = both[1:][both[1:] == both[:-1]]
    sizes = [np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(left)) for keys in (*sets, shared)]
    return sizes[2] / (sizes[0] + sizes[1] - sizes[2])


def _propose_pairs(signatures: np.ndarray, similarity: float) -> Iterator[np.ndarray]:
    """Yield per band the pairs that share it, as smaller * texts + larger, but for those whose signatures differ."""
    count = len(signatures)
    for band in range(BANDS):
        part = signatures[:, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]
        keys = np.zeros(count, np.uint64)
        for column in part.T:
            keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(32)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(count, 1), bool), keys[1:] != keys[:-1]]))
        leader = np.repeat(first, np.diff(np.append(first, count)))  # where each one's group begins
        follows = np.arange(count) - leader
        is_small = np.repeat(np.diff(np.append(first, count)), np.diff(np.append(first, count))) <= _CROWD**2
        places = [
            np.flatnonzero((follows >= distance) & (is_small | (distance == 1)))
            for distance in range(1, _NEIGHBOURS + 1)
        ]
        left = [place - distance for distance, place in enumerate(places, start=1)]
        far = np.flatnonzero(follows > _NEIGHBOURS)
        ends = np.stack([order[np.concatenate([*left, leader[far]])], order[np.concatenate([*places, far])]])
        pairs = _sort_distinct(ends.min(axis=0) * count + ends.max(axis=0))
        kept = [np.empty(0, np.int64)]
        for start in range(0, len(pairs), _BATCH_PAIRS):
            batch = pairs[start : start + _BATCH_PAIRS]
            agree = (signatures[batch // count] == signatures[batch % count]).mean(axis=1)
            kept.append(batch[agree >= similarity - _PREFILTER_SLACK])
        yield np.concatenate(kept)


def _sort_distinct(values: np.ndarray) -> np.ndarray:
    """Return the different values, ascending; `np.unique` hashes them, several times slower for such keys."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(len(values), 1), bool), values[1:] != values[:-1]])]


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Scatter hashes over 32 bits: the finalizer of MurmurHash3."""
    hashes = (hashes ^ hashes >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ hashes >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return hashes ^ hashes >> np.uint32(16)
