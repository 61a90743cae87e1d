"""The claims of the published systems, tested on the data sets at hand: holds, fails, undecided, or not testable here.

    python claims.py --workdir work/lastfm-audio work/spotify work/demo
    python claims.py --workdir work/demo --plan                  the grid of the missing runs, for slurm/grid.py
    python claims.py --plan --dataset music4all                  the grid for a cluster with Music4All

claims.yaml is the ledger: each claim with its source, what is compared, the direction and the smallest effect that
matters. ledger/verdicts.py has the rules of the verdicts. Of several settings of a method and
representation the one that is best on val counts. Writes claims.md, claims.csv and claims.json into claims/ of the
first workspace; nothing is trained.
"""
from pathlib import Path

from harness import cli
from harness.errors import UsageError
from harness.files import checksum, expanded, write_json, write_report_csv, write_text
from harness.machine import git_state

LEDGER = Path(__file__).with_name("claims.yaml")


def build_parser():
    parser = cli.Parser(prog="claims.py", description=__doc__)
    parser.add_argument("--workdir", nargs="+", metavar="DIR", default=None,
                        help="workspace folders, one for each data set (default: $WORKDIR, else the current directory)")
    parser.add_argument("--ledger", metavar="FILE", default=str(LEDGER),
                        help="YAML file of claims (default: claims.yaml of the project)")
    parser.add_argument("--claims", nargs="+", metavar="ID", default=[],
                        help="show these claims only, or with --plan plan for them; the correction counts all claims "
                             "of the ledger (default: all)")
    parser.add_argument("--out", metavar="DIR", help="folder for the files (default: claims/ in the first workspace)")
    parser.add_argument("--plan", action="store_true", help="print the grid of the missing runs instead")
    parser.add_argument("--dataset", metavar="NAME",
                        help="with --plan: a data set of the ledger that has no workspace here")
    return parser


def parse(argv=None):
    args = build_parser().parse_args(argv)
    if args.dataset and not args.plan:
        raise UsageError("--dataset is for --plan; a verdict needs the workspace's runs, named by --workdir")
    if args.plan and args.out:
        raise UsageError("--out is for verdicts; a plan is printed, so send it to a file: --plan > FILE")
    if args.dataset and args.workdir:
        raise UsageError("give --dataset or --workdir, not both: a workspace says which data set it is")
    return args


def workspaces(args, ledger):
    """The Workspaces of --workdir, in order; UsageError where two are of one data set."""
    import argparse

    from ledger.evidence import Workspace
    found = [Workspace(cli.workspace(argparse.Namespace(workdir=path)), ledger) for path in args.workdir or [None]]
    for number, one in enumerate(found):
        if twice := [other for other in found[:number] if other.name == one.name]:
            raise UsageError(f"{twice[0].workdir} and {one.workdir} are both the data set {one.name!r}; name one")
    return found


def main(argv=None):
    from ledger import plan, statements
    args = parse(argv)
    ledger = statements.read_ledger(args.ledger)
    for name in args.claims:
        if name not in {claim.id for claim in ledger.claims}:
            raise UsageError(f"--claims {name} is no claim of {ledger.path.name}")
    if args.dataset:
        grid, comments = plan.whole_document(ledger, args.dataset, args.claims)
        print(plan.text(grid, comments, head_of_plan(args.dataset, "$WORKDIR")), end="")
        return
    found = workspaces(args, ledger)
    lines = judged_lines(ledger, found)
    if args.plan:
        print_plans(ledger, found, lines, args.claims)
        return
    report(args, ledger, lines, found)


def judged_lines(ledger, found):
    """Verdicts of all claims on all workspaces, claim by claim; every claim has at least one."""
    from ledger import evidence, verdicts
    lines = [line for claim in ledger.claims for space in found for line in evidence.lines_of(claim, space)]
    known = {line.claim.id for line in lines}
    for claim in ledger.claims:
        if claim.id not in known:
            where = ", ".join(claim.datasets or [])
            lines.append(evidence.Line(claim, found[0].name, found[0].generated, "", reason=f"a claim about {where}"))
    order = {claim.id: n for n, claim in enumerate(ledger.claims)}
    made = verdicts.judge(sorted(lines, key=lambda line: order[line.claim.id]), ledger.rules)
    for verdict in made:
        verdicts.unjudged(verdict, ledger.rules)
    return made


def head_of_plan(name, folder):
    return [f"Runs that the claims on {name} lack, printed by claims.py --plan. To make them:",
            f"  python slurm/grid.py --file THIS --workdir {folder} --local          (or --submit on a cluster)"]


def print_plans(ledger, found, made, only):
    """Print a grid for each workspace; several are separated by ---, a file each for slurm/grid.py."""
    from ledger import plan
    for number, space in enumerate(found):
        needs = [need for v in made if v.line.dataset == space.name and (not only or v.line.claim.id in only)
                 for need in v.line.needs]
        grid, comments = plan.document(needs, ledger, space.dataset)
        print(("---\n" if number else "") + plan.text(grid, comments, head_of_plan(space.name, space.workdir)), end="")


def inputs_of(space, made):
    """{run: checksum of the files that it was made from} of the runs that were judged on a workspace."""
    from harness.runs import inputs_checksum
    judged = {run for verdict in made if verdict.line.dataset == space.name for run in verdict.line.runs}
    return {name: inputs_checksum(config) for cell in space.cells for name, config in cell.runs if name in judged}


def report(args, ledger, made, found):
    """Write claims.md, .csv and .json, and print the first."""
    import pandas as pd

    from ledger import render
    shown = [v for v in made if not args.claims or v.line.claim.id in args.claims]
    ledger.claims = [c for c in ledger.claims if not args.claims or c.id in args.claims]
    git = git_state()
    about = {"ledger": ledger.path.name, "ledger_sha256": checksum(ledger.path),
             "commit": (git.get("commit") or "")[:8] + ("+" if git.get("dirty") else ""),
             "workspaces": {space.name: str(space.workdir) for space in found},
             "inputs": {space.name: inputs_of(space, shown) for space in found}}
    folder = expanded(args.out) if args.out else found[0].workdir / "claims"
    text = render.markdown(ledger, shown, about, every=made)
    write_report_csv(folder / "claims.csv", pd.DataFrame(render.rows(shown)))
    write_json(folder / "claims.json", render.document(ledger, shown, about))
    write_text(folder / "claims.md", text)
    print(text)
    print(f"written to {folder}: claims.md claims.csv claims.json")


if __name__ == "__main__":
    cli.run(main)
