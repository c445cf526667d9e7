"""The parser's answers to newcomers: the first page, suggestions, and words in any case."""

import sys

import pytest

from msinet import main
from msinet.flags import EXAMPLES
from msinet.installation import command


def refused(arguments, capsys) -> str:
    """The message about a wrong command line, which is one line."""
    with pytest.raises(SystemExit) as stop:
        main.parse(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_command_without_arguments_shows_a_short_page_with_commands_that_parse(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py"])
    with pytest.raises(SystemExit) as stop:
        main.parse()
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.strip() for line in lines if line.startswith(f"  {command()} ")]
    assert len(shown) == 5 and len(lines) < 15
    for line in shown:
        assert main.parse(line.removeprefix(command()).split("   ")[0].split()).phase


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["tets"], "test"),
        (["Evaluate"], "evaluate"),
        (["test", "--overlya"], "--overlay"),
        (["train", "--learning_rat=1"], "--learning-rate"),
        (["test", "-d", "OSEI"], "osie"),
        (["test", "--format", "jpgg"], "jpeg"),
        (["evaluate", "--protocol", "tübingen"], "tuebingen"),
        (["train", "--recipe", "scrach"], "scratch"),
        (["regions", "."], "-p ."),
    ],
)
def test_misspelled_word_is_answered_with_the_one_that_was_meant(arguments, guess, capsys):
    message = refused(arguments, capsys)
    assert f"; did you mean {guess}? See '" in message and "--help'" in message
    message = refused(["test", "-d", "xyz"], capsys)
    assert "received xyz, expected salicon, mit1003," in message and "did you mean" not in message


def test_photograph_instead_of_a_phase_is_answered_with_the_whole_command(capsys, tmp_path):
    photograph = tmp_path / "a.png"
    photograph.write_bytes(b"")
    assert f"test {photograph}'?" in refused([str(photograph)], capsys)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-d", "OSIE"], "data", "osie"),
        (["--format", "jpg"], "format", "jpeg"),
        (["--format", ".PNG"], "format", "png"),
        (["--weight", "lite"], "weights", "lite"),
    ],
)
def test_what_was_meant_is_done(words, name, value):
    assert getattr(main.parse(["test", *words]), name) == value


@pytest.mark.parametrize("phase", ["train", "evaluate", "reproduce"])
def test_help_is_grouped_and_ends_with_two_examples_that_parse(phase, capsys):
    with pytest.raises(SystemExit):
        main.parse([phase, "--help"])
    text = capsys.readouterr().out
    groups = ["\nessentials:\n", "\nrecipe", "\nspeed and files:\n", "\nexamples:\n"]
    assert sorted(groups, key=text.index) == groups
    assert ("\nyour own data (-d custom):\n" in text) == (phase != "reproduce")
    assert text.startswith(f"usage: main.py {phase} [flags]\n")
    assert ("draws one (default: 1.0)" in " ".join(text.split())) == (phase != "evaluate")
    shown = text.split("examples:\n")[1].splitlines()
    assert len(shown) == len(EXAMPLES[phase]) == 2
    for line in shown:
        assert main.parse(line.strip().removeprefix(command()).split("   ")[0].split()).phase == phase
