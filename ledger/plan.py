"""The grid of the runs that lack, in the form that slurm/grid.py reads.

Settings are those of the data set's grid file (claims.yaml names it), which tune.py chose; a representation that it
lacks takes those of another one under the same method, and a comment says so. A term that is `like` another takes that
run's own settings. What a claim varies goes over both.
"""
from harness import registry
from harness.errors import UsageError
from ledger.statements import EACH, VERSUS, Term

EMBEDDING = ("model", "names", "embedding")      # what scripts that need an embedding call it
ROOT = registry.ROOT
NOT_SETTINGS = ("seed", "shuffle", "model", "names", "embedding", "comment", "k")


def document(needs, ledger, dataset):
    """The grid file of a data set, a dict with `blocks`, without those that another block covers; [comments]."""
    blocks, comments = [], []
    for need in dict.fromkeys(needs):
        block, comment = block_of(need, ledger, dataset)
        if block not in blocks:
            blocks.append(block)
            comments += [comment] if comment else []
    return {"blocks": blocks}, comments


def block_of(need, ledger, dataset):
    """(block of a Need, a comment or '')"""
    script = registry.recommender(need.method).script
    flag = _embedding_flag(script)
    settings, comment = (_of_request(need.like, script), "") if need.like else _of_grid(need, dataset, script, flag)
    settings |= dict(need.with_)
    settings.pop("shuffle", None)
    if need.representation is not None and flag:
        settings[flag] = need.representation
    if need.control:
        settings["shuffle"] = "on"
    return {"script": script, "grid": {"seed": _seeds(need, ledger)}, "set": settings}, comment


def _seeds(need, ledger):
    known = need.method in ledger.deterministic
    number = 1 if known and not need.control else ledger.rules["controls" if known else "seeds"]
    return list(range(1, number + 1))


def _embedding_flag(script):
    flags = {action.dest for action in registry.load(script).build_parser()._actions}
    return next((flag for flag in EMBEDDING if flag in flags), None)


def _of_request(request, script):
    """The flags of a run's request that are not the script's defaults; what no flag sets is left out."""
    actions = {a.dest: a for a in registry.load(script).build_parser()._actions if a.option_strings}
    usual = registry.defaults(next(r.name for r in registry.recommenders().values() if r.script == script))
    return {k: _plain(v) for k, v in request if k in actions and k not in NOT_SETTINGS and v is not None
            and usual.get(k) != v}


def _plain(value):
    return ("on" if value else "off") if isinstance(value, bool) else value


def _of_grid(need, dataset, script, flag):
    """({flag: value}, comment) of the data set's grid: the block of this representation, else of another one."""
    from experiments import grid_file
    if not dataset.grid:
        return {}, f"{need.method}: no grid file of {dataset.name}, so the script's defaults"
    blocks = [b for b in grid_file.read(ROOT / dataset.grid).get("blocks") or [] if b["script"] == script]
    known = []
    for block in blocks:
        grid, fixed = block.get("grid") or {}, block.get("set") or {}
        if _is_on(fixed.get("shuffle")) or any(k not in ("seed", "shuffle", *EMBEDDING) and isinstance(v, list)
                                               and len(v) > 1 for k, v in grid.items()):
            continue
        names = fixed.get(flag, grid.get(flag, []))
        known.append((names if isinstance(names, list) else [names], fixed))
    exact = [fixed for names, fixed in known if need.representation in names]
    content = [(names, fixed) for names, fixed in known if (names == ["random"]) == (need.representation == "random")]
    if exact or (flag is None and known):
        return {k: v for k, v in (exact or [known[0][1]])[0].items() if k not in NOT_SETTINGS}, ""
    if content:
        names, fixed = content[0]
        return ({k: v for k, v in fixed.items() if k not in NOT_SETTINGS},
                f"{need.method} on {need.representation}: settings of {names[0] if names else 'the method'}, untuned")
    return {"missing": "mean"} if _takes(script, "missing") else {}, \
        f"{need.method} on {need.representation}: not in {dataset.grid}, so the script's defaults"


def _is_on(value):
    return value is not None and str(value).lower() in ("on", "true", "yes", "1")


def _takes(script, flag):
    return any(a.dest == flag for a in registry.load(script).build_parser()._actions)


# --------------------------------------------------------------------------- a data set without a workspace

def whole_document(ledger, name):
    """The grid that tests every claim on a data set that is not here: extraction, split and all runs; [comments]."""
    from ledger.evidence import Need
    if name not in ledger.datasets:
        raise UsageError(f"--dataset {name} is not in {ledger.path.name}; it has {', '.join(ledger.datasets)}")
    dataset, needs = ledger.datasets[name], []
    for claim in ledger.claims:
        if claim.untestable or (claim.datasets is not None and name not in claim.datasets):
            continue
        for term in terms_of(claim, dataset):
            needs.append(Need(term.method, term.representation, term.control, tuple(sorted(term.with_.items()))))
    grid, comments = document(needs, ledger, dataset)
    before = {key: value for key, value in (("extract", dataset.extract), ("split", dataset.split)) if value}
    return before | grid, comments


def terms_of(claim, dataset):
    """The Terms of a claim on a data set, `each` and `versus` replaced by the names of its roles."""
    def names_of(wanted):
        return wanted if isinstance(wanted, list) else dataset.roles.get(wanted, [])
    named = list(claim.scores) if claim.scores else names_of(claim.each["representation"]) \
        if "representation" in claim.each else []
    methods = names_of(claim.each["method"]) if "method" in claim.each else []
    for term in claim.terms.values():
        fixed = [term.representation] if term.representation not in (EACH, VERSUS) else []
        others = names_of(claim.versus) if term.representation == VERSUS else []
        for method in methods if term.method == EACH else [term.method]:
            for representation in fixed or (others if term.representation == VERSUS else named):
                yield Term(method, representation, term.control, term.with_)


def text(grid, comments, head):
    """The grid as YAML: comments, then blocks with their lists on one line each."""
    import yaml
    lines = [f"# {line}" for line in [*head, *comments]]
    for key in ("extract", "split"):
        if key in grid:
            lines += yaml.safe_dump({key: grid[key]}, sort_keys=False, default_flow_style=None, width=1000,
                                    allow_unicode=True).splitlines()
    lines.append("blocks:" if grid["blocks"] else "blocks: []")
    for block in grid["blocks"]:
        lines.append(f"  - script: {block['script']}")
        for key in ("grid", "set"):
            if block[key]:
                flow = yaml.safe_dump(block[key], default_flow_style=True, width=10 ** 6, sort_keys=False)
                lines.append(f"    {key}: {flow.strip()}")
    return "\n".join(lines) + "\n"
