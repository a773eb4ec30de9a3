"""MLflow's own pages, set up for a study: its variants with their accuracies, as a table and against each other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from equipoise.platform.record.client import RESULT_TAG, quoted
from equipoise.platform.record.tracking import Tracker

SHARED_VIEW = "mlflow.sharedViewState."  # experiment tags under which MLflow keeps views that a link names
EXPERIMENT_KIND = "mlflow.experimentKind"  # without it the page asks which kind this is
TRAINING = "workflowType=machine_learning"  # MLflow's pages are otherwise those for language models
SECTION = "equipoise-accuracies"


def keep_view(tracker: Tracker, study: str, parent: str, accuracies: Sequence[str]) -> None:
    """Keep a study's view of the runs table in MLflow: accuracies as columns, one scatter plot for each pair.

    Without it MLflow's table shows no metric until a person has picked columns.

    Args:
        tracker: of the study.
        study: its name.
        parent: its run, below which the trials' are shown.
        accuracies: metrics that hold them.
    """
    client, experiment = tracker.client, tracker.experiment_id
    client.set_experiment_tag(experiment, EXPERIMENT_KIND, "custom_model_development")
    client.set_experiment_tag(experiment, SHARED_VIEW + study, json.dumps(_view(study, parent, accuracies)))


def _view(study: str, parent: str, accuracies: Sequence[str]) -> dict[str, Any]:
    def chart(uuid: str, kind: str, **more: Any) -> dict[str, Any]:
        placed = {"uuid": f"equipoise-{uuid}", "type": kind, "metricSectionId": SECTION}
        return {**placed, "deleted": False, "isGenerated": False, "runsCountToCompare": 100, **more}

    def axis(metric: str) -> dict[str, str]:
        return {"key": metric, "type": "METRIC"}

    scatters = [
        chart(f"{x}-{y}", "SCATTER", xaxis=axis(x), yaxis=axis(y)) for x, y in itertools.combinations(accuracies, 2)
    ]
    lines = chart("parallel", "PARALLEL", selectedParams=[], selectedMetrics=list(accuracies), showAllRuns=True)
    bars = [chart(a, "BAR", metricKey=a) for a in accuracies]
    section = {"uuid": SECTION, "name": "Accuracies", "display": True, "isReordered": False, "deleted": False}
    tags = ("seed", "part", "front", "candidate")
    columns = [*(f"metrics.`{a}`" for a in accuracies), *(f"tags.`{t}`" for t in tags)]
    return {
        "searchFilter": f"tags.`{RESULT_TAG}` = '{quoted(study)}' AND tags.role != 'study'",
        # One row for each variant, the mean over its seeds; a click unfolds them.
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "variant"}]},
        "selectedColumns": [*columns, "attributes.`Duration`"],
        "compareRunCharts": [*scatters, lines, *bars],
        "compareRunSections": [{**section, "isGenerated": False}],
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOW_ALL",
    }


def runs_page(tracker: Tracker, study: str, charts: bool = False) -> str:
    """Address, behind that of the server, of a study's runs: as a table, or as charts of their accuracies."""
    asked = f"viewStateShareKey={quote(study)}&{TRAINING}" + ("&compareRunsMode=CHART" if charts else "")
    return f"/#/experiments/{tracker.experiment_id}/runs?{asked}"
