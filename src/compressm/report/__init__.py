"""Tables, figures and the HTML report of training runs.

runs = read_runs(["runs/compressm-0", "runs/scratch-0", "runs/full-0"])
print_summary(runs)
write_report(runs, "report.html")
"""

from .checks import Check
from .costs import costs_table
from .figure_accuracy import accuracy_figure
from .figure_spectra import spectra_figure
from .figure_time import time_figure
from .figure_tracks import tracks_figure
from .figure_training import speed_figure, training_figure
from .figures import save_figures
from .headline import Headline, headline
from .latex import to_latex
from .page import report_html, write_report
from .reading import read_run, read_runs
from .runs import Cut, LayerCut, Measurement, Run, Stage, Summary
from .summary import cuts_table, summary_table
from .table import Column, Row, Table, to_html, to_markdown, to_rich
from .terminal import print_summary

__all__ = [
    "Check",
    "Column",
    "Cut",
    "Headline",
    "LayerCut",
    "Measurement",
    "Row",
    "Run",
    "Stage",
    "Summary",
    "Table",
    "accuracy_figure",
    "costs_table",
    "cuts_table",
    "headline",
    "print_summary",
    "read_run",
    "read_runs",
    "report_html",
    "save_figures",
    "spectra_figure",
    "speed_figure",
    "summary_table",
    "time_figure",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_rich",
    "tracks_figure",
    "training_figure",
    "write_report",
]
