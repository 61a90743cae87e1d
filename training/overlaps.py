"""Sums over the pairs of a sparse matrix, compiled by numba: neighbours for ItemKNN, Gram matrices for EASE.

A row at a time is added up in a vector that stays in the processor's cache, so that neither a sparse product nor a sort
of its rows is ever made. The compiled code is cached beside this file. Each function releases the interpreter's lock;
`in_blocks` calls it for blocks of rows on as many threads as torch uses, with results in order.
"""
import numba
import numpy as np

LEAST = np.nextafter(0.0, 1.0)   # similarities of 0 are not neighbours
SPARSE = 8                       # below 1 / SPARSE of the catalogue, overlaps are listed rather than looked for


def parts_of(matrix):
    """(indptr, indices, data) of a csr as the functions below take it: unsigned, which spares a test of every index."""
    unsigned = np.uint64 if matrix.indices.itemsize == 8 else np.uint32
    return matrix.indptr.astype(np.uint64), matrix.indices.view(unsigned), matrix.data


@numba.njit(nogil=True, cache=True, error_model="numpy")
def nearest(first, last, by_item, by_user, norm, shrink, n, item_key, tracks, overlap, listed, counts, column, value):
    """The n nearest neighbours of the items first to last - 1; returns the item before which it stopped.

    by_item, by_user: parts_of csr (I, U) and its transpose (U, I); norm: float64 (I,)
    item_key, tracks: uint64 (I,), user_key of harness/ties.py and the track ids, which break ties as its tie_key does
    overlap: float64 (I,) of zeros; listed: int32 (I,): working memory, overlap is returned as zeros
    counts: int64 (last - first,), filled with the number of neighbours of each item
    column, value: int32 and float64 of equal length >= I, filled one item after the other in no particular order

    It stops before an item whose neighbours might not fit.
    """
    item_start, item_users, item_data = by_item
    user_start, user_items, user_data = by_user
    items, used = len(norm), 0
    similarity = np.empty(items)
    heap = np.empty(n)           # the n largest similarities so far, the least of them first
    for item in range(first, last):
        pairs = 0
        for a in range(item_start[item], item_start[item + 1]):
            pairs += np.int64(user_start[item_users[a] + 1] - user_start[item_users[a]])
        if used + min(pairs, items) > len(column):
            return item
        sparse, length = pairs * SPARSE < items, 0
        for a in range(item_start[item], item_start[item + 1]):
            user, weight = item_users[a], item_data[a]
            if sparse:
                for b in range(user_start[user], user_start[user + 1]):
                    other = user_items[b]
                    listed[length] = other
                    length += overlap[other] == 0.0
                    overlap[other] += weight * user_data[b]
            else:
                for b in range(user_start[user], user_start[user + 1]):
                    overlap[user_items[b]] += weight * user_data[b]
        overlap[item] = 0.0
        if sparse:
            for place in range(length):
                similarity[place] = overlap[listed[place]] / (norm[item] * norm[listed[place]] + shrink)
                overlap[listed[place]] = 0.0
        else:
            length = items
            for other in range(items):
                similarity[other] = overlap[other] / (norm[item] * norm[other] + shrink)
                overlap[other] = 0.0
        heap[:] = LEAST
        begin, above = used, 0
        for place in range(length):
            if similarity[place] >= heap[0]:
                column[used], value[used] = listed[place] if sparse else place, similarity[place]
                used += 1
                _replace_least(heap, similarity[place])
        end, used = used, begin
        for place in range(begin, end):
            column[used], value[used] = column[place], value[place]
            used += value[place] >= heap[0]
            above += value[place] > heap[0]
        if used - begin > n:
            used = _break_ties(column, value, begin, used, heap[0], n - above, item_key[item], tracks)
        counts[item - first] = used - begin
    return last


@numba.njit(nogil=True, cache=True)
def _break_ties(column, value, begin, end, tied, places, item_key, tracks):
    """Keep, of the entries from begin to end whose value is `tied`, the `places` of least key; the new end."""
    keys = np.empty(end - begin, np.uint64)
    count = 0
    for place in range(begin, end):
        if value[place] == tied:
            keys[count] = _key(item_key, tracks[column[place]])
            count += 1
    last = np.sort(keys[:count])[places - 1]
    used = begin
    for place in range(begin, end):
        if value[place] == tied:
            if places == 0 or _key(item_key, tracks[column[place]]) > last:
                continue
            places -= 1
        column[used], value[used] = column[place], value[place]
        used += 1
    return used


@numba.njit(nogil=True, cache=True)
def _key(item_key, track):
    """tie_key of harness/ties.py, from its user_key and a track id."""
    x = item_key ^ (track * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) & np.uint64(0x7FFFFFFFFFFFFFFF)


@numba.njit(nogil=True, cache=True)
def gram(first, last, by_row, by_column, out):
    """Add the rows first to last - 1 of M M' to out (last - first, R), given as parts_of M, csr (R, C), and M'."""
    row_start, row_columns, row_data = by_row
    column_start, column_rows, column_data = by_column
    for row in range(first, last):
        sums = out[row - first]
        for a in range(row_start[row], row_start[row + 1]):
            column, weight = row_columns[a], row_data[a]
            for b in range(column_start[column], column_start[column + 1]):
                sums[column_rows[b]] += weight * column_data[b]


@numba.njit(nogil=True, cache=True)
def quadratic(first, last, by_row, by_column, kernel, out):
    """Add the rows' share of x' K x of each column x of a matrix of ones (R, C) to out (C,), K symmetric (R, R).

    The rows first to last - 1 of K count; by_row, by_column: parts_of the csr (R, C) and of its transpose.
    """
    row_start, row_columns, _ = by_row
    column_start, column_rows, _ = by_column
    for row in range(first, last):
        line = kernel[row]
        for a in range(row_start[row], row_start[row + 1]):
            column, total = row_columns[a], 0.0
            for b in range(column_start[column], column_start[column + 1]):
                total += line[column_rows[b]]
            out[column] += total


def in_blocks(function, n, block):
    """Results of function(start, stop) for the blocks of range(n), in order; threads as torch is set to."""
    from concurrent.futures import ThreadPoolExecutor

    import torch
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(lambda start: function(start, min(start + block, n)), range(0, n, block))


@numba.njit(nogil=True, cache=True)
def _replace_least(heap, value):
    """Replace the first, least value of a heap by one that is no less, and put the heap in order again."""
    place, size = 0, len(heap)
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value
