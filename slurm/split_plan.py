"""The split as stages of a grid: in one piece, or its partitions as an array and their merge; and what that will take.

    python slurm/grid.py --split "--protocol yambda --partitions 64 --memory 16GB" --plan 4649567411
"""
from experiments.expand import MOST_JOBS, Job, parse
from harness.errors import UsageError
from slurm import submit

SCRIPT = "preprocess/1_train_test_split.py"
# Million plays a second of the clock, of the split of 348.4 million plays in 8 partitions on 2 cores that other work
# shared (docs/scale.md: 25 s a task, the merge 131 s): a task scans all plays, which is taken for half of its time
# there, and groups its own; the merge sorts, counts and checks.
READ, GROUP, MERGE = 26.0, 3.8, 2.66
PLAY, PAIR, SPILL = 9.2, 8.4, 40      # bytes: of a play in plays.pqt and of a pair in a part, measured; of a pair that
#                                       is sorted, 32 of its columns and 8 of its place


def partitions_of(words):
    """The number after --partitions among the words of a split; None without it. UsageError for another word."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--partitions":
            value = value if equals else (words[i + 1:] or [""])[0]
            if not value.isascii() or not value.isdecimal() or not 0 < int(value) <= MOST_JOBS:
                raise UsageError(f"--split: --partitions takes a number of partitions, not {value[:60]!r}")
            return int(value)
    return None


def stages(words, workdir, after):
    """The stages of a split, after the stages named in `after`; the last one is named `split`.

    The merge follows however the partitions ended: it names those that failed, and keeps the others. UsageError for
    flags that the splitter does not take, before anything is queued.
    """
    n, words = partitions_of(words), (*words, "--workdir", str(workdir))
    parse(Job(SCRIPT, words))
    if n is None or "--merge" in words or any(word.partition("=")[0] == "--partition" for word in words):
        return [submit.Stage("split", [Job(SCRIPT, words)], after=after)]
    tasks = [Job(SCRIPT, (*words, "--partition", str(i))) for i in range(n)]
    return [submit.Stage("split-partitions", tasks, after=after),
            submit.Stage("split", [Job(SCRIPT, (*words, "--merge"))], after=["split-partitions"], how="afterany")]


def plan(n, plays):
    """{"task_hours", "merge_hours", "disk_gb", "spill_gb"} of a split of `plays` plays in n partitions.

    task_hours: of each task of 2 cores; the pairs are taken to be as many as the plays, which is the most.
    disk_gb: of the plays, the partitions and the parts together; spill_gb: temporary files of the merge.
    """
    million = plays / 1e6
    return {"task_hours": million * (1 / READ + 1 / GROUP / n) / 3600, "merge_hours": million / MERGE / 3600,
            "disk_gb": plays * (PLAY + 2 * PAIR) / 1e9, "spill_gb": plays * SPILL / 1e9}


def sentence(words, plays):
    """What the split of so many plays takes, in words. UsageError for one without --partitions."""
    n = partitions_of(words)
    if n is None:
        raise UsageError("--plan is for a --split with --partitions N; add it, such as --partitions 64")
    made = plan(n, plays)
    return (f"{plays:,} plays in {n} partitions: {n} tasks of {made['task_hours']:.1f} hours each "
            f"({n * made['task_hours']:.0f} in all), then a merge of {made['merge_hours']:.1f} hours; "
            f"{made['disk_gb']:.0f} GB of disk for plays, partitions and parts, and up to {made['spill_gb']:.0f} GB "
            "of temporary files while merging; by rates measured on 2 cores, not by a run of this size")
