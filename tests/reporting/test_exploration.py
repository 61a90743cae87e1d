"""The description of the data on the page of report.py: the one of explore.py, and whether the data are still those."""
import report
from harness.files import write_json
from tests.worlds.explored import made, world


def page_of(workdir):
    report.main(["--workdir", str(workdir)])
    return (workdir / "report" / "index.html").read_text(encoding="utf-8")


def test_a_description_of_other_files_is_said_to_be_one(tmp_path):
    workdir = world(tmp_path / "w")
    assert "made before" not in page_of(workdir)
    made(workdir)
    assert "made before" not in page_of(workdir) and "Data of three_users" in page_of(workdir)
    (workdir / "users.pqt").unlink()
    write_json(workdir / "dataset.json", {"name": "three_users", "time": "none"})
    assert "the description of the data was made before dataset.json, users.pqt changed" in page_of(workdir)
    made(workdir)
    assert "made before" not in page_of(workdir)
