"""Tables as text: head, foot, escapes, and LaTeX that fits the text width with eight metrics."""
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import table
from evaluation import provenance
from evaluation.files import write_metrics
from harness.files import write_json
from harness.machine import code
from tests.test_table import line, make_run, tables


def test_the_head_says_what_the_figures_are_of(tmp_path):
    write_json(tmp_path / "dataset.json", {"name": "listens"})
    write_json(tmp_path / "data/split.json", {"protocol": "hotcold", "stats": {"Train": {"Items": 1234}}})
    made = {"inputs": {"embeddings/mfcc.npy": "abc", "data/train.pqt": "d1"},
            "git": {"commit": "0123456789", "dirty": False}}
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, manifest=made, started="2026-02-03T04:05:06Z")
    make_run(tmp_path, "chance", None, [0.1] * 4, started="2026-01-01T04:05:06Z",
             manifest={"git": {"commit": "f00d56789", "dirty": True}})
    numbers, text = tables(tmp_path)
    assert text.startswith("### test: data set listens, split hotcold, 4 users, 1,234 items ranked, "
                           "commit 01234567 f00d5678+, 2026-02-03\n")
    row, other = line(numbers, "KNN", "mfcc"), line(numbers, "Chance")
    assert (row.dataset, row.embedding_sha256, row.commit) == ("listens", "abc", "01234567")
    assert other.commit == "f00d5678+" and len(row.split_sha256) == 64 and other.embedding_sha256 == ""


def test_the_foot_has_at_most_three_notes(tmp_path):
    """With everything at once: controls, seeds, tests, --against, other arguments, methods that cannot rank cold."""
    write_json(tmp_path / "dataset.json", {"time": "none"})
    rng, users = np.random.default_rng(0), range(30)
    both = {"parts": ("test", "cold_test"), "users": users}
    for seed in (1, 2):
        make_run(tmp_path, "knn", "mfcc", rng.random(30), seed=seed, **both)
        make_run(tmp_path, "knn", "mfcc", rng.random(30), seed=seed, shuffle=True, **both)
    for name in ("mert", "clap"):
        make_run(tmp_path, "knn", name, rng.random(30), **both)
    make_run(tmp_path, "knn", "muq", rng.random(30), center=True, **both)
    make_run(tmp_path, "chance", None, rng.random(30), **both)
    make_run(tmp_path, "ease", None, rng.random(30), users)
    for part in ("test", "cold_test"):
        text = tables(tmp_path, "--against", "chance", part=part)[1]
        notes = [row for row in text.splitlines() if row.startswith("- ")]
        assert len(notes) == 3 and "one more of them" in notes[0] and "†" in notes[2]
        assert "°" in notes[1] and "↑ ↓" in notes[1]
        assert ("cannot rank cold items: EASE" in notes[2]) == (part == "cold_test") and "BERT4Rec needs" in notes[2]
        assert not re.search(r"(?<!of )equal", text)


def test_the_smallest_difference_is_seen_in_four_of_five_samples_of_users(tmp_path):
    """Tests of 2,000 samples of 300 users at the difference that the table of one sample names."""
    rng = np.random.default_rng(1)
    for name in ("mfcc", "mert"):
        make_run(tmp_path, "knn", name, rng.normal(0.5, 0.1, 300), range(300))
    text = tables(tmp_path)[1]
    least = float(re.search(r"differ by ([0-9.]+) in", text)[1])
    assert least == pytest.approx(2.8 * 0.1 * np.sqrt(2 / 300), rel=0.15)   # the spread of one sample, the bootstrap
    each = rng.normal(least, 0.1 * np.sqrt(2), (2000, 300))
    assert np.mean(stats.ttest_1samp(each, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.12)


def test_nothing_in_a_name_or_comment_breaks_a_table(tmp_path):
    nasty = "a|b *c* _d_ \\x & 50% $y$ #1 {z} ~^ <i>\n\\end{tabularx} `q`"
    make_run(tmp_path, "knn", "muq_msd", [0.1] * 4)
    make_run(tmp_path, "knn", "muq_msd", [0.2] * 4, comment=nasty)
    text = tables(tmp_path)[1]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in text.splitlines() if row.startswith("|")} == {6}
    assert r"a\|b \*c\* \_d\_ \\x" in text and "| muq_msd " in text and r"\<i> \\end{tabularx} \`q\`" in text
    latex = (tmp_path / "tables/test.tex").read_text().replace(r"\allowbreak{}", "").splitlines()
    rows = [row for row in latex if not row.startswith("%")]
    assert sum(row == r"\end{tabularx}" for row in rows) == 1
    assert any(r"KNN muq\_msd (a|b *c* \_d\_ \textbackslash{}x \& 50\% \$y\$ \#1 \{z\} \textasciitilde{}"
               r"\textasciicircum{} $<$i$>$ \textbackslash{}end\{tabularx\}" in row for row in rows)


