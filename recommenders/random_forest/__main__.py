"""Random forest: learning to rank the candidates of other runs by features of train.

    python -m recommenders.random_forest                                  candidates of popularity, content_knn, itemknn
    python -m recommenders.random_forest popularity content_knn ease --model lambdarank

Candidates are all tracks in the saved lists of the named runs (the name of a run, or of a recommender: then its best
run on val). Features are computed from train and these lists only (features.py), not from the pairs to be predicted.
The label of a candidate is whether the user played it in val. The candidates' runs are fitted to train, but those that
keep an epoch, or were tuned, by val have been selected on these labels. Test is ranked by a model fitted to all val
users. Val is ranked by --folds models, each user by a model fitted without this user's labels, so that settings can be
selected on its metrics. The test lists exclude the pairs of val.

    --model forest      the mean of --trees regression trees on labels 0 and 1 (Breiman, "Random Forests", Machine
                        Learning 2001; scikit-learn)
    --model lambdarank  boosted trees on the gradient of NDCG (Burges, "From RankNet to LambdaRank to LambdaMART",
                        MSR-TR-2010-82; LightGBM)

The run's folder also gets importances.csv and .png: the permutation importance of each feature, that is the drop of
NDCG@10 on val, over at most 500 users, when its values are shuffled among the candidates of users the model was not
fitted to (with a 95 % interval over users; `in_model` is the feature's share of the impurity decrease or gain in the
model); and plays.csv: the error of a forest on the same features of user, item and pair, fitted to the plays of val's
pairs, in predicting those of test's pairs, compared with simple predictions.

Practical limit: about 3 k candidates per user, and 4 bytes per candidate and feature.
"""
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import atomic, write_report_csv
from harness.progress import Progress

TITLE = "Random forest"
NEEDS = ()
COLD = False
METRIC = "NDCG@10"
IMPORTANCE_USERS = 500   # each feature needs a prediction of all their candidates
MOST_OF_A_USER = 10_000  # candidates that LightGBM's lambdarank accepts as one list
PLAYS_LEAF = 5           # minimum of pairs in a leaf of the forest that predicts plays, as in Breiman's for regression
DEFAULTS = {"forest": {"min_leaf": 10, "negatives": 15, "max_features": 0.33},  # chosen on val of Last.fm with audio
            "lambdarank": {"min_leaf": 100, "negatives": 0, "leaves": 15, "lr": 0.1}}


def build_parser():
    parser = cli.Parser(prog="recommenders.random_forest", description=__doc__)
    parser.add_argument("sources", nargs="*", default=["popularity", "content_knn", "itemknn"], metavar="RUN",
                        help="names of runs or recommenders whose lists are the candidates "
                             "(default popularity content_knn itemknn)")
    parser.add_argument("--model", choices=tuple(DEFAULTS), default="forest",
                        help="model that learns to rank: a random forest, or LambdaMART of LightGBM (default forest)")
    parser.add_argument("--trees", type=cli.whole_number(1), default=100, metavar="N",
                        help="number of trees (default 100)")
    parser.add_argument("--min-leaf", type=cli.positive, metavar="N",
                        help="smallest number of candidates in a leaf (default: forest 10, lambdarank 100)")
    parser.add_argument("--negatives", type=int, metavar="N",
                        help="negative candidates sampled per user for training; 0 uses all "
                             "(default: forest 15, lambdarank 0)")
    parser.add_argument("--folds", type=cli.whole_number(1), default=5, metavar="N",
                        help="cross-validation folds of the users of val, at least 2 (default 5)")
    parser.add_argument("--max-features", type=float, metavar="FLOAT",
                        help="forest: share of the features tried at a split, above 0 and up to 1 (default 0.33)")
    parser.add_argument("--leaves", type=cli.positive, metavar="N",
                        help="lambdarank: leaves of a tree, at least 2 (default 15)")
    parser.add_argument("--lr", type=float, metavar="FLOAT", help="lambdarank: learning rate (default 0.1)")
    cli.recommender_flags(parser)
    return parser


