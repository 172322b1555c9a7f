"""Draw the results of a run: one panel per main measure, one bar per contender."""

from pathlib import Path
from typing import Any

from .measures import MEASURES
from .report import Report, number
from .workloads import CONTENDERS

PANELS = (
    "publish",
    "receive_raw",
    "receive_json",
    "receive_validated",
    "request_many",
    "request_p50",
)

OURS, OTHERS, CEILING = "#1f6feb", "#8b949e", "#d0d7de"


def draw(report: Report, path: Path) -> bool:
    """Write the plot. Returns False if matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [name for name in PANELS if name in report["measures"]]
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, panels, strict=False):
        _panel(axis, name, report["measures"][name])
    figure.suptitle(f"medians over {report['rounds']} rounds, {report['machine']['cores']} cores")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _panel(axis: Any, name: str, summaries: dict[str, dict[str, float]]) -> None:
    measure = MEASURES[name]
    contenders = [contender for contender in CONTENDERS if contender in summaries][::-1]
    medians = [summaries[contender]["median"] for contender in contenders]
    bars = axis.barh(contenders, medians, color=[_color(name) for name in contenders])
    axis.bar_label(bars, [number(median) for median in medians], padding=3, fontsize=8)
    better = "more" if measure.higher_is_better else "less"
    axis.set_title(f"{measure.title}, {measure.unit} ({better} is better)", fontsize=10)
    axis.margins(x=0.18)
    axis.tick_params(labelsize=8)
    axis.set_xticks([])
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _color(contender: str) -> str:
    if contender.startswith("tidings"):
        return OURS
    return CEILING if contender in ("libnats", "bare") else OTHERS