EIGHT = ["HitRate", "MRR", "Precision", "Recall", "NDCG", "MAP", "Coverage", "Gini"]


def wide_world(workdir):
    """All blocks, eight metrics, seeds, controls, a reference, a comment that needs two lines."""
    rng = np.random.default_rng(0)
    metrics_of = [f"{name}@50" for name in EIGHT]

    def add(recommender, embedding, seed=1, **more):
        name = make_run(workdir, recommender, embedding, [0.1] * 30, users=range(30), seed=seed, **more)
        frame = pd.DataFrame(rng.random((30, 8)), columns=metrics_of, index=pd.Index(range(30), name="user_id"))
        write_metrics(workdir / "metrics" / f"{name}_test.csv", frame)
    for name in ("chance", "popularity", "ease", "itemknn"):
        add(name, None)
    add("hybrid", None, manifest={"sources": {"a": "b"}})
    for name in ("musicnn", "a_very_long_name_of_an_embedding", "mfcc"):
        for seed in (1, 2, 3):
            add("shallow", name, seed)
            add("shallow", name, seed, shuffle=True)
    add("shallow", "mfcc", comment="with a comment that is longer than a column & 50% odd")
    table.main(["--workdir", str(workdir), "--metrics", *metrics_of, "--against", "popularity"])
    return (workdir / "tables/test.tex").read_text()


def test_latex_with_eight_metrics_has_one_place_for_each_and_short_ones(tmp_path):
    """Counted without LaTeX. At 8 pt a digit is 4.25 pt wide: 8 metrics, control and worth leave the label 80 pt."""
    text = wide_world(tmp_path)
    (columns,) = re.findall(r"\\begin{tabularx}{\\textwidth}{@{}>{\\raggedright\\arraybackslash}X(r+)@{}}", text)
    assert len(columns) == 8 + 2
    rows = [row for row in text.splitlines() if row.endswith(r"\\") and r"\multicolumn" not in row]
    assert len(rows) > 15 and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {11}

    def visible(place):
        place = re.sub(r"\\rotatebox\{90\}\{[^}]*\}", "", place.removesuffix(r"\\"))
        place = re.sub(r"\$\^\\?(circ|dagger|r)\$|\$\\(up|down)arrow\$|\$(-|\\pm)\$", "#", place)
        return len(re.sub(r"\\(textbf|tiny) ?|[{}\s]", "", place))
    places = [visible(p) for row in rows for p in re.split(r"(?<!\\)&", row)[1:]]
    assert max(places) <= len(".1234°↓"), "four digits, and what marks them"
    assert not [p for row in rows for p in row.split("&")[1:] if re.search(r"(?<![0-9.])0\.[0-9]", p)]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_with_eight_metrics_compiles_and_fits_the_text_width(tmp_path):
    body = wide_world(tmp_path / "w")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage{array,booktabs,graphicx,tabularx}\n"
        f"\\begin{{document}}\n\\noindent\n{body}\\end{{document}}\n")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert r"Overfull \hbox" not in done.stdout, done.stdout[-2000:]


def test_a_row_made_by_code_that_has_changed_since_is_marked(tmp_path):
    """Recorded by the run, compared with the files of now; controls count, and runs without a record do not."""
    now = code()
    assert now["evaluation/render.py"] and not [name for name in now if name.startswith(("tests/", "bench/"))]
    assert provenance.changed_code([{"code": now}, {}]) == []
    make_run(tmp_path, "knn", "mfcc", [.4, .3, .2, .5], manifest={"code": now})
    make_run(tmp_path, "knn", "mule", [.3, .1, .2, .5], manifest={
        "code": {**now, "knn.py": "0" * 16, "gone.py": "1" * 16}})
    _, text = tables(tmp_path)
    assert re.search(r"^\| KNN +\| mule‡ ", text, re.M) and re.search(r"^\| KNN +\| mfcc ", text, re.M)
    assert "‡: made by code that has changed since (gone.py, knn.py)" in text
    frame = pd.read_csv(tmp_path / "tables" / "results_test.csv").set_index("representation")["code_changed"]
    assert frame["mule"] == "gone.py knn.py" and pd.isna(frame["mfcc"])
    assert r"mule$^\ddagger$" in (tmp_path / "tables" / "test.tex").read_text(encoding="utf-8")
