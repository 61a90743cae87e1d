"""Copies the numbers and figures of a report to TensorBoard and Weights & Biases."""
import html

from harness.errors import WorkError


def flat(value, tag=""):
    """Numbers of a nested value as {tag: [numbers]}, tags joined by '/'; a list of numbers keeps its order.

    Dicts in a list are identified by their 'label', else by their index. Text and missing values are left out.
    """
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        parts = ((v.get("label", i) if isinstance(v, dict) else i, v) for i, v in enumerate(value))
    else:
        values = value if isinstance(value, list) else [value]
        kept = [float(v) for v in values if isinstance(v, (int, float))]
        return {tag: kept} if kept and len(kept) == len(values) else {}
    result = {}
    for key, part in parts:
        result |= flat(part, f"{tag}/{key}" if tag else str(key))
    return result


def to_tensorboard(folder, numbers, report, figures):
    """Write one event file into a folder: single numbers and lists (one step per element), figures, the report."""
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(log_dir=str(folder)) as writer:
        for tag, values in flat(numbers).items():
            for step, value in enumerate(values):
                writer.add_scalar(tag, value, step)
        for path in figures:
            writer.add_image(path.stem, imread(path)[..., :3], dataformats="HWC")
        writer.add_text("report", report)


def to_wandb(project, folder, name, numbers, report, figures):
    """Upload single numbers (as the summary), lists (as tables), figures and the report; returns the url or folder.

    Configured by W&B's own environment variables (WANDB_MODE=offline keeps them in folder/wandb, WANDB_DIR elsewhere).
    """
    import wandb
    try:
        with wandb.init(project=project, name=name, dir=folder, job_type="explore", tags=[name],
                        settings=wandb.Settings(silent=True)) as run:
            for tag, values in flat(numbers).items():
                if len(values) == 1:
                    run.summary[tag] = values[0]
                else:
                    rows = [[step, value] for step, value in enumerate(values)]
                    run.log({tag: wandb.Table(columns=["place", "value"], data=rows)})
            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
            run.log({"report": wandb.Html(f"<pre>{html.escape(report)}</pre>")})
            return run.url or run.dir
    except wandb.errors.Error as e:
        raise WorkError(f"Weights & Biases: {' '.join(str(e).split())[:300]}; the report itself is in {folder}; "
                        "WANDB_MODE=offline needs no account") from None
