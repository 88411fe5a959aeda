"""Hypothesis strategies: valid cases and grids of every kind that the catalog knows.

Nothing is drawn and then rejected: degrees divide what they must, and each engine gets what it can express.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from vramsim import catalog
from vramsim.case import Case
from vramsim.spec import Framework, Setup
from vramsim.testing.laws import STAGES, changed

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def models() -> SearchStrategy[dict[str, Any]]:
    """Inline dense architectures of random sizes, of the families that differ in what they save."""
    from hypothesis import strategies as st

    @st.composite
    def model(draw: Any) -> dict[str, Any]:
        kv_heads = draw(st.integers(1, 8))
        return {
            "model_type": draw(st.sampled_from(["llama", "qwen2", "qwen3", "gemma"])),
            "hidden_size": 16 * draw(st.integers(1, 512)),
            "intermediate_size": draw(st.integers(1, 30_000)),
            "num_hidden_layers": draw(st.integers(1, 100)),
            "num_attention_heads": kv_heads * draw(st.integers(1, 8)),
            "num_key_value_heads": kv_heads,
            "head_dim": draw(st.sampled_from([16, 64, 80, 128])),
            "vocab_size": draw(st.integers(100, 260_000)),
            "tie_word_embeddings": draw(st.booleans()),
        }

    return model()


def cases(**fixed: str) -> SearchStrategy[Case]:
    """Valid cases: every engine, method, optimizer, precision, ZeRO stage, degree, recomputation and offload.

    fixed : framework, method, optimizer, precision or quantization to hold at one name of the catalog. [-]
    """
    from hypothesis import strategies as st

    def pick(draw: Any, kind: str, among: Sequence[str]) -> str:
        return fixed[kind] if kind in fixed else str(draw(st.sampled_from(among)))

    @st.composite
    def case(draw: Any) -> Case:
        knobs = _knobs(draw) | {"name": pick(draw, "framework", catalog.names("framework"))}
        engine, model = catalog.make_framework(knobs["name"]).engine, draw(models())
        method = pick(draw, "method", ("full", "lora", "qlora"))
        quantized = [name for name in catalog.names("quantization") if name != "none"]
        among = {"full": ["none"], "lora": ["none", *quantized], "qlora": quantized}[method]
        cluster, strategy = _parallel(draw, engine, model)
        rules = {name: catalog.optimizer(name) for name in catalog.names("optimizer")}
        able = [name for name, rule in rules.items() if not rule.engines or engine in rule.engines]
        optimizer = pick(draw, "optimizer", able)
        steps = [1, 1, 2, 7] if rules[optimizer].gradients == "all" else [1]
        training = {
            "method": method,
            "seq_len": strategy["sp"] * draw(st.integers(1, 20_000)),
            "micro_batch_size": draw(st.integers(1, 16)),
            "gradient_accumulation_steps": draw(st.sampled_from(steps)),
            "precision": pick(draw, "precision", catalog.names("precision")),
            "optimizer": optimizer,
        } | ({} if method == "full" else {"lora": _lora(draw)})
        strategy |= {"quantization": pick(draw, "quantization", among)}
        return Case(model=model, cluster=cluster, framework=knobs, training=training, strategy=strategy)

    return case()


def setups(**fixed: str) -> SearchStrategy[Setup]:
    """Resolved `cases`.

    fixed : names to hold, as for `cases`. [-]
    """
    return cases(**fixed).map(Case.resolve)


def grids(**fixed: str) -> SearchStrategy[Setup]:
    """Setups of which one to three numbers are arrays, each on an axis of its own.

    fixed : names to hold, as for `cases`. [-]
    """
    from hypothesis import strategies as st

    @st.composite
    def grid(draw: Any) -> Setup:
        setup = draw(setups(**fixed))
        choices = _axes(setup)
        names = draw(st.lists(st.sampled_from(sorted(choices)), min_size=1, max_size=3, unique=True))
        arrays = np.ix_(*(np.array(choices[name]) for name in names))
        return changed(setup, **dict(zip(names, arrays, strict=True)))

    return grid()


def _axes(setup: Setup) -> Mapping[str, list[float]]:
    """Values that each number of a setup may also take, whatever the others are."""
    strategy, training, engine = setup.strategy, setup.training, setup.framework.engine
    least = 3.0 if np.any(strategy.offload_parameters) else 1.0 if np.any(strategy.offload_optimizer) else 0.0
    length = float(training.seq_len)
    found: dict[str, list[float]] = {
        "seq_len": [length, 3.0 * length],
        "micro_batch_size": [float(training.micro_batch_size), 2.0, 5.0],
        "zero_stage": [stage for stage in STAGES[engine] if stage >= least],
        "recompute": [0.0, 0.3, 1.0],
        "recompute_selective": [0.0, 1.0],
        "megatron_sp": [0.0, 1.0],
        "offload_activations": [0.0, 0.4, 1.0],
    }
    if training.optimizer.gradients == "all":
        found["gradient_accumulation_steps"] = [float(training.gradient_accumulation_steps), 1.0, 4.0]
    if engine != "torch":
        found["num_devices"] = [float(setup.cluster.num_devices) * factor for factor in (1.0, 2.0, 16.0)]
        found |= {"sp": sorted({1.0, float(strategy.sp)}), "tp": sorted({1.0, float(strategy.tp)})}
    if strategy.offload_optimizer:
        found["offload_optimizer"] = [0.0, 0.5, 1.0]
    if strategy.offload_parameters:
        found["offload_parameters"] = [0.0, 0.5, 1.0]
    return found


def _knobs(draw: Any) -> dict[str, Any]:
    """Some knobs of a framework."""
    from hypothesis import strategies as st

    words: dict[str, list[Any]] = dict(catalog.framework_choices())
    words |= {field.name: [True, False] for field in fields(Framework) if field.type == "bool"}
    chosen = draw(st.lists(st.sampled_from(sorted(words)), max_size=3, unique=True))
    return {name: draw(st.sampled_from(words[name])) for name in chosen}


def _lora(draw: Any) -> dict[str, Any]:
    """Adapters."""
    from hypothesis import strategies as st

    modules = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    return {
        "rank": draw(st.integers(1, 256)),
        "targets": draw(st.just(["all-linear"]) | st.lists(st.sampled_from(modules), min_size=1, unique=True)),
        "dropout": draw(st.sampled_from([0, 0.05])),
        "adapter_dtype": draw(st.sampled_from([None, "fp32", "bf16"])),
        "modules_to_save": draw(st.lists(st.sampled_from(["embed_tokens", "lm_head"]), unique=True)),
    }


def _parallel(draw: Any, engine: str, model: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cluster and a strategy that go together, for an engine and a model."""
    from hypothesis import strategies as st

    heads, kv_heads = model["num_attention_heads"], model["num_key_value_heads"]
    fitting = [t for t in (1, 2, 4, 8) if heads % t == 0 and (kv_heads % t == 0 or t % kv_heads == 0)]
    tp = draw(st.sampled_from(fitting))
    sp = draw(st.sampled_from([s for s in (1, 2, 4) if heads % (tp * s) == 0])) if engine != "torch" else 1
    devices = tp * sp * (1 if engine == "torch" else draw(st.sampled_from([1, 2, 3, 8, 24, 128])))
    stage = draw(st.sampled_from(STAGES[engine]))
    share = st.sampled_from([0, 0, 0.25, 1]) if stage >= 1 else st.just(0)
    cluster = {
        "device": draw(st.sampled_from(["a100-sxm-80gb", "h100-sxm-80gb", "rtx-4090-24gb"])),
        "num_devices": devices,
        "devices_per_node": draw(st.sampled_from([n for n in (1, 2, 4, 8) if devices % n == 0])),
    }
    # Slow links too, so that time is not always computation's.
    for name in ("scale_up_bandwidth", "scale_out_bandwidth", "pcie_bandwidth"):
        cluster |= draw(st.sampled_from([{}, {}, {name: 1e8}, {name: 5e9}]))
    recompute = st.sampled_from(["none", "selective", "full", 0.5])
    strategy = {
        "zero_stage": stage,
        "tp": tp,
        "sp": sp,
        "megatron_sp": draw(st.booleans()),
        "recompute": draw(recompute),
        "offload_optimizer": draw(share | st.just("nvme") if stage >= 1 else st.just("none")),
        "offload_activations": draw(st.sampled_from([0, 0, 0.5, 1])),
    }
    if stage == 3 and strategy["offload_optimizer"] != "nvme":
        strategy["offload_parameters"] = draw(share)
    elif stage == 3:
        strategy |= {"offload_parameters": draw(st.sampled_from(["none", "nvme"])), "offload_activations": "none"}
    return cluster, strategy
