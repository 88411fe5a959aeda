"""From merged facts to a case: what a set of files means together, section by section.

Every function takes what is known and returns what it adds to the case; none looks at files.
"""

from __future__ import annotations

from typing import Any

from vramsim.convert.architecture import model_of
from vramsim.convert.knobs import buckets_of, framework_of
from vramsim.convert.known import Known
from vramsim.convert.machines import cluster_of, engine_of
from vramsim.convert.strategy import strategy_of
from vramsim.convert.training import training_of


def case_of(known: Known) -> tuple[dict[str, Any], list[str]]:
    """The case that facts describe, as far as they do, and the names of what is missing, as `--set` takes them.

    known : merged facts; notes are added to it. [-]
    """
    cluster = cluster_of(known)
    engine = engine_of(known, cluster.get("num_devices"))
    model, lacking = model_of(known)
    framework = framework_of(known, engine)
    training = training_of(known, engine)
    strategy = strategy_of(known, engine, cluster)
    framework |= buckets_of(known, model, framework)
    name = framework.pop("name", None)
    described: dict[str, Any] = {"model": model} if model else {}
    described["cluster"] = cluster
    if name:
        described["framework"] = {"name": name, **framework} if framework else name
    described |= {"training": training, "strategy": strategy}
    missing = [] if model else ["model"]
    missing += lacking
    absent = [key for key in ("device", "num_devices") if key not in cluster]
    missing += ["cluster"] if len(absent) == 2 and not cluster else absent
    missing += [] if name else ["framework"]
    missing += [] if "seq_len" in training else ["seq_len"]
    unread = known.get("deepspeed_file") is not None and engine == "deepspeed" and strategy.get("zero_stage") is None
    missing += ["zero_stage"] if unread else []
    return {key: value for key, value in described.items() if value != {}}, missing
