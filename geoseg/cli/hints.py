"""Suggestions for misspelt options, and for options and settings of other commands."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Sequence

import click

from geoseg.cli.sections import is_used, list_settings

# Least similarity of names of which one is suggested for the other.
_SIMILAR = 0.75

# Commands whose options are named; those of the command itself are looked at before.
_STEPS = ("tile", "predict", "vectorize", "align", "evaluate")

# Options whose setting has another name.
_SETTING_OF = {
    "threshold": "vectorize.body",
    "gsd": "tile.gsd_m",
    "split": "vectorize.split_m",
    "max-shift": "align.max_shift_m",
}

_OPTION_OF = {setting: name for name, setting in _SETTING_OF.items()} | {
    "tile.assume_gsd_m": "assume-gsd",
    "predict.assume_gsd_m": "assume-gsd",
    "predict.gsd_m": "gsd",
    "predict.floats": "float",
}


def suggest_option(verb: str, command: click.Command, name: str, words: Sequence[str]) -> str:
    """Suggest what to write instead of an unknown option.

    Args:
        verb: Name of the command.
        command: The command.
        name: The option, such as `--threshhold`.
        words: All words of the command line, from which the value is taken.

    Returns:
        A clause for the message; empty without a suggestion.
    """
    own = _list_options(command)
    if near := difflib.get_close_matches(name, own, n=1, cutoff=_SIMILAR):
        return f"did you mean {near[0]}?"
    setting = suggest_setting(verb, name.lstrip("-"), _find_value(name, words))
    others = [other for other in _STEPS if name in _list_options(_load(other))]
    elsewhere = f"it is an option of geoseg {' and '.join(others)}" if others else ""
    if elsewhere and (not setting or " is a setting of " in setting):
        return elsewhere
    return setting


def suggest_setting(verb: str, name: str, value: str = "VALUE") -> str:
    """Suggest the setting of a name, with or without its section.

    Args:
        verb: Name of the command.
        name: A name such as `max-minutes` or `train.max_minutes`.
        value: Its value.

    Returns:
        A clause for the message; empty if there is no such setting.
    """
    wanted = name.replace("-", "_")
    known = list(list_settings())
    found = [_SETTING_OF[name]] if name in _SETTING_OF else []
    found += [key for key in known if key.endswith(f".{wanted}") or key == wanted]
    used = [key for key in known if is_used(verb, key)]
    if not found:
        by_name = {key.rpartition(".")[2]: key for key in reversed(used)}
        near = difflib.get_close_matches(wanted, by_name, n=1, cutoff=_SIMILAR)
        found = [by_name[one] for one in near]
    for key in found:
        if key in used:
            return f"did you mean --set {key}={value}?"
    return f"{found[0]} is a setting of geoseg {_owner(found[0])}" if found else ""


def option_of(setting: str) -> str:
    """Return the option that sets a setting, as it is typed.

    Args:
        setting: Dotted name of a setting that has an option.
    """
    default = setting.rpartition(".")[2].replace("_", "-")
    return f"--{_OPTION_OF.get(setting, default)}"


def suggest_for_word(verb: str, word: str) -> str:
    """Suggest `--set` for a word such as `max_minutes=5`; empty if it is none."""
    found = re.fullmatch(r"([A-Za-z_][\w.-]*)=(.*)", word, re.DOTALL)
    return suggest_setting(verb, found[1], found[2]) if found else ""


def suggest_command(name: str, commands: Sequence[str]) -> str:
    """Suggest a command for a misspelt one."""
    near = difflib.get_close_matches(name, commands, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"the commands are {', '.join(commands)}"


def _owner(key: str) -> str:
    section = key.partition(".")[0]
    return "train" if section == "model" else section


def _load(verb: str) -> click.Command:
    command: click.Command = importlib.import_module(f"geoseg.cli.{verb}").command
    return command


def _list_options(command: click.Command) -> list[str]:
    return [name for option in command.params for name in (*option.opts, *option.secondary_opts)]


def _find_value(name: str, words: Sequence[str]) -> str:
    """Return the value that follows an unknown option; `VALUE` if there is none."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and following and not following.startswith("-"):
            return following
    return "VALUE"
