"""A standing attack on the promises of the docs: kills, damaged files, rivals, full disks, odd places.

    make attack
    python -m tests.attack --seed 7 --kills 200

Each area counts what it tried and what survived. A trial survives when every process ends with status 0, 1 or 2, says
at most one sentence of error and shows no traceback, when finished outputs have the contents of an undisturbed run, and
when nothing temporary stays behind. Everything is drawn from --seed; what does not survive is printed with its draw.
"""
