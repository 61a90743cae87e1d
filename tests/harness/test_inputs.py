"""harness/inputs.py: what is recorded is what was read, whoever publishes meanwhile."""
import pytest

from harness.errors import WorkError
from harness.files import checksum, write_text
from harness.inputs import hashed, read_whole


def test_an_input_knows_whether_its_file_was_replaced_or_changed(tmp_path):
    path = tmp_path / "a"
    write_text(path, "1")
    seen = hashed(path)
    assert seen.digest == checksum(path) == checksum(seen) and not seen.replaced() and not seen.changed()
    write_text(path, "1")
    assert seen.replaced() and not seen.changed()
    write_text(path, "2")
    assert seen.replaced() and seen.changed()
    path.unlink()
    assert seen.changed()


def test_files_that_belong_together_are_read_again_until_none_was_replaced(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        write_text(path, "old")
    reads = []

    def read(inputs):
        values = [inputs[0].path.read_text()]
        if not reads:                                   # both are published between the first and the second
            for path in paths:
                write_text(path, "new")
        reads.append([*values, inputs[1].path.read_text()])
        return reads[-1]
    inputs, values = read_whole(lambda: paths, read)
    assert reads == [["old", "new"], ["new", "new"]] and values == ["new", "new"]
    assert [i.digest for i in inputs] == [checksum(p) for p in paths]


def test_files_that_never_rest_are_one_sentence(tmp_path):
    path = tmp_path / "a"
    write_text(path, "x")
    with pytest.raises(WorkError, match="a was replaced 3 times while it was read"):
        read_whole(lambda: [path], lambda inputs: write_text(path, "x"))
