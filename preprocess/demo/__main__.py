"""Generate the audio files and plays of the built-in synthetic data set: python -m preprocess.demo --raw RAW"""
from harness import cli
from preprocess.demo import main

if __name__ == "__main__":
    cli.run(main)
