"""Lists of tracks: arrow reads what the csv module reads, and what is wrong is said in the same words."""
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from harness import text_blocks
from harness.errors import WorkError

PIECES = ["a", "b", "c", "0", "1", "2", "3", ",", "\n", "\n", "\n", "\r\n", "\r", '"', '""', " ", "\t", "\xa0",
          "\u00e9", "e\u0301", "\ufeff", "\0", "idx,trackid\n", "trackid\n", "song_id\n", "0,a\n", "1,b\n", "2,c\n",
          "ab\n", "abc\n", '"x,y"\n', '0,"p"\n']


def outcome(read, path, capsys):
    """(the ids, or the words of the WorkError; what was printed)."""
    try:
        found = list(read(path))
    except WorkError as e:
        found = str(e)
    said = capsys.readouterr()
    return found, said.out, said.err


@pytest.mark.parametrize("seed", range(4))
def test_arrow_and_the_csv_module_agree(tmp_path, capsys, seed):
    rng, good = np.random.default_rng(seed), 0
    for _ in range(400):
        text = "".join(rng.choice(PIECES, rng.integers(0, 12)))
        (tmp_path / "t.csv").write_bytes(text.encode())
        slow = outcome(text_blocks._read_slowly, tmp_path / "t.csv", capsys)
        assert outcome(text_blocks.read_track_list, tmp_path / "t.csv", capsys) == slow, ascii(text)
        good += isinstance(slow[0], list)
    assert good > 40


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("names", ["t{:07}", '"t, {:07}"', " cafe\u0301 {} "])
def test_lists_of_several_blocks(tmp_path, capsys, monkeypatch, names, numbered):
    rows = [names.format(i) for i in np.random.default_rng(0).permutation(120_000)]
    lines = [f"{i},{row}" if numbered else row for i, row in enumerate(rows)]
    path = tmp_path / "t.csv"
    path.write_text(("idx,trackid\n" if numbered else "id\n") + "\n".join(lines) + "\n", encoding="utf-8")
    slow = outcome(text_blocks._read_slowly, path, capsys)
    with monkeypatch.context() as patch:
        patch.delattr(text_blocks, "_read_slowly")
        assert outcome(text_blocks.read_track_list, path, capsys) == slow and len(slow[0]) == 120_000
    for wrong in (lines[50_000], "119999,x" if numbered else " ", "120000,\u00e9\n120001,e\u0301", '"x"y', "a,b,c"):
        path.write_text(("idx,trackid\n" if numbered else "id\n") + "\n".join([*lines, wrong]) + "\n", encoding="utf-8")
        slow = outcome(text_blocks._read_slowly, path, capsys)
        assert outcome(text_blocks.read_track_list, path, capsys) == slow and isinstance(slow[0], str)


def test_a_list_is_no_python_texts(tmp_path):
    path = tmp_path / "trackid_sorted.csv"
    path.write_text("idx,trackid\n" + "".join(f"{i},track{i:09}\n" for i in range(200_000)))
    text_blocks.track_ids(path)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    listed = text_blocks.track_ids(path)
    kept, peak = pa.total_allocated_bytes() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(listed) == 200_000 and kept < 3 * path.stat().st_size and peak < 8 << 20