def parse(argv):
    args = build_parser().parse_args(argv)
    own = DEFAULTS[args.model]
    for name in {name: None for flags in DEFAULTS.values() for name in flags}:
        if name not in own and getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to --model {args.model}; leave it out")
        if name in own and getattr(args, name) is None:
            setattr(args, name, own[name])
    if args.negatives < 0 or args.folds < 2:
        raise UsageError("--negatives must be at least 0 and --folds at least 2, "
                         f"not {args.negatives} and {args.folds}")
    if args.max_features is not None and not 0 < args.max_features <= 1:
        raise UsageError(f"--max-features must be above 0 and at most 1, not {args.max_features:g}")
    if args.leaves == 1 or args.lr is not None and not 0 < args.lr < cli.LARGEST_RATE:
        raise UsageError(f"--leaves must be at least 2 and --lr above 0 and below {cli.LARGEST_RATE:g}, not "
                         f"{args.leaves} and {args.lr:g}")
    return args


# --------------------------------------------------------------------------- models

def fit(args, x, y, user, seed):
    """A fitted model; x: float32 (N, F); y: bool (N,) labels; user: (N,) ascending."""
    import numpy as np
    import torch
    if args.model == "forest":
        return forest(x, y.astype(float), args.trees, args.min_leaf, args.max_features, seed)
    from lightgbm import LGBMRanker
    group = np.unique(user, return_counts=True)[1]
    model = LGBMRanker(n_estimators=args.trees, num_leaves=args.leaves, learning_rate=args.lr,
                       min_child_samples=args.min_leaf, random_state=seed, n_jobs=torch.get_num_threads(),
                       deterministic=True, force_row_wise=True, importance_type="gain", verbose=-1)
    return model.fit(x, y.astype(int), group=group)


def forest(x, y, trees, min_leaf, max_features, seed):
    """A fitted forest; x: float32 (N, F), features; y: float64 (N,), what is predicted."""
    import torch
    from sklearn.ensemble import RandomForestRegressor
    return RandomForestRegressor(trees, min_samples_leaf=min_leaf, max_features=max_features,
                                 random_state=seed, n_jobs=torch.get_num_threads()).fit(x, y)


