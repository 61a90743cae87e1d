from harness import environment as environment  # a missing package ends in one sentence
