"""All recommenders except those of the paper, whose scripts are at the root; declarations: see harness/registry.py."""
from harness import environment as environment  # a missing package ends in one sentence
