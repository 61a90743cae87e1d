"""What a log became, printed at the end: the column of each role, the counts, and the next command."""
import shlex

NEXT = {    # dataset.json's time: flags of the splitter
    "real": "recsys24 --test-share-time .1",
    "ordinal": "leave-one-out",
    "none": "random",
}


def show(about, workdir):
    """Print what each column was taken for, the counts and the next command; about: the content of dataset.json."""
    counts = about["counts"]
    print(about["form"])
    for role, column in about["columns"].items():
        print(f"  {role:6} {column}")
    for column, hint in about["unused"].items():
        print(f"  not read: {column}" + (f" ({hint})" if hint else ""))
    span = f", {counts['first']} to {counts['last']}" if about["time"] == "real" else ""
    rows = f" in {counts['rows']} rows" if "count" in about["columns"] else ""
    print(f"{counts['plays']} plays{rows}, {counts['pairs']} distinct pairs of {counts['users']} users and "
          f"{counts['tracks_played']} items{span}")
    if repeated := counts["rows"] - counts["pairs"]:
        print(f"{repeated} rows repeat a pair; a pair's plays are added up when it is split")
    print(f"next: python preprocess/1_train_test_split.py --protocol {NEXT[about['time']]} --workdir "
          f"{shlex.quote(str(workdir))}")
