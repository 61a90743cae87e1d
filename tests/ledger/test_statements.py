"""claims.yaml: what is refused, and that the project's own covers what it should."""
import re

import pytest

from harness.errors import UsageError
from harness.registry import deterministic, recommenders
from ledger.plan import terms_of
from ledger.statements import parse_effect, read_ledger
from tests.conftest import ROOT
from tests.worlds.judged import claim, ledger


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"terms": "{x: {method: nobody}, y: {method: ease}}"}, "term x: unknown method 'nobody'; known are knn, "),
    ({"metric": "Fame@10"}, "unknown metric 'Fame@10'; a metric is one of HitRate, "),
    ({"metric": "NDCG"}, "unknown metric 'NDCG'"),
    ({"datasets": "[one, elsewhere]"}, "unknown data set 'elsewhere'; known are one, two, made"),
    ({"part": "exam"}, "unknown part 'exam'; known are val, test, "),
    ({"direction": "better"}, "direction is one of above, not-below, equal, differs, not 'better'"),
    ({"smallest": "-0.1"}, "smallest should be above 0 (for above and not-below at least 0), not -0.1"),
    ({"smallest": "0", "direction": "equal"}, "smallest should be above 0"),
    ({"smallest": ".nan"}, "smallest should be a finite number, not nan"),
    ({"smallest": ".inf"}, "smallest should be a finite number, not inf"),
    ({"smallest": "null"}, "smallest"),
    ({"smallest": "much"}, "smallest has the wrong form (str)"),
    ({"effect": "x - z"}, "effect 'x - z' has no term 'z'; terms are x, y"),
    ({"effect": "x y"}, "effect 'x y' should be a sum of terms"),
    ({"effect": "x - x"}, "should be a sum of terms"),
    ({"effect": "[x - y, 3]"}, "should be a sum of terms"),
    ({"effect": None}, "needs an effect such as `content - ids`"),
    ({"sentence": None}, "has no sentence"),
    ({"source": "[a]"}, "source has the wrong form (list)"),
    ({"weight": "2"}, "unknown key weight; expected id, sentence"),
    ({"each": "{dimension: [1]}"}, "each is over representation or method, not dimension"),
    ({"each": "{method: [nobody]}"}, "unknown method 'nobody'"),
    ({"terms": "{x: {method: ease, like: y}, y: {method: ease, like: x}}"}, "like names another term"),
    ({"terms": "{x: {method: ease, like: z}, y: {method: ease}}"}, "like names another term"),
    ({"terms": "{x: {method: each}, y: {method: ease}}"}, "term x: method is 'each', and the claim has no list"),
    ({"terms": "{x: {method: knn, representation: versus}, y: {method: ease}}"}, "representation is 'versus', and the"),
    ({"terms": "{x: ease, y: {method: ease}}"}, "term x should be `key: value` lines"),
    ({"terms": "{x: {method: [ease]}, y: {method: ease}}"}, "term x: method has the wrong form (list)"),
    ({"terms": "{x: {method: ease, with: {l2: [1]}}, y: {method: ease}}"}, "x, with: l2 should be a flag with one"),
    ({"terms": "{x: {method: ease, with: {1: 2}}, y: {method: ease}}"}, "term x, with: 1 should be a flag with one"),
    ({"each": "{representation: [1, 2]}"}, "each representation should be a list of names, not [1, 2]"),
    ({"each": "{representation: null}"}, "each representation should be a list of names, not None"),
    ({"each": "{method: [[ease]]}"}, "each method should be a list of names"),
    ({"versus": "[[a]]"}, "versus should be a list of names"),
    ({"datasets": "[[one]]"}, "datasets should be a list of names"),
    ({"effect": f"{'9' * 400} * x - y"}, "should have finite numbers"),
    ({"smallest": "9" * 400}, "smallest should be a finite number"),
    ({"scores": "{a: 1}", "terms": "{x: {method: each}}", "effect": None}, "method is 'each', and the claim has no"),
    ({"terms": "{x: {method: ease, like: y}, y: knn}"}, "term y should be `key: value` lines"),
    ({"scores": "{a: 1}"}, "scores should be `encoder: number` beside one term"),
])
def test_a_claim_that_is_wrong_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UsageError, match=re.escape(sentence)) as error:
        read_ledger(ledger(tmp_path, claim(**changes)))
    assert "\n" not in str(error.value) and "claims.yaml, claim first" in str(error.value)


