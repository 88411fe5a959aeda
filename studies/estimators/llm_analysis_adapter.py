"""Runs llm-analysis on JSON lines from standard input: one run a line, one answer a line.

It is started by studies/estimators.py with the interpreter of an environment that has llm-analysis, and imports nothing
of vramsim. Both llm-analysis 0.2.2 and its later git revisions are understood: names that differ are looked up.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import logging
import sys
from typing import Any

CONFIG: Any = importlib.import_module("llm_analysis.config")
ANALYSIS: Any = importlib.import_module("llm_analysis.analysis")


def version() -> str:
    """Version of llm-analysis, with the git revision when it was installed from git."""
    found = importlib.metadata.distribution("llm-analysis")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    revision = origin.get("vcs_info", {}).get("commit_id", "")[:7]
    return f"git {revision}" if revision else found.version


def recomputation(kind: str) -> Any:
    """Member of llm-analysis's enumeration of recomputation strategies.

    kind : none | selective | full. [-]
    """
    kinds = ANALYSIS.ActivationRecomputation
    selective = "ATTN_COMPUTE" if "ATTN_COMPUTE" in kinds.__members__ else "SELECTIVE"
    return kinds[selective if kind == "selective" else kind.upper()]


def model_config(run: dict[str, Any]) -> Any:
    """Shape of the model; 0.2.2 knows two matrices an MLP, so a gated one is given as one of about the same size.

    0.2.2 wants a multiple of the hidden size: the nearest one, as in the models that come with it.

    run : inputs. [-]
    """
    knows_gates = "mlp_gated_linear_units" in inspect.signature(CONFIG.ModelConfig).parameters
    gated = {"mlp_gated_linear_units": run["gated"]} if knows_gates else {}
    ffn, hidden = run["ffn"] * (1.5 if run["gated"] and not knows_gates else 1.0), run["hidden"]
    ffn = int(ffn) if knows_gates else max(1, round(ffn / hidden)) * hidden
    return CONFIG.ModelConfig(
        name="run",
        num_layers=run["layers"],
        n_head=run["heads"],
        hidden_dim=run["hidden"],
        vocab_size=run["vocab"],
        max_seq_len=run["seq_len"],
        num_key_value_heads=run["kv_heads"],
        ffn_embed_dim=ffn,
        moe_num_experts=run["experts"],
        moe_top_k=run["top_k"],
        **gated,
    )


def estimate(run: dict[str, Any]) -> dict[str, float]:
    """Peak and model states of one device. [B]

    run : inputs. [-]
    """
    # What a run needs does not depend on the device; 0.2.2 refuses runs that do not fit, so everything fits this one.
    device = CONFIG.GPUConfig("device", 1e6, 2000, 300, 8e-6, 312)
    bits = int(8 * run["weight"])
    dtypes = CONFIG.DtypeConfig("run", bits, int(8 * run["activation"]), bits)
    mesh = CONFIG.ParallelismConfig(
        tp_size=run["tp"],
        pp_size=run["pp"],
        dp_size=run["dp"],
        ep_size=run["ep"],
        sp_size=run["tp"] if run["sequence_parallel"] else 1,
    )
    analysis = ANALYSIS.LLMAnalysis(model_config(run), device, dtypes, mesh)
    # Its optimizer bytes are other_op_bytes + master_weights_dtype_bytes, its gradient bytes the latter.
    summary = analysis.training(
        batch_size_per_gpu=run["micro_batch"],
        gradient_accumulation_steps=1,
        seq_len=run["seq_len"],
        activation_recomputation=recomputation(run["recompute"]),
        ds_zero=ANALYSIS.DSZeRO(run["stage"]),
        master_weights_dtype_bytes=run["gradient"],
        other_op_bytes=run["optimizer"] - run["gradient"],
        flash_attn=run["flash"],
    )
    peaks = ("estimated_peak_memory_per_gpu", "(weight+op_state+grad+act)_memory_per_gpu")
    return {
        "peak": next(float(summary[name]) for name in peaks if name in summary),
        "states": float(summary["(weight+op_state+grad)_memory_per_gpu"]),
    }


def main() -> None:
    """Answer every line: the version first, then estimates or reasons."""
    logging.disable(logging.CRITICAL)
    print(json.dumps({"version": version()}))
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = estimate(json.loads(line))
        except (ArithmeticError, AssertionError, KeyError, TypeError, ValueError) as error:
            answer = {"reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
