"""Every option that changes a result changes the name of the run, and no other option does; for all recommenders.

Nothing is trained: a command line is parsed and its run named. An option that should not be in the name is listed in
NOT_IN_THE_NAME with its reason.
"""
import argparse

import pytest

import train
from harness import registry, runs

NOT_IN_THE_NAME = {
    "": ("workdir", "device", "overwrite"),                       # where a run is made, not what is in it
    "shallow": ("checkpoint_seconds",
                "logdir", "last_epoch"),                          # named by the run they continue: tests/test_train.py
    "bert4rec": ("checkpoint_seconds", "sample_type", "user_freeze", "user_init", "use_confidence"),
    "sasrec": ("checkpoint_seconds",),
    "acarec": ("checkpoint_seconds",),
    "clcrec": ("checkpoint_seconds",),
    "dropoutnet": ("checkpoint_seconds",),
    "heater": ("checkpoint_seconds",),
    "sibrar": ("checkpoint_seconds",),
    "content_elsa": ("checkpoint_seconds",),
    "contrastive": ("checkpoint_seconds",),
    "two_tower": ("checkpoint_seconds", "listener", "show"),      # what is printed after the run
    "content_knn": ("like", "show"),                              # what is printed instead of a run
    "cease": ("memory",),                                         # a limit beyond which nothing is computed
    "ease": ("memory",),                                          # a limit beyond which nothing is computed
    "dtnmr": ("checkpoint_seconds", "cache", "db", "reload", "memory",          # of the workspace that is read, whose
              "top", "max_playlist_len", "max_seconds", "min_age", "max_age",   # files are inputs of the run
              "artist_names", "composer_names", "val_share", "test"),
}
BASE = {"knn": ["content"], "content_knn": ["content"], "two_tower": ["--embedding", "content"], "sasrec": ["content"],
        "content_prior": ["--embedding", "content"], "content_factors": ["--embedding", "content"],
        "shrinkage": ["--embedding", "content"], "artist_mean": ["--embedding", "content"],
        "cease": ["--embedding", "content"], "clcrec": ["--embedding", "content"],
        "content_elsa": ["--embedding", "content"],
        "contrastive": ["--embedding", "content"], "sibrar": ["--embedding", "content"],
        "acarec": ["--embedding", "content"],
        "dropoutnet": ["--embedding", "content"], "heater": ["--embedding", "content"]}
ENABLED_BY = {   # arguments without which an option has no effect, is refused, or changes other options with it
    ("shallow", "temperature"): ["--loss", "bpr"],
    ("shallow", "logdir"): ["--last-epoch", "1"],
    ("shallow", "last_epoch"): ["--logdir", "earlier"],
    ("bert4rec", "order"): ["--config", "one.yaml"],
    ("bert4rec", "as_published"): ["--config", "one.yaml", "--scale", "none", "--stop-on", "loss"],
    ("shallow", "as_published"): ["--stop-on", "loss"],
    ("sasrec", "hidden_dim"): ["--heads", "2"],
    ("sasrec", "negatives"): ["--loss", "sampled"],
    ("sasrec", "gbce_t"): ["--loss", "gbce"],
    ("two_tower", "lists"): ["--index", "ivf"],
    ("two_tower", "probe"): ["--index", "ivf"],
    ("two_tower", "show"): ["--listener", "a track"],
    ("content_knn", "show"): ["--like", "a track"],
    ("random_forest", "leaves"): ["--model", "lambdarank"],
    ("random_forest", "lr"): ["--model", "lambdarank"],
    ("dtnmr", "long_term_len"): ["--short-term-len", "1"],
    ("acarec", "hidden"): ["--heads", "1"],
    **{(name, "delta_norm"): ["--fusion", "delta"] for name in ("shallow", "bert4rec", "sasrec", "two_tower")},
}
WORDS = {   # values of options that are text
    "model": ("content", "noise"), "embedding": ("content", "noise"), "names": ("content", "noise"),
    "sources": ("popularity", "ease"), "fields": ("styles", "tags"), "song_fields": ("styles", "tags"),
    "user_fields": ("age", "gender"), "comment": ("one", "two"), "metric": ("NDCG@10", "Recall@10"),
    "stop_on": ("loss", "NDCG@10", "Recall@10"),
    "config": ("one.yaml", "two.yaml"), "logdir": ("one", "two"), "device": ("cpu", "cuda"), "workdir": ("one", "two"),
    "cache": ("one", "two"), "db": ("one", "two"), "memory": ("1GB", "2GB"), "listener": ("one", "two"),
    "like": ("one", "two"),
}
OWN_WORDS = {("ease", "memory"): ("1", "2"), ("cease", "memory"): ("1", "2"),
             ("content_factors", "factors"): ("ials", "elsa"),
             ("contrastive", "factors"): ("ials", "elsa"),
             ("acarec", "factors"): ("ials", "elsa"),
             ("dropoutnet", "factors"): ("ials", "elsa"), ("heater", "factors"): ("ials", "elsa"),
             ("artist_mean", "factors"): ("ials", "elsa"), ("shrinkage", "factors"): ("ials", "elsa"),
             ("shrinkage", "shrink"): ("auto", "val", "2")}


