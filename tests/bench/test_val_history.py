"""bench/val_history.py: the walks; the measurement itself is run by hand."""
from collections import Counter, defaultdict

from bench import val_history


def test_walks_never_repeat_and_their_next_item_depends_on_the_last():
    plays = list(val_history.walks(400))
    own = defaultdict(list)
    for user, item, step in plays:
        assert step == len(own[user])
        own[user].append(item)
    assert len(own) == 400 and all(10 <= len(set(walk)) == len(walk) <= 20 for walk in own.values())
    after = defaultdict(Counter)
    for walk in own.values():
        for last, following in zip(walk[1:], walk[2:], strict=False):
            after[last][following] += 1
    top = sum(sum(n for _, n in seen.most_common(val_history.LIKELY)) for seen in after.values())
    assert top / sum(sum(seen.values()) for seen in after.values()) > .5     # by chance, some 4 in 100
    assert plays == list(val_history.walks(400)) != list(val_history.walks(400, seed=1))
