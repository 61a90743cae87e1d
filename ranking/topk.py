"""Hide and rank: the one module that hides history and ranks.

Exact top-k over the whole catalogue in blocks of users, so memory is one block of scores whatever the
number of users. Ties are broken by a seeded order that differs between users, so a constant scorer gives the
figures of chance; tracks with equal vectors are scored once, so equal vectors do tie exactly. A score
of -inf means "never recommend".
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import WorkError
from harness.progress import Progress
from harness.ties import tie_key

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dataset import Split

    Array = np.ndarray | torch.Tensor
    Scorer = Callable[[np.ndarray], Array]   # of user codes (b,): a row for each

BLOCK_BYTES = 64 << 20  # float32 scores of one block of users
LOWEST = -3e38          # score of a candidate that is ranked last: above "never", below what a model gives
TILE = 2048             # columns of one product on a processor, so that its operands and result fit the cache
WIDE = 1 << 18          # candidates beyond which item vectors are read in tiles, and kept as they are
WIDE_USERS = 256        # users of one block then


def recommend(split: Split, part: str, k: int, seed: int = 42, users: Array | Scorer | None = None,
              items: Array | None = None, scores: Scorer | None = None, device: str | torch.device = "cpu",
              block_bytes: int = BLOCK_BYTES, last: np.ndarray | None = None,
              codes: np.ndarray | None = None) -> pd.DataFrame:
    """Best k items of each user of a part, as a frame `user_id, track_id, rank, score`.

    users:  (U, D) vectors, or a function of user codes (b,) giving (b, D); with
    items:  (n_items, D) vectors (for hot parts (n_hot, D) will do); the score is their dot product. Of more than
            WIDE candidates only tiles are held, so that a memory-mapped float16 array may be larger than the memory
    scores: instead of both, a function of user codes (b,) giving (b, n_candidates) scores of the part's
            candidates, as a tensor or an array; for all_test (b, n_hot) will do, and the cold items come last
    last:   candidates that are ranked behind all others whatever their scores, bool (n_candidates,), or None
    codes:  user codes of the part to rank, ascending; default all
    Rows are sorted by user_id and rank (from 0). A user with fewer than k unseen candidates has a
    shorter list. Raises WorkError when a score is NaN.
    """
    import pandas as pd
    import torch
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    candidates, hidden = split.candidates(part), split.seen(part)
    codes = split.eval_users(part) if codes is None else codes
    n = candidates.stop - candidates.start
    fresh = scores is None  # a product of ours may be written to; a scorer's matrix may be its own
    tracks = torch.as_tensor(split.tracks[candidates], device=device)
    behind = None if last is None or not last.any() else torch.as_tensor(last, device=device)
    rows, wide = max(1, block_bytes // (4 * max(n, 1))), None
    if scores is None:
        if users is None or items is None:
            raise ValueError("recommend takes users and items, or scores")
        if len(items) < candidates.stop and not (part == "all_test" and len(items) == split.n_hot):
            raise ValueError(f"items of {part} must be {candidates.stop} rows, not {len(items)}")
        if n > WIDE:
            wide = _Tiles(users, items, candidates, device, block_bytes)
            rows = wide.rows
        else:
            scores = _dot_scorer(users, items[candidates], device)
    parts = []
    with torch.inference_mode(), Progress(len(codes), f"{part}: ranking", "users", quiet=True) as bar:
        for start in range(0, len(codes), rows):
            block = codes[start:start + rows]
            ids = torch.as_tensor(split.users[block], device=device)
            if wide:
                best, column = wide.top(block, min(k, n), hidden[block], behind, ids, tracks, seed)
            else:
                assert scores is not None
                matrix = torch.as_tensor(scores(block)).to(device=device, dtype=torch.float32)
                if part == "all_test" and matrix.shape == (len(block), split.n_hot):   # a model of the hot items alone
                    matrix = torch.nn.functional.pad(matrix, (0, n - split.n_hot), value=LOWEST)
                if matrix.shape != (len(block), n):
                    raise ValueError(f"scores of {part} must be {(len(block), n)}, not {tuple(matrix.shape)}")
                matrix = matrix if fresh else matrix.clone()
                if behind is not None:
                    matrix[:, behind] = LOWEST
                best, column = top(_hide(matrix, hidden[block]), min(k, n), ids, tracks, seed)
            if torch.isnan(best).any():
                raise WorkError(f"{part}: scores are not numbers for {int(torch.isnan(best).any(1).sum())} users; "
                                "the model has diverged or an embedding is broken")
            parts.append((ids.cpu().numpy(), best.cpu().numpy(), column.cpu().numpy()))
            bar.update(len(block))
    user = np.concatenate([p[0] for p in parts]) if parts else np.zeros(0, np.int64)
    value = np.concatenate([p[1] for p in parts]) if parts else np.zeros((0, 1), np.float32)
    item = np.concatenate([p[2] for p in parts]) if parts else np.zeros((0, 1), np.int64)
    kept = value > -np.inf
    return pd.DataFrame({"user_id": np.broadcast_to(user[:, None], kept.shape)[kept],
                         "track_id": split.tracks[candidates][item[kept]],
                         "rank": np.broadcast_to(np.arange(kept.shape[1]), kept.shape)[kept],
                         "score": value[kept]})


def _dot_scorer(users, items, device):
    """Function of user codes giving dot products; rows of `items` that are equal are multiplied once."""
    import torch
    items = torch.as_tensor(items).to(dtype=torch.float32)
    distinct, index = distinct_rows(items.cpu().numpy())
    shared = len(distinct) < len(items)
    matrix = torch.as_tensor(distinct).to(device) if shared else items.to(device)
    index = torch.as_tensor(index, device=device)
    space = torch.empty(0, len(matrix), device=device)

    def product(vectors):  # (b, D) -> (b, distinct), into the same memory at every call
        nonlocal space
        if vectors.is_cuda:
            return vectors @ matrix.T
        if len(space) < len(vectors):
            space = torch.empty(len(vectors), len(matrix))
        return _product(vectors, matrix, space[:len(vectors)])

    def scores(codes):
        vectors = users(codes) if callable(users) else users[codes]
        block = product(torch.as_tensor(vectors).to(device=device, dtype=torch.float32))
        return block[:, index] if shared else block
    return scores


def _product(vectors, matrix, out=None):
    """vectors (b, D) times (n, D) transposed, (b, n); on a processor in tiles that stay in its cache."""
    import torch
    if vectors.is_cuda:
        return vectors @ matrix.T
    out = torch.empty(len(vectors), len(matrix)) if out is None else out
    for start in range(0, len(matrix), TILE):
        torch.mm(vectors, matrix[start:start + TILE].T, out=out[:, start:start + TILE])
    return out


def _hashes(matrix):
    """uint64 (n,) of the rows of a float32 (n, D); equal rows have equal ones, and hardly any others."""
    even = np.zeros((len(matrix), matrix.shape[1] + matrix.shape[1] % 2), np.float32)
    np.add(matrix, np.float32(0), out=even[:, :matrix.shape[1]])       # -0.0 becomes 0.0
    bits = even.view(np.uint64)                                        # two columns at once
    return bits @ (np.random.default_rng(0).integers(1 << 63, size=bits.shape[1], dtype=np.uint64) | np.uint64(1))


def distinct_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of float32 (n, D), in a fixed order (their own where all are), and the place of each row's like."""
    matrix = np.ascontiguousarray(matrix) + np.float32(0)  # -0.0 becomes 0.0, so that equal rows have equal bytes
    if not len(matrix):
        return matrix, np.zeros(0, np.int64)
    bits = matrix.view(np.uint32)
    _, first, index = np.unique(_hashes(matrix), return_index=True, return_inverse=True)
    if len(first) == len(matrix):
        return matrix, np.arange(len(matrix))
    if not np.array_equal(bits, bits[first][index]):  # two rows share a hash
        rows = bits.view(np.dtype((np.void, 4 * bits.shape[1]))).ravel()
        _, first, index = np.unique(rows, return_index=True, return_inverse=True)
    return matrix[first], index


