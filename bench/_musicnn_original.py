"""The original MusiCNN library, asked for one file at a time. Run by bench/musicnn.py in an environment of its own.

Reads a path per line, answers a line of json: wall and processor seconds from file to features, and the
mean taggram. Two ways: `library` calls musicnn.extractor as the papers' script did (graph and session are
made for each file, patches run one by one); `kept` keeps one session and runs all patches of a file at once,
which is the most the library's own network could do.
"""
import json
import os
import sys
import time

sys.path.pop(0)  # this folder, whose musicnn.py is not the package
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def library(path):
    from musicnn.extractor import extractor
    taggram, _, features = extractor(path, model="MSD_musicnn")
    return taggram, features["penultimate"].mean(axis=0)


class Kept:
    """The library's graph, built and restored once."""

    def __init__(self):
        import tensorflow as tf
        from musicnn import configuration, extractor, models
        self.batch_data = extractor.batch_data
        self.x = tf.compat.v1.placeholder(tf.float32, [None, 187, configuration.N_MELS])
        training = tf.compat.v1.placeholder_with_default(False, [])
        layers = models.define_model(self.x, training, "MSD_musicnn", 50)
        self.wanted = [tf.nn.sigmoid(layers[0]), layers[-1]]
        self.session = tf.compat.v1.Session()
        tf.compat.v1.train.Saver().restore(self.session, os.path.dirname(models.__file__) + "/MSD_musicnn/")

    def __call__(self, path):
        taggram, penultimate = self.session.run(self.wanted, {self.x: self.batch_data(path, 187, 187)[0]})
        return taggram, penultimate.mean(axis=0)


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the library prints
    way = library if sys.argv[1] == "library" else Kept()
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        taggram, _ = way(line.rstrip("\n"))
        answers.write(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                                  "taggram": taggram.mean(axis=0).tolist()}) + "\n")


if __name__ == "__main__":
    main()
