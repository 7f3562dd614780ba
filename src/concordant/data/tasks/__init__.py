"""Time-to-event tasks: a YAML file says who is predicted from when and what counts, and a MEDS
dataset gives the cohort table.
"""

from concordant.data.flow import Flow, FlowStep
from concordant.data.tasks.build import BuiltCohort, build_cohort
from concordant.data.tasks.definition import Task
from concordant.data.tasks.labels import HorizonLabels, horizon_labels, write_labels
from concordant.data.tasks.reading import parse_task, read_task, shipped_tasks
from concordant.data.tasks.splits import SplitDraw

__all__ = [
    "BuiltCohort",
    "Flow",
    "FlowStep",
    "HorizonLabels",
    "SplitDraw",
    "Task",
    "build_cohort",
    "horizon_labels",
    "parse_task",
    "read_task",
    "shipped_tasks",
    "write_labels",
]
