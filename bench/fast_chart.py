"""Where an ADD and a DEL spend their time, as a picture; needs matplotlib (the extra `bench`)."""

from __future__ import annotations

from pathlib import Path

from bench.rows import Json

# In the order in which they pass; what goes between launcher and agent, and both processes' own time, is the first.
STAGES = {
    "launcher": ("launcher, socket", "#4477aa"),
    "queue": ("queue", "#aaaaaa"),
    "config": ("config", "#66ccee"),
    "ipam": ("ipam", "#77bb77"),
    "wiring": ("wiring", "#ccbb44"),
    "record": ("record", "#ee6677"),
}
REFERENCE_COLOUR = "#dddddd"
NARROW = 0.05  # of the width: a label does not fit
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "cni-calico", "font.size": 9}


def draw(stages: Json, reference: Json, name: str, path: Path) -> None:
    """Draw a bar of stages for each verb beside the reference's whole one. stages: verb -> stage -> ms."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(8, 2.6), layout="constrained")
        width = max(*reference.values(), *(sum(found.values()) for found in stages.values()))
        labels: list[str] = []
        for verb, found in stages.items():
            left = 0.0
            for stage, (label, colour) in STAGES.items():
                ms = found.get(stage, 0.0)
                first = label if not labels else "_"
                bar = axes.barh(len(labels), ms, left=left, color=colour, edgecolor="white", linewidth=0.5, label=first)
                if ms > NARROW * width:
                    axes.bar_label(bar, [f"{ms:.1f}"], label_type="center")
                left += ms
            bar = axes.barh(len(labels) + 1, reference[verb], color=REFERENCE_COLOUR)
            axes.bar_label(bar, [f"{reference[verb]:.1f}"], label_type="center")
            labels += [f"{verb}, launcher + agent", f"{verb}, {name}"]
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("ms, medians")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=len(STAGES), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
