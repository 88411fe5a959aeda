"""Runs llm-analysis's timing on JSON lines from standard input: one run a line, one answer a line.

It is started by studies/peers_throughput.py and studies/speed.py with the interpreter of an environment that has
llm-analysis, and imports nothing of vramsim. llm-analysis 0.2.2 and its later git revisions are understood. Devices are
its own gpu_configs; efficiencies those that its README names for large-scale training: 0.5 of the FLOPs, 0.9 of the
memory bandwidth.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import logging
import signal
import sys
import time
from dataclasses import replace
from typing import Any

CONFIG: Any = importlib.import_module("llm_analysis.config")
ANALYSIS: Any = importlib.import_module("llm_analysis.analysis")

DEVICES = {"a100": "a100-sxm-80gb", "h100": "h100-sxm-80gb"}
FLOPS_EFFICIENCY, MEMORY_EFFICIENCY = 0.5, 0.9
PATIENCE = 2


def version() -> str:
    """Version of llm-analysis, with the git revision when it was installed from git."""
    found = importlib.metadata.distribution("llm-analysis")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    revision = origin.get("vcs_info", {}).get("commit_id", "")[:7]
    return f"git {revision}" if revision else found.version


def estimate(run: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step. [s]

    run : inputs. [-]
    """
    device = CONFIG.get_gpu_config_by_name(DEVICES[run["device"]])
    # 0.2.2 refuses runs for which it counts more memory than there is; a run that was measured did fit.
    device = replace(device, mem_per_GPU_in_GB=1e4)
    knows_gates = "mlp_gated_linear_units" in inspect.signature(CONFIG.ModelConfig).parameters
    gated = {"mlp_gated_linear_units": run["gated"]} if knows_gates else {}
    ffn, hidden = run["ffn"] * (1.5 if run["gated"] and not knows_gates else 1.0), run["hidden"]
    model = CONFIG.ModelConfig(
        name="run",
        num_layers=run["layers"],
        n_head=run["heads"],
        hidden_dim=hidden,
        vocab_size=run["vocab"],
        max_seq_len=run["seq_len"],
        num_key_value_heads=run["kv_heads"],
        ffn_embed_dim=int(ffn) if knows_gates else max(1, round(ffn / hidden)) * hidden,
        moe_num_experts=run["experts"],
        moe_top_k=run["top_k"],
        **gated,
    )
    mesh = CONFIG.ParallelismConfig(
        tp_size=run["tp"],
        pp_size=run["pp"],
        dp_size=run["dp"],
        ep_size=run["ep"],
        sp_size=run["tp"] if run["sequence_parallel"] else 1,
    )
    kinds = ANALYSIS.ActivationRecomputation
    selective = "ATTN_COMPUTE" if "ATTN_COMPUTE" in kinds.__members__ else "SELECTIVE"
    start = time.process_time()
    analysis = ANALYSIS.LLMAnalysis(
        model,
        device,
        CONFIG.DtypeConfig("run", 16, 16, 16),
        mesh,
        flops_efficiency=FLOPS_EFFICIENCY,
        hbm_memory_efficiency=MEMORY_EFFICIENCY,
    )
    summary = analysis.training(
        batch_size_per_gpu=run["micro_batch"],
        gradient_accumulation_steps=run["accumulation"],
        seq_len=run["seq_len"],
        activation_recomputation=kinds[selective if run["recompute"] == "selective" else run["recompute"].upper()],
        ds_zero=ANALYSIS.DSZeRO(run["stage"]),
        flash_attn=run["flash"],
    )
    return {"step_seconds": float(summary["latency_per_iter"]), "cpu_seconds": time.process_time() - start}


def give_up(*_: object) -> None:
    """Some versions look for a batch size that fits one by one, which takes for ever where much fits."""
    raise ValueError(f"no answer in {PATIENCE} s")


def main() -> None:
    """Answer every line: the version first, then estimates or reasons."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, give_up)
    print(json.dumps({"version": version()}))
    for line in sys.stdin:
        signal.alarm(PATIENCE)
        try:
            answer: dict[str, Any] = estimate(json.loads(line))
        except (ArithmeticError, AssertionError, KeyError, TypeError, ValueError) as error:
            answer = {"reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
