"""The work of 1_train_test_split.py: from plays to the files of a split, by a protocol and its settings.

args: the parsed command line; settings: the protocol's settings with its defaults.
"""
from harness.files import checksum, write_json
from harness.progress import Progress

DATES = ("train_start", "test_date", "test_end")
SHARES = ("val_share", "test_share", "cold_share", "cold_val_share")
DATED = ("recsys24", "hotcold")      # always; cold-items where a date is given
KEEPS_UNSEEN = ("yambda",)           # always; leave-one-out by --unseen
RULES = {"leave-one-out": {"history": {"test": ["train", "val"]}},   # what rules.json says beside `unseen`
         "cold-items": {"history": {}, "all_test": True},
         "yambda": {"history": {"test": ["train", "val"]}, "seen": "keep"}}


def hides(args):
    """Whether pairs that --train-share takes out of train are written, so that nobody is recommended them."""
    return args.train_share < 1 and RULES.get(args.protocol, {}).get("seen") != "keep"


def by_date(args):
    """Whether a date says what is test: always of DATED, of cold-items where one is given."""
    dates = args.test_share_time is not None or any(getattr(args, name) is not None for name in DATES)
    return args.protocol in DATED or args.protocol == "cold-items" and dates


def _protocol(args, settings, log, n_tracks):
    """Fill the table `pairs` by the requested protocol; returns what is counted beside the parts, for split.json."""
    from preprocess import cold_items, k_core, protocols, recordings
    facts = {"k_core": k_core.restrict(log, args.k_core)} if args.k_core else {}
    if args.protocol == "cold-items":
        dates = {name: settings[name] for name in DATES} if by_date(args) else None
        shares = {name: settings[name] for name in SHARES if name != "test_share" or not dates}
        same = recordings.read(log.plays.parent, n_tracks)
        facts |= cold_items.split(log, seed=args.seed, same=same, dates=dates, **shares)
    elif args.protocol in DATED:
        getattr(protocols, args.protocol)(log, seed=args.seed, **settings)
    elif args.protocol == "random":
        protocols.random(log, seed=args.seed, **settings)
    elif args.protocol == "leave-one-out":
        protocols.leave_one_out(log, seed=args.seed, **settings)
    elif args.protocol == "yambda":
        protocols.yambda(log, **settings)
    else:
        protocols.given(log, **settings)
    log.check_pairs(n_tracks)
    if args.train_share < 1:
        protocols.share_train(log, args.train_share, args.seed, unseen_of(args, settings))
    return facts


def unseen_of(args, settings):
    """'keep' where val and test keep tracks absent from train, else 'drop'."""
    return "keep" if args.protocol in KEEPS_UNSEEN else settings.get("unseen", "drop")


def write_parts(args, settings, log, new, n_tracks, expected):
    """Write the parts and their counts into the hidden folder and check them; returns their entries of split.json."""
    from preprocess import parts, protocols
    with log, Progress(4, "split", "steps") as bar:
        bar.update(0, now="pairs of all plays")
        facts = _protocol(args, settings, log, n_tracks)
        bar.update(1, now="writing")
        paths = {part: new.path(f"{part}.pqt") for part in log.parts(args.protocol)}
        for part, path in paths.items():
            parts.write(log, part, path)
        if hides(args):
            parts.write(log, "hidden", new.path("hidden.pqt"))
        bar.update(1, now="counting")
        table = parts.stats(log, paths)
        bar.update(1, now="leak checks")
        unseen, rules = unseen_of(args, settings), RULES.get(args.protocol, {})
        parts.check_leaks(log, paths, settings.get("test_date"), settings.get("train_start"), args.train_share == 1,
                          unseen, drawn=args.protocol == "cold-items", seen=rules.get("seen", "hide"))
        facts |= {"ties": {"held out": log.ties, "train": parts.tied_in_train(log, paths["train"])}}
        if unseen == "keep":
            facts |= {"unseen": parts.unseen_pairs(log), "items_ranked": parts.items_ranked(log)}
        if expected:
            parts.compare(table, expected, args.expect)
        bar.update(1)
    parts.print_stats(table)
    for reason, pairs in log.dropped.items():
        print(f"left out: {pairs} pairs, {reason}")
    if empty := [name for name, row in table.items() if not row["Rows"]]:
        print(f"warning: {' and '.join(empty)} have no pairs")
    _print_facts(facts, sum(row["Rows"] for name, row in table.items() if name != "Train"))
    parts.write_stats(new.path("stats.csv"), table)
    if args.protocol in RULES:
        before = {"events_before": protocols.yambda_train_end(**settings)} if args.protocol == "yambda" else {}
        write_json(new.path("rules.json"), {**rules, **before, "unseen": unseen})
    if hides(args):
        print("of what --train-share took out nothing is recommended to its user (data/hidden.pqt)")
    if rules.get("seen") == "keep":
        print("nothing seen is hidden: lists may hold what a user has played before (data/rules.json)")
    if args.protocol == "leave-one-out":
        print("as published: at test the val track belongs to a user's history (data/rules.json)")
    return {"parts": {part: checksum(path) for part, path in paths.items()}, "stats": table,
            "dropped": log.dropped, **facts}


def _print_facts(facts, held):
    """Say what was left out, what rests on equal times, and what is kept that was not in train.

    held: number of held-out pairs
    """
    if core := facts.get("k_core"):
        print(f"left out: {core['pairs']} pairs, {core['users']} users and {core['tracks']} tracks outside the "
              f"{core['k']}-core ({core['rounds']} rounds)")
    if same := facts.get("same_recording", {}).get("recordings"):
        print(f"kept together: {facts['same_recording']['tracks']} tracks are {same} recordings, by title and artist")
    if "items" in facts:
        items = facts["items"]
        print(f"cold: {items['cold_test']} items in cold_test and {items['cold_val']} in cold_val, of {items['all']}; "
              f"{facts['users_without_train']} users have no play in train and are left out")
    if facts["ties"]["held out"]:
        print(f"equal times: {facts['ties']['held out']} of {held} held-out pairs share their time with another of the "
              "user's last tracks; --seed decides which is held out")
    if facts["ties"]["train"]:
        print(f"equal times: {facts['ties']['train']} train pairs share theirs with another of the same user; in "
              "sequences their order is random")
    if facts.get("unseen"):
        print(f"unseen: {facts['unseen']} of {held} held-out pairs are of tracks absent from train; they stay in the "
              "truth, where only content can reach them")
