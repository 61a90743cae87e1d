"""What explore.py is made of: one file for each section of the report, in the order of SECTIONS.

A section has
    TITLE              its heading
    measure(work)      its numbers from a workspace (workspace.Workspace): a dict of plain values, or a sentence that
                       says what the data lacks
    draw(numbers)      its figures, {file stem: matplotlib Figure}; from the numbers alone, so that numbers.json
                       holds whatever a figure shows
    tell(numbers)      its text, a list of Markdown blocks; figures stand behind the first

and workspace.py reads, drawing.py has the look of the figures, words.py that of numbers, tracking.py copies the
numbers to TensorBoard and Weights & Biases.
"""
import importlib

SECTIONS = ("sizes", "tails", "activity", "sessions", "labels", "features", "representations", "overlap", "friends")


def sections():
    """{name: module} of every section."""
    return {name: importlib.import_module(f"exploration.{name}") for name in SECTIONS}
