"""show.py user in a workspace whose users have ids of text: the id of the log names a user, its row does not."""
import json

import pandas as pd
import pytest

import dataset
import show
from harness.errors import UsageError, WorkError
from lookup import catalogue, listeners
from tests.worlds.world import tiny_workspace


def test_a_user_of_the_log_without_plays_in_train_is_nobody_else(tmp_path):
    """With an id of text in the log, user_id numbers the users: 13 of the log is not user_id 13."""
    workdir = tiny_workspace(tmp_path / "w")
    pd.DataFrame({"idx": [0, 13, 23], "userid": ["13", "ann", "x"]}).to_csv(workdir / "userid_sorted.csv", index=False)
    with pytest.raises(UsageError, match="user '13' of the log has no plays in train"):
        listeners.user_of(catalogue.opened(workdir), "13")
    assert listeners.user_of(catalogue.opened(workdir), "ann") == (13, "ann")
    with pytest.raises(UsageError, match="no user has the id '23'; users of train are such as ann, x"):
        listeners.user_of(catalogue.opened(workdir), "23")      # the user_id of x


def test_users_with_ids_of_text_are_named_by_them(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    users = dataset.load(workdir).users
    pd.DataFrame({"idx": users, "userid": [f"{u:05}" for u in users]}).to_csv(workdir / "userid_sorted.csv",
                                                                                    index=False)
    for word in (str(users[3]), "00", f"0000{users[3]}", f"{users[3]:05}x"):
        with pytest.raises(UsageError, match=r"no user has the id '\w+'; (near it|users of train are such as):? \d{5}"):
            show.main(["user", word, "--workdir", str(workdir)])
    show.main(["user", f"{users[3]:05}", "--workdir", str(workdir)])
    assert capsys.readouterr().out.startswith(f"user: {users[3]:05}\n")
    show.main(["user", f"{users[3]:05}", "--json", "--workdir", str(workdir)])
    assert json.loads(capsys.readouterr().out)["user"] == f"{users[3]:05}"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", "idx,userid\nx,3\n"])
def test_a_damaged_list_of_users_is_named(tmp_path, text):
    workdir = tiny_workspace(tmp_path / "w")
    (workdir / "userid_sorted.csv").write_text(text)
    with pytest.raises(WorkError, match=r"userid_sorted.csv cannot be read as the list of users"):
        show.main(["user", "3", "--workdir", str(workdir)])
