"""Time-to-event tasks: a YAML file and a MEDS dataset give the cohort table."""

from concordant.data.flow import Flow, FlowStep
from concordant.data.tasks.build import BuiltCohort, build_cohort
from concordant.data.tasks.definition import Task
from concordant.data.tasks.files import parse_task, read_task, shipped_tasks
from concordant.data.tasks.labels import HorizonLabels, SplitDraw, horizon_labels, write_labels

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
