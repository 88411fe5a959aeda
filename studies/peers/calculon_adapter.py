"""Runs calculon on JSON lines from standard input: one run a line, one answer a line.

It is started by studies/peers_throughput.py and studies/speed.py with an interpreter that finds calculon (installed, or
a checkout on PYTHONPATH), and imports nothing of vramsim. Systems are those of calculon's own systems/*.json, found in
the checkout that is given as the only argument. Their memory is enlarged: a run that was measured did fit, and calculon
refuses to time one for which it counts more memory than there is.
"""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LLM: Any = importlib.import_module("calculon.llm")
SYSTEM: Any = importlib.import_module("calculon.system")

SYSTEMS = {"a100": "a100_80g", "h100": "h100_80g_nvl8"}
"""Those that calculon's validation of step times and its studies use."""

NODE = 8


def version(checkout: Path) -> str:
    """The git revision of a checkout.

    checkout : its directory. [-]
    """
    command = ["git", "-C", str(checkout), "rev-parse", "--short=7", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"git {found}" if found else "unknown"


def system(checkout: Path, device: str) -> Any:
    """A system with room for every run, and networks that need not be filled.

    checkout : directory of calculon. [-]   device : a100 | h100. [-]
    """
    content = json.loads((checkout / "systems" / f"{SYSTEMS[device]}.json").read_text(encoding="utf-8"))
    content["mem1"]["GiB"] = 1e6
    for network in content["networks"]:
        network["must_be_filled"] = False
    return SYSTEM.System(content)


def execution(run: dict[str, Any]) -> Any:
    """How a run is carried out; what rows do not tell is as in calculon's validation (validation/seqsel/tab5).

    run : inputs. [-]
    """
    within = 0 if run["tp"] * run["pp"] * run["dp"] <= NODE else 1
    sequence, recompute = run["sequence_parallel"], {"selective": "attn_only"}.get(run["recompute"], run["recompute"])
    return LLM.Llm.Execution.from_json(
        {
            "num_procs": run["tp"] * run["pp"] * run["dp"],
            "tensor_par": run["tp"],
            "pipeline_par": run["pp"],
            "data_par": run["dp"],
            "tensor_par_net": 0 if run["tp"] <= NODE else 1,
            "pipeline_par_net": within,
            "data_par_net": within,
            "batch_size": run["micro_batch"] * run["accumulation"] * run["dp"],
            "microbatch_size": run["micro_batch"],
            "datatype": "float16",
            "fused_activation": False,
            "attention_type": "multihead",
            "activation_recompute": recompute,
            "pipeline_interleaving": run["vpp"],
            "optimizer_sharding": run["stage"] == 1 and run["dp"] > 1,
            "tensor_par_comm_type": "rs_ag" if sequence else "ar",
            "tensor_par_overlap": "none",
            "seq_par_ag_redo": sequence and recompute != "full",
            "data_par_overlap": False,
            "weight_offload": False,
            "activations_offload": False,
            "optimizer_offload": False,
            "training": True,
        }
    )


def estimate(run: dict[str, Any], checkout: Path) -> dict[str, float]:
    """Seconds of a step. [s]

    run : inputs. [-]   checkout : directory of calculon. [-]
    """
    # Its MLP has two matrices: a gated one is given as one of the same size.
    model = LLM.Llm.Application(
        {
            "hidden": run["hidden"],
            "feedforward": int(run["ffn"] * (1.5 if run["gated"] else 1)),
            "seq_size": run["seq_len"],
            "attn_heads": run["heads"],
            "attn_size": run["head_dim"],
            "num_blocks": run["layers"],
        }
    )
    machine, how = system(checkout, run["device"]), execution(run)
    start = time.process_time()
    found = LLM.Llm(model, logging.getLogger())
    found.compile(machine, how)
    found.run(machine)
    seconds = found.get_total_time()
    return {"step_seconds": float(seconds), "cpu_seconds": time.process_time() - start}


def main() -> None:
    """Answer every line: the version first, then estimates or reasons."""
    checkout = Path(sys.argv[1])
    logging.disable(logging.CRITICAL)
    print(json.dumps({"version": version(checkout)}))
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = estimate(json.loads(line), checkout)
        except (ArithmeticError, AssertionError, KeyError, TypeError, ValueError, LLM.Llm.Error) as error:
            answer = {"reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
