"""The most similar items of each item by their overlap in users, compiled by numba: the kernel of ItemKNN.

One item at a time: its overlaps with all others are added up in a vector of the catalogue's length, divided by the
norms, and only what reaches the n-th largest value so far is kept. Neither the product of the whole matrix nor a sort
of its rows is ever made. The compiled code is cached beside this file.
"""
import numba
import numpy as np

LEAST = np.nextafter(0.0, 1.0)   # similarities of 0 are not neighbours
SPARSE = 8                       # below 1 / SPARSE of the catalogue, overlaps are listed rather than looked for


@numba.njit(nogil=True, cache=True, error_model="numpy")
def nearest(first, last, by_item, by_user, norm, shrink, n, overlap, listed, counts, column, value):
    """Neighbours of the items first to last - 1, all that are equal to the n-th included; returns where it stopped.

    by_item, by_user: (indptr, indices, data) of csr (I, U) and its transpose (U, I); norm: float64 (I,)
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
        if used + items > len(column):
            return item
        pairs = 0
        for a in range(item_start[item], item_start[item + 1]):
            pairs += user_start[item_users[a] + 1] - user_start[item_users[a]]
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
        heap[:] = LEAST
        begin = used
        if sparse:
            for place in range(length):
                similarity[place] = overlap[listed[place]] / (norm[item] * norm[listed[place]] + shrink)
                overlap[listed[place]] = 0.0
        else:
            length = items
            for other in range(items):
                similarity[other] = overlap[other] / (norm[item] * norm[other] + shrink)
                overlap[other] = 0.0
        for place in range(length):
            if similarity[place] >= heap[0]:
                column[used], value[used] = listed[place] if sparse else place, similarity[place]
                used += 1
                _replace_least(heap, similarity[place])
        end, used = used, begin
        for place in range(begin, end):
            column[used], value[used] = column[place], value[place]
            used += value[place] >= heap[0]
        counts[item - first] = used - begin
    return last


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
