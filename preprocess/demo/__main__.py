"""python -m preprocess.demo: make the sounds and plays of the built-in world."""
from harness import cli
from preprocess.demo import main

if __name__ == "__main__":
    cli.run(main)
