"""RecTools' SASRec and BERT4Rec, asked for one training at a time. Run by bench/peers.py in an environment of its own.

Reads a line of json: a .npz with the train interactions (user, item, time) and the users to recommend to, the model
and its arguments, epochs, seed, k. Writes the lists beside it and answers with the seconds of each epoch.
"""
import json
import logging
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
sys.path.pop(0)  # this folder, whose modules are not those of the libraries


def trainer(epochs, seconds):
    """A Trainer as the library makes its own, that also notes how long each epoch took."""
    import pytorch_lightning as lightning

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *args):
            self.begin = time.perf_counter()

        def on_train_epoch_end(self, *args):
            seconds.append(time.perf_counter() - self.begin)
    return lightning.Trainer(max_epochs=epochs, min_epochs=epochs, enable_progress_bar=False, logger=False,
                             enable_model_summary=False, enable_checkpointing=False, devices=1, accelerator="cpu",
                             callbacks=[Clock()])


def fit(asked):
    """Train, write the best k items of each user, return the seconds of each epoch."""
    import numpy as np
    import pandas as pd
    import torch
    from pytorch_lightning import seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import BERT4RecModel, SASRecModel
    torch.set_num_threads(asked["threads"])
    seed_everything(asked["seed"], verbose=False)
    with np.load(asked["data"], allow_pickle=False) as data:
        frame = pd.DataFrame({Columns.User: data["user"], Columns.Item: data["item"], Columns.Weight: 1.0,
                              Columns.Datetime: pd.to_datetime(data["time"], unit="s")})
        users = data["wanted"]
    dataset, seconds = Dataset.construct(frame), []
    kind = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[asked["model"]]
    model = kind(**asked["arguments"], epochs=asked["epochs"],
                 get_trainer_func=lambda: trainer(asked["epochs"], seconds))
    model.fit(dataset)
    lists = model.recommend(users=users, dataset=dataset, k=asked["k"], filter_viewed=True)
    np.savez(asked["out"], user=lists[Columns.User].to_numpy(), item=lists[Columns.Item].to_numpy(),
             rank=lists[Columns.Rank].to_numpy() - 1, score=lists[Columns.Score].to_numpy())
    return seconds


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the libraries print
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for line in sys.stdin:
        answers.write(json.dumps(fit(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