def guess(model, x, block=1 << 14):
    """Predictions, float64 (N,); x: float32 (N, F), C order. Independent of the block size and the number of threads.

    scikit-learn's `predict` sums the trees in the order in which threads finish; here the threads share the rows.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch
    if not len(x):
        return np.zeros(0)
    if not hasattr(model, "estimators_"):
        return model.predict(x)

    def mean(rows):
        return np.mean([tree.tree_.predict(rows)[:, 0] for tree in model.estimators_], axis=0)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.concatenate(list(pool.map(mean, (x[i:i + block] for i in range(0, len(x), block)))))


def to_learn(user, hits, negatives, generator):
    """Rows to train on, ascending: every hit, and `negatives` random others of each user (0: all)."""
    import numpy as np

    from evaluation.lists import places_of
    if not negatives:
        return np.arange(len(user))
    order = np.lexsort((generator.random(len(user)), hits, user))  # a user's misses first, in random order
    kept = hits[order] | (places_of(user[order]) < negatives)
    return np.sort(order[kept])


def check_groups(user, fold):
    """WorkError for rows that LightGBM cannot be fitted to; user, fold: (N,) of the training rows, users ascending."""
    import numpy as np
    most = int(np.bincount(user - user[0]).max())
    if most > MOST_OF_A_USER:
        raise WorkError(f"--model lambdarank accepts at most {MOST_OF_A_USER} candidates per user, but one has {most}; "
                        "use --negatives, shorter lists (--k of the candidates' runs) or --model forest")
    left = int(len(fold) - np.bincount(fold).max())
    if left < 2:
        raise WorkError(f"--model lambdarank needs at least two candidates to train on, but without one fold {left} of "
                        f"{len(fold)} is left; use longer lists (--k of the candidates' runs)")


class Ranker:
    """The models of one run: one fitted to all val users, for test, and one per fold fitted to the others, for val."""

    def __init__(self, args, names, x, pool):
        """x: float32 (N, F) features of the candidates of val, in the order of the pool; names: of the F features"""
        import numpy as np
        self.args, self.names, self.x, self.pool, self.hits = args, names, x, pool, pool.hits()
        users, generator = np.unique(pool.user), np.random.default_rng(args.seed)
        if len(users) < 2 or not self.hits.any():
            raise WorkError(f"val has {len(users)} users with candidates and {self.hits.sum()} relevant candidates, "
                            "but training needs at least two users and one relevant candidate; use longer lists (--k "
                            "of the candidates' runs)")
        fold = generator.permutation(len(users)) % min(args.folds, len(users))
        self.fold = fold[np.searchsorted(users, pool.user)]                  # (N,) of each candidate's user
        rows = to_learn(pool.user, self.hits, args.negatives, generator)
        if args.model == "lambdarank":
            check_groups(pool.user[rows], self.fold[rows])
        with Progress(fold.max() + 2, "random_forest", "models") as progress:
            self.models = []
            for out in range(-1, fold.max() + 1):
                kept = rows[self.fold[rows] != out]
                self.models.append(fit(args, x[kept], self.hits[kept], pool.user[kept], args.seed))
                progress.update(1)

    @property
    def final(self):
        return self.models[0]

    def on_val(self, x=None, rows=slice(None)):
        """Predictions for candidates of val, each by the model fitted without its user; float64 (n,).

        x: float32 (n, F), features of `rows`, None for self.x[rows]; rows: which candidates, n of them
        """
        import numpy as np
        x, fold = self.x[rows] if x is None else x, self.fold[rows]
        values = np.empty(len(fold))
        for out, model in enumerate(self.models[1:]):
            values[fold == out] = guess(model, x[fold == out])
        return values

    def importances(self, seed):
        """Frame of the features, most important first: importance, conf and in_model (see the module)."""
        import numpy as np
        import pandas as pd

        import metrics
        from evaluation.intervals import mean_and_half_width
        generator = np.random.default_rng(seed)
        users = np.unique(self.pool.user)
        users = np.sort(generator.permutation(users)[:IMPORTANCE_USERS])
        rows = np.flatnonzero(np.isin(self.pool.user, users))
        pool, truth = self.pool.rows_of(users), self.pool.split.truth("val")
        truth = truth[truth["user_id"].isin(self.pool.split.users[users])]

        def figure(x):
            return metrics.evaluate(pool.best(self.on_val(x, rows), 10), truth, (10,))[METRIC].to_numpy()
        x, drops = self.x[rows], []
        whole = figure(x)
        for column in range(x.shape[1]):
            kept = x[:, column].copy()
            x[:, column] = generator.permutation(kept)
            drops.append(whole - figure(x))
            x[:, column] = kept
        mean, conf = mean_and_half_width(np.array(drops).T)
        share = np.asarray(self.final.feature_importances_, float)
        frame = pd.DataFrame({"feature": self.names, "importance": mean, "conf": conf,
                              "in_model": share / max(share.sum(), 1e-12)})
        return frame.sort_values(["importance", "feature"], ascending=[False, True])


# --------------------------------------------------------------------------- reports

def plot(path, frame, title):
    """Bar chart of importances with their intervals, the most important on top."""
    from matplotlib.figure import Figure
    frame = frame[::-1]
    figure = Figure(figsize=(7, 1 + 0.27 * len(frame)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(frame["feature"], frame["importance"], xerr=frame["conf"].fillna(0), color="tab:blue", ecolor="0.4")
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set(xlabel=f"drop of {METRIC} on val when the feature is permuted", title=title)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)


def plays_report(split, args):
    """Frame of the errors in predicting the plays of test's pairs, by models fitted to val's pairs.

    Rows: target (plays, log(1 + plays)) x model (forest; user: the user's mean in train; constant: the mean of val).
    """
    import numpy as np
    import pandas as pd

    from recommenders.random_forest.features import features_of
    val, test, train = split.part("val"), split.part("test"), split.train
    x, guessed = {}, []
    for name, part in (("val", val), ("test", test)):
        x[name] = features_of(train, part.user, part.item, split.n_users, split.n_hot)[1]
    for target, scale in (("plays", np.asarray), ("log(1 + plays)", np.log1p)):
        y, true, known = (scale(part.count.astype(np.float64)) for part in (val, test, train))
        mean = np.bincount(train.user, known, split.n_users) / np.bincount(train.user, minlength=split.n_users)
        models = {"forest": guess(forest(x["val"], y, args.trees, PLAYS_LEAF, 1.0, args.seed), x["test"]),
                  "user": mean[test.user], "constant": np.full(len(true), y.mean())}
        for model, value in models.items():
            error, moves = value - true, np.ptp(value) > 0 and np.ptp(true) > 0
            guessed.append({"target": target, "model": model, "pairs": len(true),
                            "rmse": np.sqrt((error ** 2).mean()), "mae": np.abs(error).mean(),
                            "correlation": np.corrcoef(value, true)[0, 1] if moves else np.nan})
    return pd.DataFrame(guessed)


# --------------------------------------------------------------------------- command line

def request_of(args):
    """Every argument that can change the result."""
    return {"sources": args.sources, "model": args.model, "trees": args.trees, "folds": args.folds,
            **{name: getattr(args, name) for name in DEFAULTS[args.model]}, "k": args.k, "seed": args.seed,
            "comment": args.comment}


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    from ranking import candidates, save
    from recommenders.random_forest.features import pool_features
    split = dataset.load(workdir)
    sources = candidates.find_runs(split, args.sources, METRIC)
    parts = [p for p in split.hot_parts if all(p in s.parts for s in sources)]
    request = request_of(args)
    inputs = split.inputs + [s.path(part) for s in sources for part in parts]
    run = runs.Run(workdir, "random_forest", request, inputs=inputs, args=args)
    run.outputs += [run.folder / "importances.csv", run.folder / "importances.png"]
    with run:
        if run.finished:
            return
        words = [s.word for s in sources]
        pools = {p: candidates.pool(split, p, sources, args.seed).hot() for p in parts}   # features are of hot items
        names, x = pool_features(pools["val"], words)
        ranker = Ranker(args, names, x, pools["val"])
        values = {p: guess(ranker.final, pool_features(pools[p], words)[1]) for p in parts if p != "val"}
        values["val"] = ranker.on_val()
        results = save.write(run, split, args.k, args.seed, parts,
                             scores={p: pools[p].scorer(values[p]) for p in parts}, last=None)
        write_reports(run, split, ranker, args)
        run.finish(parts=sorted(results), sources={s.word: s.run for s in sources},
                   candidates={p: len(pools[p]) for p in parts}, found=candidate_recall(pools["val"]))


def candidate_recall(pool):
    """Share of the part's pairs that are among the candidates: the upper bound of recall."""
    return float(pool.hits().sum() / len(pool.split.part(pool.part)))


def write_reports(run, split, ranker, args):
    """Write importances.csv and .png, and plays.csv where there is a test part."""
    frame = ranker.importances(args.seed)
    write_report_csv(run.folder / "importances.csv", frame)
    plot(run.folder / "importances.png", frame, f"{args.model}: permutation importance")
    print(f"{run.name}: most important {', '.join(frame['feature'][:3])}")
    if "test" in split.parts:
        plays = plays_report(split, args)
        write_report_csv(run.folder / "plays.csv", plays)
        print(plays.to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    cli.run(main)
