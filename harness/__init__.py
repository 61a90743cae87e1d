from harness import environment as environment
