"""Every recommender but those of the paper, whose scripts are at the root; what each declares: harness/registry.py."""
from harness import environment as environment  # a missing package ends in one sentence
