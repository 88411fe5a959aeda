"""Rules of method, offload, batch and device."""

from __future__ import annotations

import numpy as np

from vramsim.rules.rule import Mask, Rule, show
from vramsim.spec import Setup


def _offload_has_engine(setup: Setup) -> Mask:
    strategy = setup.strategy
    if setup.framework.engine in ("deepspeed", "fsdp1", "fsdp2"):
        return True
    if setup.framework.engine == "megatron":
        return np.equal(strategy.offload_parameters, 0)
    return np.equal(strategy.offload_optimizer, 0) & np.equal(strategy.offload_parameters, 0)


def _explain_offload_engine(setup: Setup) -> str:
    strategy = setup.strategy
    what = "no parameters" if setup.framework.engine == "megatron" else "neither optimizer nor parameters"
    return (
        f"framework {setup.framework.name} offloads {what}: offload_optimizer is "
        f"{show(strategy.offload_optimizer)}, offload_parameters is {show(strategy.offload_parameters)}; use deepspeed "
        "or fsdp2, or set them to none"
    )


def _offloaded_parameters_are_sharded(setup: Setup) -> Mask:
    return np.equal(setup.strategy.offload_parameters, 0) | np.equal(setup.strategy.zero_stage, 3)


def _explain_offload_parameters(setup: Setup) -> str:
    return (
        f"offload_parameters needs zero_stage 3: offload_parameters is {show(setup.strategy.offload_parameters)}, "
        f"zero_stage is {show(setup.strategy.zero_stage)}; set zero_stage to 3 or offload_parameters to none"
    )


def _offloaded_optimizer_is_sharded(setup: Setup) -> Mask:
    return np.equal(setup.strategy.offload_optimizer, 0) | np.greater_equal(setup.strategy.zero_stage, 1)


def _explain_offload_optimizer(setup: Setup) -> str:
    return (
        f"offload_optimizer needs zero_stage 1 or more: offload_optimizer is "
        f"{show(setup.strategy.offload_optimizer)}, zero_stage is {show(setup.strategy.zero_stage)}; set zero_stage to "
        "2 or offload_optimizer to none"
    )


def _quantization_fits_method(setup: Setup) -> Mask:
    quantized = setup.strategy.quantization.name != "none"
    return {"full": not quantized, "qlora": quantized}.get(setup.training.method, True)


def _explain_quantization(setup: Setup) -> str:
    name = setup.strategy.quantization.name
    if setup.training.method == "qlora":
        return f"method qlora needs quantized base weights, but quantization is {name}; set it to nf4 or method to lora"
    return f"method full trains all weights, none can be quantized: quantization is {name}; set it to none or use qlora"


def _lora_fits_method(setup: Setup) -> Mask:
    return (setup.training.lora is None) == (setup.training.method == "full")


def _explain_lora(setup: Setup) -> str:
    rank = setup.training.lora.rank if setup.training.lora else 0
    return f"method full has no adapters, but lora is given (rank {rank}); set method to lora or leave lora out"


def _batch_divides(setup: Setup) -> Mask:
    steps = setup.training.gradient_accumulation_steps
    return np.equal(steps, np.floor(steps)) & np.greater_equal(steps, 1)


def _explain_batch(setup: Setup) -> str:
    micro, ranks = float(setup.training.micro_batch_size), float(setup.data_parallel)
    total, step = float(setup.global_batch_size), micro * ranks
    return (
        f"global_batch_size must be a multiple of micro_batch_size times the data-parallel ranks: {show(total)} % "
        f"({show(micro)}*{show(ranks)} = {show(step)}) = {show(total % step)}; set global_batch_size to "
        f"{show(max(1.0, np.ceil(total / step)) * step)}"
    )


def _device_computes(setup: Setup) -> Mask:
    return setup.cluster.device.peak(setup.training.precision.linear) > 0


def _explain_device(setup: Setup) -> str:
    able = [dtype for dtype, peak in setup.cluster.device.peak_flops if peak > 0]
    return (
        f"device {setup.cluster.device.name} has no units for {setup.training.precision.linear}, in which precision "
        f"{setup.training.precision.name} computes; choose one of {', '.join(able)}"
    )


def _backward_steps(setup: Setup) -> Mask:
    if setup.training.optimizer.gradients == "all":
        return True
    alone = setup.framework.engine in ("torch", "fsdp1", "fsdp2")
    return np.equal(setup.training.gradient_accumulation_steps, 1) & alone


def _explain_backward(setup: Setup) -> str:
    steps = show(setup.training.gradient_accumulation_steps)
    return (
        f"optimizer {setup.training.optimizer.name} steps in backward and frees each gradient at once, which needs "
        f"gradient_accumulation_steps 1 and framework torch, fsdp1 or fsdp2, got {steps} and {setup.framework.name}"
    )


def _runs_optimizer(setup: Setup) -> Mask:
    engines = setup.training.optimizer.engines
    return not engines or setup.framework.engine in engines


def _explain_optimizer(setup: Setup) -> str:
    rule, name = setup.training.optimizer, setup.framework.name
    return f"framework {name} does not run the optimizer {rule.name}: use one on {' or '.join(rule.engines)}"


RULES: tuple[Rule, ...] = (
    Rule("framework offloads", _offload_has_engine, _explain_offload_engine),
    Rule("offload_parameters needs zero 3", _offloaded_parameters_are_sharded, _explain_offload_parameters),
    Rule("offload_optimizer needs zero 1", _offloaded_optimizer_is_sharded, _explain_offload_optimizer),
    Rule("quantization fits method", _quantization_fits_method, _explain_quantization),
    Rule("lora fits method", _lora_fits_method, _explain_lora),
    Rule("batch divides global batch", _batch_divides, _explain_batch),
    Rule("optimizer steps in backward", _backward_steps, _explain_backward),
    Rule("optimizer runs on framework", _runs_optimizer, _explain_optimizer),
    Rule("device computes precision", _device_computes, _explain_device),
)
