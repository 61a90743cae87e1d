"""One recommender with a clock on it, in a process of its own: python -m bench._recommender OUT MODULE ARGV...

Runs MODULE's main with ARGV and writes OUT (json). Every recommender reads by dataset.load and ends in save.write,
so the clock stands there: `load` is the reading, `fit` all that comes between it and the first list (the import of the
recommender's own libraries included), `processor` the processor seconds of that, `recommend` the exact ranking in
topk.recommend by part, without metrics and files. `users` is their number by part.
"""
import sys
import time
from pathlib import Path


def main(out, name, *argv):
    import pandas  # noqa: F401  (what all of them use is loaded before the clock starts)
    import scipy.sparse  # noqa: F401
    import torch  # noqa: F401

    import dataset
    import metrics  # noqa: F401
    from harness import registry
    from harness.files import write_json
    from ranking import save, topk
    told = {"load": 0.0, "fit": None, "processor": None, "recommend": {}, "users": {}}
    reading = 0.0
    writing, load, write, recommend = [], dataset.load, save.write, topk.recommend

    def timed_load(*args):
        nonlocal reading
        start, processor = time.perf_counter(), time.process_time()
        split = load(*args)
        told["load"] += time.perf_counter() - start
        reading += time.process_time() - processor
        return split

    def timed_write(*args, **kwargs):
        if told["fit"] is None:
            told["fit"] = time.perf_counter() - begun - told["load"]
            told["processor"] = time.process_time() - begun_processor - reading
        writing.append(True)
        try:
            return write(*args, **kwargs)
        finally:
            writing.pop()

    def timed_recommend(split, part, *args, **kwargs):
        start = time.perf_counter()
        lists = recommend(split, part, *args, **kwargs)
        if writing:  # else the recommender looks at val while it fits
            told["recommend"][part] = told["recommend"].get(part, 0.0) + time.perf_counter() - start
            told["users"][part] = len(split.eval_users(part))
        return lists
    dataset.load, save.write, topk.recommend = timed_load, timed_write, timed_recommend
    module = registry.load(name)
    begun, begun_processor = time.perf_counter(), time.process_time()
    status = module.main(list(argv))
    write_json(Path(out), told)
    return status


if __name__ == "__main__":
    from harness import cli
    cli.run(lambda argv: main(*sys.argv[1:]))
