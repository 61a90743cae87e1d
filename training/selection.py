"""Which epoch of a training is kept: the rule that every trained method shares.

    --stop-on NDCG@10    the epoch with the best NDCG@10 on val (the default); any accuracy metric of metrics.py
    --stop-on loss       the epoch with the least validation loss, as published
    --eval-every N       epochs between evaluations of val, which is also evaluated after the last epoch
    --val-users N        users of val that are ranked: a sample fixed by the split, the same for all methods and seeds

The best checkpoint, patience, and the plateau that lowers the learning rate or releases frozen items follow the rule
(early_stopping.py); patience and plateau count evaluations. By the loss, every epoch is one.

What is ranked depends on the items that a method can serve, where the split has a part cold_val:

    HOT    items of train only           val
    COLD   items without plays only      cold_val
    BOTH                                 both; the value is the mean of the two, each by its reference

The references are fixed numbers of the split (references.py). Without cold_val every method is selected on val.
"""
from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from harness import cli
from harness.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

    from dataset import Split

DEFAULT, LOSS = "NDCG@10", "loss"
VAL_USERS = 5000                      # ranked at an evaluation by default
BY_LOSS = {"stop_on": LOSS}           # what a request asks for that does not name it
LONGEST = 1000                        # list that --stop-on may ask for
HOT, COLD, BOTH = "hot", "cold", "both"


# --------------------------------------------------------------------------- flags and request

def rule(text: str) -> str:
    """argparse type of --stop-on: `loss`, or NAME@K with a metric of metrics.py."""
    from metrics import METRICS
    match = re.fullmatch(r"(\w+)@([1-9][0-9]{0,3})", text)
    if text != LOSS and not (match and match[1] in METRICS and int(match[2]) <= LONGEST):
        raise ArgumentTypeError(f"must be loss, or NAME@K with a NAME of {', '.join(METRICS)} and a K from 1 to "
                                f"{LONGEST}, not {text[:40]}")
    return text


def flags(group: Any, published: bool = False, eval_every: int = 1) -> None:
    """Add --stop-on, --eval-every and --val-users.

    published: the method has --as-published, whose rule is the loss; eval_every: its default
    """
    group.add_argument("--stop-on", type=rule, metavar="METRIC",
                       help="value on val that selects the epoch, and that patience and plateau follow: loss, or a "
                            f"metric such as {DEFAULT} or Recall@50 (default {DEFAULT}"
                            + ("; loss with --as-published)" if published else ")"))
    group.add_argument("--eval-every", type=cli.positive, default=eval_every, metavar="N",
                       help="epochs between evaluations of val; it is evaluated after the last one, too (default "
                            f"{eval_every})")
    group.add_argument("--val-users", type=cli.whole_number(0), default=VAL_USERS, metavar="N",
                       help="users of val that are ranked at an evaluation, where val has more: a sample that is the "
                            f"same for all methods and seeds; 0 for all (default {VAL_USERS})")


def settle(args: Any) -> None:
    """Fill in --stop-on where it was not given."""
    if args.stop_on is None:
        args.stop_on = LOSS if getattr(args, "as_published", False) else DEFAULT


def requested(request: dict, earlier: dict = BY_LOSS) -> dict:
    """A request with its rule as it enters the name of the run.

    earlier: the arguments of a run made before there was a choice; they are left out of the name, so that such a run
             keeps it. By the loss nothing is ranked that could change the result.
    """
    own = {k: request.get(k) for k in ("stop_on", "eval_every", "val_users")}
    if own["stop_on"] == LOSS:
        own = {"stop_on": LOSS}
    elif not own["val_users"]:
        del own["val_users"]
    rest = {k: v for k, v in request.items() if k not in ("stop_on", "eval_every", "val_users")}
    return dict(sorted((rest | {k: v for k, v in own.items() if earlier.get(k) != v}).items()))


def of_split(request: dict, split: Split) -> dict:
    """The request without a sample that holds every user of the split anyway: that is no other run."""
    sizes = [len(split.eval_users(part)) for part in parts_of(split, BOTH)]
    enough = request.get("val_users", 0) >= max(sizes, default=0)
    return {k: v for k, v in request.items() if k != "val_users" or not enough}


def check_continued(name: str, theirs: dict, ours: dict) -> None:
    """UsageError where a run is to continue one that was selected by another rule: its best value says nothing here."""
    def words(request):
        value = {"val_users": 0} | BY_LOSS | request
        return LOSS if value["stop_on"] == LOSS else f"{value['stop_on']} --val-users {value['val_users']}"
    if words(theirs) != words(ours):
        raise UsageError(f"run {name} keeps its epoch by {words(theirs)}, this one by {words(ours)}; "
                         f"add --stop-on {words(theirs)}")


# --------------------------------------------------------------------------- the parts

def parts_of(split: Split, serves: str) -> tuple[str, ...]:
    """The parts that a method is selected on, () where the split has none of them; serves: HOT, COLD or BOTH."""
    wanted = {HOT: ("val",), COLD: ("cold_val",), BOTH: ("val", "cold_val")}[serves]
    if "cold_val" not in split.parts:
        wanted = ("val",)
    return tuple(part for part in wanted if part in split.parts)
