"""DTNMR; its command line is __main__.py."""

COMPONENTS = ("static", "long", "short", "behaviour")   # of the network, each of which can be left out
