"""bench/local_grid.py: both roads make the runs that the grid's file names, and every repeat makes new ones."""
from bench import local_grid
from bench.recommenders import write_world
from experiments.expand import jobs_of


def test_every_repeat_makes_ten_other_runs(tmp_path):
    write_world(tmp_path, 40, 60, 800)
    jobs = [job for first in (1, 3) for block in local_grid.blocks(first, False) for job in jobs_of(block, tmp_path)]
    assert len(jobs) == 20 and len({job.argv + (job.script,) for job in jobs}) == 20


def test_both_roads_make_the_same_runs(tmp_path):
    for road in (local_grid.forked, local_grid.apart):
        workdir = tmp_path / road.__name__
        write_world(workdir, 40, 60, 800)
        assert road(workdir, local_grid.blocks(1, True)[:1]) > 0
    made = [sorted(path.name for path in (tmp_path / name / "runs").iterdir()) for name in ("forked", "apart")]
    assert made[0] == made[1] and len(made[0]) == local_grid.SEEDS
