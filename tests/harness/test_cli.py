"""The command line that scripts share: types of arguments, and published calls whose arguments are flags as well."""
import argparse
from dataclasses import dataclass

import pytest

from harness import cli

CALL = (cli.Argument("model", str, "musicnn", "NAME", "an embedding"),
        cli.Argument("batch_size", cli.whole_number(1), 128, "N", "pairs per step"),
        cli.Argument("comment", str, "", "TEXT", "free text"))


@pytest.mark.parametrize(("kind", "text", "value"), [
    (cli.whole_number(0), "0", 0), (cli.whole_number(2), "2", 2), (cli.positive, "123456789012345", 123456789012345),
    (cli.number(0), "0", 0.0), (cli.number(0), "1e-3", 0.001), (cli.number(0, above=True), "0.1", 0.1),
    (cli.number(0, below=1), "0.999", 0.999), (cli.one_of("item", "user"), "user", "user"), (cli.flag01, "1", 1),
    (cli.seed_number, "4294967295", 4294967295),
])
def test_a_value_of_the_type_is_converted(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize(("kind", "text", "sentence"), [
    (cli.whole_number(2), "1", "must be a whole number of at least 2, not 1"),
    (cli.positive, "0", "must be a whole number of at least 1, not 0"),
    (cli.positive, "1.0", "must be a whole number of at least 1, not 1.0"),
    (cli.positive, "-3", "must be a whole number of at least 1, not -3"),
    (cli.positive, "\N{SUPERSCRIPT TWO}", "must be a whole number of at least 1, not \N{SUPERSCRIPT TWO}"),
    (cli.positive, "9" * 60, f"must be a whole number of at least 1, not {'9' * 40}"),
    (cli.number(0), "-0.1", "must be a number of at least 0, not -0.1"),
    (cli.number(0), "nan", "must be a number of at least 0, not nan"),
    (cli.number(0), "inf", "must be a number of at least 0, not inf"),
    (cli.number(0), "much", "must be a number of at least 0, not much"),
    (cli.number(0, above=True), "0", "must be a number above 0, not 0"),
    (cli.learning_rate, "0", "must be a number above 0, not 0"),
    (cli.learning_rate, "1e39", "must be a number below 1e+37, not 1e39"),
    (cli.number(0, below=1), "1", "must be a number of at least 0 and below 1, not 1"),
    (cli.one_of("item", "user"), "itme", "must be item or user, not itme"),
    (cli.flag01, "2", "must be 0 or 1, not 2"),
    (cli.seed_number, "4294967296", "must be a whole number from 0 to 4294967295, not 4294967296"),
])
def test_any_other_value_is_refused_in_one_sentence(kind, text, sentence):
    with pytest.raises(argparse.ArgumentTypeError) as e:
        kind(text)
    assert str(e.value) == sentence


def parse(*argv):
    parser = cli.Parser(prog="x.py")
    cli.published_call(parser, CALL)
    parser.add_argument("--lr", type=cli.number(0), default=0.1)
    return vars(cli.parse_published(parser, CALL, list(argv)))


@pytest.mark.parametrize(("argv", "expected"), [
    ([], {"model": "musicnn", "batch_size": 128, "comment": ""}),
    (["mert", "7"], {"model": "mert", "batch_size": 7, "comment": ""}),
    (["--batch-size", "7", "mert"], {"model": "mert", "batch_size": 7, "comment": ""}),
    (["mert", "--comment", "a b", "7"], {"model": "mert", "batch_size": 7, "comment": "a b"}),
    (["mert", "--model", "mert"], {"model": "mert", "batch_size": 128, "comment": ""}),
])
def test_positional_arguments_and_flags_of_a_published_call_are_merged(argv, expected):
    assert parse(*argv) == expected | {"lr": 0.1}


@pytest.mark.parametrize(("argv", "sentence"), [
    (["mert", "0"], "x.py: argument 2, batch_size: must be a whole number of at least 1, not 0\n"),
    (["mert", "--model", "m2v"], "x.py: model is mert as positional argument 1 and m2v as a flag; give it once\n"),
    (list("a1bc"), "x.py: takes at most 3 positional arguments (model batch_size comment), not 4\n"),
])
def test_a_published_call_that_contradicts_itself_is_one_sentence_and_status_2(capsys, argv, sentence):
    with pytest.raises(SystemExit) as e:
        parse(*argv)
    assert e.value.code == 2 and capsys.readouterr().err == sentence


def test_usage_lists_the_published_arguments_and_help_shows_what_goes_there():
    parser = cli.Parser(prog="x.py")
    cli.published_call(parser, CALL)
    text = parser.format_help()
    assert "usage: x.py [model [batch_size [comment]]] [flags]\n" in text
    assert "--batch-size N  pairs per step (default 128)" in " ".join(text.split()).replace("N pairs", "N  pairs")


def test_settings_takes_the_fields_of_a_dataclass_from_the_command_line():
    @dataclass
    class Two:
        lr: float
        model: str
    args = argparse.Namespace(lr=0.5, model="mert", workdir="elsewhere")
    assert cli.settings(Two, args) == Two(0.5, "mert") and cli.settings(Two, args, model="m2v") == Two(0.5, "m2v")