def test_two_claims_of_one_id_and_other_forms(tmp_path):
    with pytest.raises(UsageError, match="two claims have the id 'first'; an id names one claim"):
        read_ledger(ledger(tmp_path, claim(), claim()))
    with pytest.raises(UsageError, match="has no claims"):
        read_ledger(ledger(tmp_path))
    with pytest.raises(UsageError, match="an id is made of small letters, digits and hyphens"):
        read_ledger(ledger(tmp_path, claim("First One")))
    with pytest.raises(UsageError, match="is no file"):
        read_ledger(tmp_path / "none.yaml")
    for text, sentence in (("[1, 2]", "should be `key: value` lines"), ("rules: {level: 2}\n", "level and chance"),
                           ("rules: {seeds: 1}\n", "whole numbers from 2")):
        (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=sentence):
            read_ledger(tmp_path / "other.yaml")
    for text, sentence in (("deterministic: [knn]\n", "deterministic"), ("rules: {level: null}\n", "has no claims")):
        (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=sentence):
            read_ledger(tmp_path / "other.yaml")
    for entry, sentence in (("{plays_of: one}", "plays_of and protocol go together"),
                            ("{roles: {audio: [[a]]}}", "role audio should be a list of names"),
                            ("{roles: {audio: vggish}}", "role audio should be a list of names, not vggish"),
                            ("{grids: [1]}", "grids should be a list of names"),
                            ("{set: {missing: [mean]}}", "set: missing should be a flag with one"),
                            ("{plays_of: nowhere, protocol: random}", "unknown data set 'nowhere'")):
        path = ledger(tmp_path, claim())
        path.write_text(path.read_text(encoding="utf-8").replace("claims:", f"  other: {entry}\nclaims:", 1),
                        encoding="utf-8")
        with pytest.raises(UsageError, match=sentence):
            read_ledger(path)


def test_effects_are_weighted_sums():
    terms = dict.fromkeys("abcd")
    assert parse_effect("", "a - b", terms) == {"a": 1, "b": -1}
    assert parse_effect("", "a - 5 * b", terms) == {"a": 1, "b": -5}
    assert parse_effect("", "-a + .5*b - c + d", terms) == {"a": -1, "b": .5, "c": -1, "d": 1}
    assert parse_effect("", "a - .15", terms) == {"a": 1, "1": -.15}


@pytest.fixture(scope="module")
def ours():
    return read_ledger(ROOT / "claims.yaml")


def test_every_row_of_the_differences_has_a_claim(ours):
    """By the first words of the row, which a claim's source repeats; so a new row needs a claim, or a reason."""
    text = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    sources = " ".join(c.source for c in ours.claims if "docs/" in c.source)
    names = {"BERT4Rec, layers": "BERT4Rec and its layers", "KNN (journal version)": "KNN", "DTNMR source": "dtnmr.md"}
    lacking = [row for row in rows if names.get(row, row) not in sources and row != "SASRec, two-tower source"]
    assert len(rows) > 15 and not lacking, lacking


def test_the_published_systems_are_in_the_ledger(ours):
    sources = [c.source for c in ours.claims]
    for system, least in (("RecSys '24", 12), ("journal version", 6), ("Last.fm + Spotify suite", 5), ("DTNMR", 4)):
        assert sum(source.startswith(system) for source in sources) >= least, system
    assert all(c.sentence.endswith(".") and c.smallest >= 0 for c in ours.claims)


def test_what_declares_itself_deterministic_has_nothing_random():
    """A method that trains by chance must not be among them: one seed of it decides nothing."""
    assert {name for name in recommenders() if deterministic(name)} == {
        "popularity", "itemknn", "ease", "knn", "content_knn", "content_prior", "artist_mean", "cease"}
    given = {name for name in recommenders() if deterministic(name, {"map": "ridge"}) and not deterministic(name)}
    assert given == {"content_factors", "shrinkage"} and not deterministic("content_factors", {"map": "mlp"})
    assert deterministic("shrinkage", {}) and not deterministic("elsa", {}) and not deterministic("nobody", {})


def test_terms_of_a_data_set_replace_each_and_versus(ours):
    best = next(c for c in ours.claims if c.id == "musicnn-best")
    terms = list(terms_of(best, ours.datasets["music4all"]))
    assert {t.method for t in terms} == {"knn", "shallow", "bert4rec"}
    assert {t.representation for t in terms} == set(ours.datasets["music4all"].roles["audio"])
