"""The grid of the missing runs, in the form that slurm/grid.py reads.

Settings are those of the data set's grid file (claims.yaml names it), which tune.py chose; a representation that it
lacks takes those of another one under the same method, and a comment says so. A term that is `like` another takes that
run's own settings. What a claim varies goes over both.
"""
import functools
import json

from harness import registry
from harness.errors import UsageError
from ledger.statements import EACH, VERSUS, Term

EMBEDDING = ("model", "names", "embedding")      # what scripts that need an embedding call it
ROOT = registry.ROOT
NOT_SETTINGS = ("seed", "shuffle", *EMBEDDING, "comment")
AS_ITEM_FREEZE = {"frozen": 1, "start": 0}       # of --fusion; the other kinds are no published behaviour
OF_CONFIG = {"learning_rate": "lr"}              # entries of BERT4Rec's config that a flag sets by another name
OF_CONTENT = ("scale", "missing")                # flags that scripts refuse or ignore without an embedding


def document(needs, ledger, dataset):
    """The grid file of a data set, a dict with `blocks`, each run once; and comments on settings, a list of lines."""
    blocks, untuned = [], {}
    for need in dict.fromkeys(needs):
        block, why = block_of(need, ledger, dataset)
        if block not in blocks:
            blocks.append(block)
            if why:
                untuned.setdefault((need.method, why), {})[need.representation or ""] = None
    comments = [f"{method}{' on ' if any(names) else ''}{', '.join(filter(None, names))}: {why}"
                for (method, why), names in untuned.items()]
    return {"blocks": blocks}, comments


def block_of(need, ledger, dataset):
    """(block of a Need, why its settings are not tuned or '')"""
    script = registry.recommender(need.method).script
    flag = _embedding_flag(script) if "embedding" in registry.capability(need.method)[0] else None
    settings, why = _of_request(json.loads(need.like), script, dict(need.with_)) if need.like else \
        _of_grid(need, dataset, script, flag)
    settings |= dict(need.with_)
    settings.pop("shuffle", None)
    if need.representation is not None and flag:
        settings[flag] = need.representation
    if need.representation == "random":
        settings = {k: v for k, v in settings.items() if k not in OF_CONTENT}
    if need.control:
        settings["shuffle"] = "on"
    return {"script": script, "grid": {"seed": _seeds(need, ledger)}, "set": settings}, why


def _seeds(need, ledger):
    known = registry.deterministic(need.method)
    number = 1 if known and not need.control else ledger.rules["controls" if known else "seeds"]
    return list(range(1, number + 1))


def _embedding_flag(script):
    flags = {action.dest for action in registry.load(script).build_parser()._actions}
    return next((flag for flag in EMBEDDING if flag in flags), None)


def _of_request(request, script, varied):
    """The flags of a run's request that are not the script's defaults, and a remark on what no flag sets.

    varied: {flag: value} of what the run is to do otherwise; a published config is not that of the other run
    """
    actions = {a.dest: a for a in registry.load(script).build_parser()._actions if a.option_strings}
    recommender = next(r for r in registry.recommenders().values() if r.script == script)
    usual, content = registry.defaults(recommender.name), "embedding" in recommender.needs
    own = NOT_SETTINGS if content else ("seed", "comment")     # model is no embedding of a random forest
    own = [name for name in own if name != "comment" or not request.get(name)]
    config = {} if "as_published" in varied else {
        OF_CONFIG.get(k, k): v for k, v in (request.get("config") or {}).items()
        if k != "positions" and v != usual["config"].get(k)}   # positions follow from --order
    flat = {k: v for k, v in request.items() if k != "config"} | config
    unsaid = [k for k in config if k not in actions]
    return {k: _plain(v) for k, v in flat.items()
            if k in actions and k not in own and v is not None and (k in config or usual.get(k) != v)}, (
        f"its --config file sets {', '.join(unsaid)}, too; add it" if unsaid else "")


def _plain(value):
    if isinstance(value, list):   # of one run, and so one value of a grid's line
        return " ".join(map(str, value))
    return ("on" if value else "off") if isinstance(value, bool) else value


def _of_grid(need, dataset, script, flag):
    """({flag: value}, why they are not tuned) of the data set's grids: this representation's block, else another's."""
    known = _known(dataset, script, flag)
    for names, settings in known:
        if need.representation in names or flag is None:
            return settings, ""
    flags = {action.dest for action in registry.load(script).build_parser()._actions}
    usual = {k: v for k, v in dataset.set.items() if k in flags}
    for names, settings in sorted(known, key=lambda one: one[0] == ["random"]):
        if need.representation != "random" and names:
            name = next((name for name in names if name != "random"), "ID embeddings")
            return usual | settings, f"settings of {name}, not tuned for it"
    return usual, f"not in a grid of {dataset.name}, so the script's defaults"


@functools.cache
def _blocks(path):
    """The blocks of a grid file, to be read only: it is asked for once per run that lacks."""
    from experiments import grid_file
    return grid_file.read(path).get("blocks") or []


def _known(dataset, script, flag):
    """[(representations, {flag: value})] of a script's blocks in the data set's grids, without its controls."""
    known, flags = [], {action.dest for action in registry.load(script).build_parser()._actions}
    for path in dataset.grids:
        for block in _blocks(ROOT / path):
            lists = block.get("grid") or {}
            settings = {k: v[0] if isinstance(v, list) else v for k, v in lists.items()} | (block.get("set") or {})
            if block["script"] != script or _is_on(settings.get("shuffle")):
                continue
            if (settings := _as_item_freeze(settings, flags)) is not None:
                names = lists.get(flag, settings.get(flag, []))
                known.append((names if isinstance(names, list) else [names],
                              {k: v for k, v in settings.items() if k not in NOT_SETTINGS}))
    return known


def _as_item_freeze(settings, flags):
    """The settings with frozen and start of --fusion as the item_freeze of a script that has it; None for those of
    delta and concat, whose runs count only where a claim names them."""
    kind = settings.pop("fusion", None)
    if kind is not None and "item_freeze" in flags:
        settings["item_freeze"] = AS_ITEM_FREEZE.get(kind)
    return settings if kind is None or kind in AS_ITEM_FREEZE else None


def _is_on(value):
    return value is not None and str(value).lower() in ("on", "true", "yes", "1")


# --------------------------------------------------------------------------- a data set without a workspace

def whole_document(ledger, name, only=()):
    """The grid that tests every claim on a data set that is not here: extraction, split and all runs; [comments].

    only: ids of the claims that are planned for (empty: all)
    """
    from ledger.evidence import Need
    if name not in ledger.datasets:
        raise UsageError(f"--dataset {name} is not in {ledger.path.name}; it has {', '.join(ledger.datasets)}")
    dataset, needs = ledger.datasets[name], []
    for claim in ledger.claims:
        if claim.untestable or only and claim.id not in only or (
                claim.datasets is not None and name not in claim.datasets):
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
            lines += yaml.safe_dump({key: grid[key]}, sort_keys=False, width=10 ** 6,
                                    default_flow_style=None if key == "extract" else False).splitlines()
    lines.append("blocks:" if grid["blocks"] else "blocks: []")
    for block in grid["blocks"]:
        lines.append(f"  - script: {block['script']}")
        for key in ("grid", "set"):
            if block[key]:
                flow = yaml.safe_dump(block[key], default_flow_style=True, width=10 ** 6, sort_keys=False)
                lines.append(f"    {key}: {flow.strip()}")
    return "\n".join(lines) + "\n"
