"""The sections of explore.py's report, one module each, in the order of SECTIONS.

A section has
    TITLE                its heading
    measure(work)        its numbers for a workspace (workspace.Workspace): a dict of plain values, or a sentence that
                         states which data are missing
    draw(numbers)        its figures, {file stem: matplotlib Figure}; from the numbers alone, so that numbers.json
                         contains everything that a figure shows
    describe(numbers)    its text, a list of Markdown blocks; figures follow the first block

workspace.py reads the data, drawing.py has the style of the figures, words.py the formats of numbers, and tracking.py
copies the numbers to TensorBoard and Weights & Biases.
"""
import importlib

SECTIONS = ("sizes", "tails", "activity", "sessions", "labels", "features", "representations", "overlap", "friends")


def sections():
    """{name: module} of every section."""
    return {name: importlib.import_module(f"exploration.{name}") for name in SECTIONS}
