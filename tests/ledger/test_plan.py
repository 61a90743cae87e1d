"""Plans: a planned run shares every setting of the run that it is like, as the grid would make that run."""
import json

import pytest

import train_bert
from evaluation.results import Cell
from experiments import expand
from harness import registry
from ledger import plan
from ledger.evidence import BESIDES, Need, _alike
from ledger.statements import Dataset, Ledger
from recommenders.two_tower import __main__ as two_tower

LEDGER = Ledger("claims.yaml", {"seeds": 3, "controls": 3}, {}, [])


def request_of(module, words):
    return module.request_of(module.parse(words) if hasattr(module, "parse") else module.parse_args(words))


def again(need, script):
    """The request that the planned run will have, but for its seed."""
    block, why = plan.block_of(need, LEDGER, Dataset("one"))
    module = registry.load(script)
    words = expand.argv_of(module.build_parser(), (), block["set"])
    return request_of(module, words), why


@pytest.mark.parametrize("flags, module, method", [
    (["--embedding", "a"], two_tower, "two_tower"),
    (["--embedding", "a", "--fields", "year", "genre", "--temperature", "0.2"], two_tower, "two_tower"),
    (["--embedding", "a", "--hidden", "30", "20"], registry.load("recommenders.dropoutnet"), "dropoutnet"),
    (["--model", "a", "--lr", "0.002", "--patience", "3", "--max-seq-len", "20"], train_bert, "bert4rec")])
def test_a_control_like_a_run_has_its_settings(flags, module, method):
    request = request_of(module, flags)
    need = Need(method, "a", True, (), json.dumps(request, sort_keys=True))
    assert plan.document([need, need], LEDGER, Dataset("one"))[0]["blocks"] == [plan.block_of(need, LEDGER,
                                                                                              Dataset("one"))[0]]
    planned, why = again(need, registry.recommender(method).script)
    assert {k for k in {*planned, *request} if planned.get(k) != request.get(k)} == {"shuffle"} and not why


@pytest.mark.parametrize("method, flags, other", [
    ("contrastive", ["--factors", "elsa", "--l2", "0.006"], ["--lr", "0.001"]),      # with --as-published elsa anyway
    ("contrastive", ["--lr", "0.002"], []),
    ("bert4rec", ["--scale", "none", "--batch-size", "64"], ["--scale", "none"]), ("shallow", ["--lr", "0.002"], [])])
def test_a_planned_published_run_counts_as_like_the_run_that_it_is_like(method, flags, other):
    """Also where --as-published has defaults of its own, which a run without that flag cannot share."""
    module = registry.load(registry.recommender(method).script)
    of = ["--model" if method in ("bert4rec", "shallow") else "--embedding", "a"]
    ours = request_of(module, [*of, *flags])
    need = Need(method, "a", False, (("as_published", True),), json.dumps(ours, sort_keys=True))
    cells = [Cell(method, "a", False, json.loads(json.dumps(r))) for r in
             (ours, again(need, registry.recommender(method).script)[0], request_of(module, [*of, *other]))]
    free = {"comment", "as_published", *BESIDES["as_published"]}
    assert _alike(cells[0], cells[1], free) and not _alike(cells[2], cells[1], free)


def test_a_config_file_that_no_flag_stands_for_is_said():
    request = train_bert.request_of(train_bert.build_parser().parse_args(["--model", "a"]))
    request["config"] |= {"hidden_act": "relu6"}
    _, why = again(Need("bert4rec", "a", True, (), json.dumps(request)), "train_bert.py")
    assert why == "its --config file sets hidden_act, too; add it"