class _Tiles:
    """The best of a catalogue whose scores, and perhaps vectors, are too many to hold: tile after tile of items.

    Each tile gives its own best k, of which the best k are kept; ties keep their order, as it is one of all items. Rows
    that are equal get one score: that of the first of them, multiplied once for a block of users. Candidates behind the
    last row of `items` (the cold ones of a model of the hot items alone) have the lowest score.
    """

    def __init__(self, users, items, candidates, device, block_bytes):
        import torch
        self.users, self.items, self.device = users, items, device
        self.start, self.n = candidates.start, candidates.stop - candidates.start
        group, firsts = self._equal_rows()
        self.group = torch.as_tensor(group, device=device)                 # (n,) row of `firsts` that is equal, or -1
        self.firsts = self._vectors(firsts) if len(firsts) else None
        self.rows = max(1, min(WIDE_USERS, block_bytes // (4 * max(len(firsts), 1))))
        self.width = max(TILE, block_bytes // (4 * self.rows))

    def _vectors(self, where):
        """float32 vectors of a slice or of places of the candidates."""
        import torch
        shift = slice(where.start + self.start, where.stop + self.start) if isinstance(where, slice) \
            else where + self.start
        found = self.items[shift] if torch.is_tensor(self.items) else np.array(self.items[shift], np.float32)
        return torch.as_tensor(found).to(device=self.device, dtype=torch.float32)

    def _tiles(self, width):
        return (slice(at, min(at + width, self.n)) for at in range(0, self.n, width))

    def _equal_rows(self):
        """For each candidate the number of its group of equal rows, -1 where it has none; the first of each group."""
        code = np.concatenate([_hashes(self._vectors(tile).cpu().numpy()) for tile in self._tiles(1 << 16)])
        _, first, index, count = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
        shared = count > 1
        group = np.where(shared, shared.cumsum() - 1, -1)[index]
        for tile in self._tiles(1 << 16):                   # a hash may be that of another row
            member = np.flatnonzero(group[tile] >= 0) + tile.start
            other = first[index[member]]
            same = (self._vectors(member) == self._vectors(other)).all(1).cpu().numpy()
            group[member[~same]] = -1
        return group, first[shared]

    def top(self, codes, k, hidden, behind, ids, tracks, seed):
        """As top(), of all items, for the user codes (b,)."""
        import torch
        vectors = self.users(codes) if callable(self.users) else self.users[codes]
        vectors = torch.as_tensor(vectors).to(device=self.device, dtype=torch.float32)
        equal = vectors @ self.firsts.T if self.firsts is not None else None
        hidden, best = hidden.tocsc(), None
        for tile in self._tiles(self.width):
            matrix = _product(vectors, self._vectors(tile))
            if matrix.shape[1] < tile.stop - tile.start:
                matrix = torch.nn.functional.pad(matrix, (0, tile.stop - tile.start - matrix.shape[1]), value=LOWEST)
            if equal is not None:
                group = self.group[tile]
                member = (group >= 0).nonzero().flatten()
                matrix[:, member] = equal[:, group[member]]
            if behind is not None:
                matrix[:, behind[tile]] = LOWEST
            matrix = _hide(matrix, hidden[:, tile].tocsr())
            value, column = top(matrix, min(k, matrix.shape[1]), ids, tracks[tile], seed)
            column += tile.start
            if best is not None:
                value, column = (torch.cat(pair, dim=1) for pair in zip(best, (value, column), strict=True))
                value, column = (x[:, :k] for x in _ordered(value, column, ids, tracks, seed))
            best = value, column
        return best


def _hide(matrix, hidden):
    """Set the entries of a csr block (b, n) to -inf, in place."""
    import torch
    if hidden.nnz:
        row = np.repeat(np.arange(hidden.shape[0]), np.diff(hidden.indptr))
        matrix[torch.as_tensor(row, device=matrix.device),
               torch.as_tensor(hidden.indices.astype(np.int64), device=matrix.device)] = -torch.inf
    return matrix


def top(matrix: torch.Tensor, k: int, users: torch.Tensor, tracks: torch.Tensor,
        seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact top k of each row with ties in a seeded order of each user's own.

    matrix: float32 (b, n); users: int64 (b,) user ids; tracks: int64 (n,) track ids
    returns: values (b, k) descending, columns (b, k)
    """
    import torch
    n = matrix.shape[1]
    value, column = _largest(matrix, min(k + 1, n))  # one more shows whether the cut splits a tie
    if n > k:
        cut = (value[:, k - 1] == value[:, k]) & (value[:, k] > -torch.inf) & ~torch.isnan(value[:, 0])
        value, column = value[:, :k].clone(), column[:, :k].clone()
        if cut.any():
            column[cut] = _fill_ties(matrix[cut], value[cut], column[cut], users[cut], tracks, seed)
            value = matrix.gather(1, column)
    return _ordered(value, column, users, tracks, seed)


def _ordered(value, column, users, tracks, seed):
    """Values (b, k) in descending order and their columns, ties by the users' keys of the tracks."""
    order = tie_key(users[:, None], tracks[column], seed).argsort(dim=1)
    value, column = value.gather(1, order), column.gather(1, order)
    order = value.argsort(dim=1, descending=True, stable=True)
    return value.gather(1, order), column.gather(1, order)


def _largest(matrix, k, group=16):
    """As torch.topk over rows, but most columns are looked at only through the largest of their group.

    Of the k groups with the largest maxima, every maximum is at least as large as anything in the other groups,
    so the k largest values are among them. NaN counts as largest, as in torch.topk.
    """
    import torch
    n = matrix.shape[1]
    if n < 2 * group * k:
        return torch.topk(matrix, k, dim=1)
    groups = n // group
    body = matrix[:, :groups * group]
    best = body.view(len(matrix), group, groups).amax(1)  # group j: columns j, j + groups, j + 2 * groups, ...
    chosen = torch.topk(best, k, dim=1, sorted=False).indices
    steps = torch.arange(group, device=matrix.device) * groups
    columns = (chosen[:, :, None] + steps).flatten(1)
    rest = torch.arange(groups * group, n, device=matrix.device).expand(len(matrix), -1)
    columns = torch.cat([columns, rest], dim=1)
    value, place = torch.topk(matrix.gather(1, columns), k, dim=1)
    return value, columns.gather(1, place)


def _fill_ties(matrix, value, column, users, tracks, seed):
    """Columns (b, k) of the top k where the k-th value is tied beyond k: the tied ones with the least key."""
    import torch
    k = value.shape[1]
    last = value[:, -1:]
    tied = matrix == last
    if tied.sum() > tied.numel() // 16:  # nearly constant scores: a key for every column is cheaper than a sort
        key = tie_key(users[:, None], tracks[None, :], seed).masked_fill_(~tied, torch.iinfo(torch.int64).max)
        return torch.topk(key.masked_fill_(matrix > last, -1), k, dim=1, largest=False).indices
    above = (value > last).sum(1)                              # (b,) places certainly taken
    row, tied = tied.nonzero(as_tuple=True)                    # sorted by row
    order = tie_key(users[row], tracks[tied], seed).argsort()
    order = order[row[order].argsort(stable=True)]             # by row, then key
    row, tied = row[order], tied[order]
    start = torch.searchsorted(row, torch.arange(len(value), device=row.device))
    place = torch.arange(len(row), device=row.device) - start[row] + above[row]
    kept = place < k
    column = column.clone()
    column[row[kept], place[kept]] = tied[kept]
    return column
