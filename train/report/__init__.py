"""The report: figures and one self-contained page, built from run folders only.

    build_report  report.html from its parts     estimates  accuracies, shares of a gap, probe margins, with intervals
    sections      tables, prose, ten rollouts    verdicts   expectations: met or not
    page          HTML from templates/, names and colours of stages
    figures/      that any report may show       studies/   those of one kind of experiment

Data that are missing become a note on the page; any other error is raised.
"""

from train.report.build_report import PARTS, build, judged, outcome

__all__ = ["PARTS", "build", "judged", "outcome"]