def reader(module):
    return getattr(module, "parse", None) or module.build_parser().parse_args


def name_of(recommender, argv):
    """The name of the run that a command line asks for."""
    module = registry.load(recommender.module)
    args = reader(module)(argv)
    embedding = args.names[0] if hasattr(args, "names") else None
    request = module.request_of(args, *([embedding] if embedding else []))
    if hasattr(module, "run_name"):
        return module.run_name(embedding, request)
    return runs.run_name(recommender.name, embedding, request, request.get("seed"), request.get("comment", ""))


def options(recommender):
    """The options of a recommender's parser by name; a positional argument that is a flag as well is that flag."""
    actions = registry.load(recommender.module).build_parser()._actions
    flags = {a.dest: a for a in actions if a.option_strings and a.dest != "help"}
    return {a.dest: a for a in actions if a.dest not in (*flags, "help", "positional")} | flags


def words_of(recommender, action):
    """Words for one option, at least two and all of its choices: [[], ["--shuffle"]], [["--k", "2"], ["--k", "4"]]."""
    flag = action.option_strings[:1]
    if action.nargs == 0:
        return [[], flag]
    words = OWN_WORDS.get((recommender.name, action.dest)) or WORDS.get(action.dest)
    if recommender.name == "random_forest" and action.dest == "model":
        words = None
    if words is None and action.choices:
        words = action.choices   # all of them: a loss may differ from another in its margin, and not from a third
    elif words is None:
        words = next(words for words in (("2", "4"), ("0.25", "0.5"), ("0", "1"), ("item", "user"))
                     if numeric(action.type, words))
    return [[*flag, word] for word in words]


def numeric(kind, words):
    """Whether both words are values of an argparse type, and the first of these kinds that it is."""
    try:
        values = [kind(word) for word in words]
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return not (words[0] == "2" and isinstance(values[0], float))


def command_lines(recommender, action):
    """Valid command lines that differ in one option, and in nothing else."""
    enabled = ENABLED_BY.get((recommender.name, action.dest), [])
    base = BASE.get(recommender.name, [])
    if not action.option_strings or action.dest in ("embedding", "model") and recommender.name in BASE:
        base = []
    return [[*base, *enabled, *words] for words in words_of(recommender, action)]


RECOMMENDERS = registry.recommenders()


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    """The two files that --config names; their positions and norms are what --order and --as-published decide else."""
    for name, layers in (("one", 1), ("two", 3)):
        (tmp_path / f"{name}.yaml").write_text(f"num_hidden_layers: {layers}\npositions: start\nnorm: after\n"
                                               "initializer_range: 0.02\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_an_option_that_changes_the_result_is_in_the_name_and_no_other_is(name):
    recommender, wrong = RECOMMENDERS[name], {}
    outside = {*NOT_IN_THE_NAME[""], *NOT_IN_THE_NAME.get(name, ())}
    for option, action in options(recommender).items():
        lines = command_lines(recommender, action)
        names = {name_of(recommender, line) for line in lines}
        if len(names) != (1 if option in outside else len(lines)):
            wrong[option] = lines
    assert not wrong


def test_the_lists_of_this_file_name_options_that_exist():
    listed = {(name, option) for name, values in NOT_IN_THE_NAME.items() for option in values} | {*ENABLED_BY}
    known = {(name, option) for name, r in RECOMMENDERS.items() for option in options(r)}
    every = {option for _, option in known}
    assert {pair for pair in listed if pair[0]} <= known and {*NOT_IN_THE_NAME[""]} <= every and {*WORDS} <= every


@pytest.mark.parametrize("lost", sorted(train.request_of(train.parse([]))))
def test_an_option_that_is_left_out_of_the_request_is_noticed(monkeypatch, lost):
    whole = train.request_of
    monkeypatch.setattr(train, "request_of", lambda args: {k: v for k, v in whole(args).items() if k != lost})
    with pytest.raises(AssertionError):
        test_an_option_that_changes_the_result_is_in_the_name_and_no_other_is("shallow")


def test_the_name_of_a_control_says_shuffled_and_no_other_does():
    controlled = [r for r in RECOMMENDERS.values() if "shuffle" in options(r)]
    assert {"knn", "shallow", "bert4rec", "sasrec", "two_tower", "content_knn"} <= {r.name for r in controlled}
    for recommender in controlled:
        plain, shuffled = (name_of(recommender, line) for line in
                           command_lines(recommender, options(recommender)["shuffle"]))
        assert "shuffled" in shuffled and "shuffle" not in plain, recommender.name
