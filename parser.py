"""The command-line parser: short errors with suggestions, and a welcome page."""

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

from .installation import command

WELCOME = """\
MSI-Net predicts where people look in photographs.

  {program} test photos/ --overlay          saliency maps of your photographs, and overlays
  {program} test --weights medium           an included network on a sample photograph, without a download
  {program} demo                            the same in your browser
  {program} train -d custom -p my_photos --init lite       train on your own photographs and fixations
  {program} evaluate -d osie --weights medium --baselines   scores against where people looked

'{program} --help' lists all phases, and '{program} test --help' explains the flags of one.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are short and suggest what was meant. Python 3.14 suggests words itself."""

    def error(self, message: str):
        end = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: error: {message}{end} See '{self.prog} --help'.\n")

    def _check_value(self, action: argparse.Action, value) -> None:
        """Like argparse's, with our wording."""
        if action.choices is not None and value not in action.choices:
            words = [str(choice) for choice in action.choices]
            message = f"received {value}, expected {listed(words)}{did_you_mean(str(value), words)}"
            raise argparse.ArgumentError(action, message)

    def reject(self, unknown: list[str], phase: str):
        """End with a message about words that the parser of a phase does not know."""
        (phases,) = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        parser = phases.choices[phase]
        flags = list(parser._option_string_actions)
        guesses = [did_you_mean(word.partition("=")[0], flags) for word in unknown if word.startswith("-")]
        guesses += [f"; did you mean -p {word}?" for word in unknown if "-p" in flags and Path(word).exists()]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{next(filter(None, guesses), '')}")

    def greet(self, arguments: list[str] | None, phases: Iterable[str]) -> None:
        """Handle a command line without a phase: print the welcome page, or suggest a phase."""
        words = sys.argv[1:] if arguments is None else arguments
        if not words:
            print(WELCOME.format(program=command()), end="")
            self.exit()
        if words[0].startswith("-") or words[0] in phases:
            return
        guess = did_you_mean(words[0], phases)
        if not guess and Path(words[0]).exists():
            guess = f"; did you mean '{self.prog} test {words[0]}'?"
        self.error(f"received {words[0]}, expected one of the phases {listed(phases)}{guess}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the most similar known one, or ""."""
    close = difflib.get_close_matches(word.lower(), list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def listed(words: Iterable[str]) -> str:
    """ "a, b or c" """
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def in_lower_case(text: str) -> str:
    """The type of a word that may be written in any case, such as OSIE."""
    return text.lower()


def image_format(text: str) -> str:
    """The type of a file format, which may be written like a suffix."""
    word = text.lower().removeprefix(".")
    return "jpeg" if word == "jpg" else word
