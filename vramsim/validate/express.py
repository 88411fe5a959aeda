"""From a measured row to a Setup: what each column means, and every assumption made for a blank one.

Nothing here is fitted: a column is translated, a blank takes the stack's own default, and both are the same for every
row of every source.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from vramsim import catalog, rules
from vramsim.errors import VramsimError
from vramsim.parts import pipeline
from vramsim.spec import (
    Cluster,
    Framework,
    Lora,
    Optimizer,
    Precision,
    Setup,
    Strategy,
    Training,
)
from vramsim.units import GiB, MiB
from vramsim.validate import adapters, lengths, machine, recipes
from vramsim.validate.architecture import Inexpressible, architecture
from vramsim.validate.families import family_of
from vramsim.validate.rows import Reader, Row
from vramsim.validate.stacks import Stack, stack_of
from vramsim.validate.tuned import tuned


@dataclass(frozen=True, slots=True, eq=False)
class Expressed:
    """A row as a Setup, with the assumptions (column, value) that were needed.

    `mean_tokens` is the mean length of sequences where it differs from the longest, which sets the memory: time goes by
    it (0: sequences of one length). `slowest` is what the rank with most tokens computes over the mean.
    """

    row: Row
    setup: Setup
    assumptions: tuple[tuple[str, str], ...]
    mean_tokens: float = 0.0
    slowest: float = 1.0

    @property
    def timed(self) -> Setup:
        """The setup whose time is the row's: that of the rank that the others wait for."""
        if not self.mean_tokens:
            return self.setup
        training = replace(self.setup.training, seq_len=self.mean_tokens * self.slowest)
        return replace(self.setup, training=training)


def express(row: Row) -> Expressed:
    """A row as a Setup.

    row : measured run. [-]
    Raises Inexpressible, whose message is the reason, when vramsim cannot express the row.
    """
    read = Reader(row)
    stack = stack_of(row)
    model, assumed = architecture(row)
    read.assumed += assumed
    framework = _framework(read, stack)
    strategy = _strategy(read, stack, framework)
    lora = adapters.lora(read, stack)
    precision = _precision(read, framework, lora, stack)
    training = Training(
        method=row.text("method", "full"),
        seq_len=lengths.seq_len(read),
        micro_batch_size=read.number("micro_batch", 1.0),
        gradient_accumulation_steps=1.0,
        precision=precision,
        optimizer=_optimizer(read, framework),
        lora=lora,
        uneven_lengths=row.uneven,
    )
    setup = Setup(model=model, cluster=_cluster(read, stack), framework=framework, training=training, strategy=strategy)
    setup = _consistent(setup, stack)
    training = replace(setup.training, gradient_accumulation_steps=_accumulation(read, setup))
    setup = replace(setup, training=training)
    if not row.text("micro_batch"):
        setup = tuned(read, setup)
    if "FIRST pipeline stage" in row.text("note"):
        setup = pipeline.stages(setup)[0]
    for rule in rules.RULES:
        if not rule.holds(setup):
            raise Inexpressible(f"breaks the rule {rule.name}")
    slowest = lengths.slowest(read, setup) if row.mean_tokens and not row.text("seq_len") else 1.0
    return Expressed(row, setup, tuple(read.assumed), row.mean_tokens, slowest)


def _cluster(read: Reader, stack: Stack) -> Cluster:
    card = read.text("gpu_type", "A100-80GB")
    name = re.split(r"[(,;]", card)[0].strip()
    try:
        device = catalog.device(name)
        node = catalog.node(device.name)
    except VramsimError:
        raise Inexpressible(f"the device {name} is not in the catalog") from None
    if stack.name == "torchtitan" and device.name in machine.CAPPED:
        device = machine.capped(device)
        read.assumed.append(("gpu_type", "a card of Meta's platform, capped at 500 W"))
    network = read.row.text("interconnect")
    device = machine.as_it_was(device, card, network)
    home = machine.scale_out(machine.CLUSTERS.get(stack.name, ""))
    if found := re.search(r"CUDA context (\d+) MB", read.row.text("note")):
        device = replace(device, context=float(found[1]) * MiB)
    devices = read.number("n_gpus", 1.0)
    # What counts is how far the fast links reach: a rack of 72 is one node, whatever its trays hold.
    racked = "NVL72" in network
    per_node = min(
        node["devices_per_node"] if racked else read.number("gpus_per_node", node["devices_per_node"]), devices
    )
    return Cluster(
        device=machine.sized(device, read.row.number("gpu_mem_gib", device.memory / GiB)),
        num_devices=devices,
        devices_per_node=per_node,
        scale_up_bandwidth=device.scale_up_bandwidth,
        scale_out_bandwidth=machine.scale_out(network) or home or node["scale_out_bandwidth"],
        pcie_bandwidth=device.pcie_bandwidth,
        host_memory=node["host_memory"],
        host_memory_bandwidth=node["host_memory_bandwidth"],
        cpu_cores=node["cpu_cores"],
        nvme_capacity=node["nvme_capacity"],
        nvme_bandwidth=node["nvme_bandwidth"],
    )


SHARDINGS = {
    "none": 0.0,
    "ddp": 0.0,
    "zero1": 1.0,
    "zero2": 2.0,
    "zero3": 3.0,
    "fsdp": 3.0,
    "hsdp": 3.0,
    "distopt": 1.0,
}


def _strategy(read: Reader, stack: Stack, framework: Framework) -> Strategy:
    row = read.row
    sharding = stack.sharded(read.text("sharding", stack.sharding))
    if sharding not in SHARDINGS:
        raise Inexpressible(f"the sharding {sharding} is not modelled")
    recompute = {"none": 0.0, "full": 1.0, "selective": 0.0, "selective_op": 0.0}
    checkpointing = read.text("act_ckpt", stack.recompute)
    if checkpointing not in recompute:
        raise Inexpressible(f"the recomputation {checkpointing} is not modelled")
    per_op = checkpointing == "selective" and stack.name == "torchtitan"
    offload = row.text("offload", "none")
    overlapped = "yes" if framework.overlap_tp else "no"
    fsdp = framework.engine in ("fsdp1", "fsdp2")
    return Strategy(
        zero_stage=SHARDINGS[sharding],
        tp=read.number("tp", 1.0),
        pp=row.number("pp", 1.0),
        vpp=row.number("vpp", 1.0),
        schedule="interleaved" if row.number("vpp", 1.0) > 1 else "1f1b",
        ep=row.number("ep", 1.0),
        cp=row.number("cp", 1.0),
        sp=row.number("ulysses_sp", 1.0),
        # Megatron overlaps tensor-parallel traffic under sequence parallelism only (training/arguments.py).
        megatron_sp=float(row.text("megatron_sp", overlapped).lower() in ("yes", "true", "1")),
        recompute=recompute[checkpointing],
        recompute_selective=1.0 if checkpointing == "selective" and stack.name != "torchtitan" else 0.0,
        recompute_op=1.0 if checkpointing == "selective_op" or per_op else 0.0,
        # FSDP's CPUOffload takes parameters, and the optimizer steps where they are.
        offload_optimizer=1.0 if "optimizer" in offload or (fsdp and "params" in offload) else 0.0,
        offload_parameters=1.0 if "params" in offload else 0.0,
        offload_activations=1.0 if "activations" in offload else 0.0,
        quantization=adapters.quantization(read),
        expert_load=row.capacity,
    )


def _framework(read: Reader, stack: Stack) -> Framework:
    row = read.row
    sharding = stack.sharded(row.text("sharding") or stack.sharding)
    fsdp = "fsdp2" if stack.name in ("torchtitan", "torchtune") else "fsdp1"
    engine = {"none": "torch", "ddp": "ddp", "fsdp": fsdp, "hsdp": fsdp}.get(sharding, "deepspeed")
    if row.text("framework") == "fsdp2":
        engine = "fsdp2"
    # A table may give the sharding as the ZeRO stage that it amounts to.
    if engine == "deepspeed" and re.search(r"fsdp|torchtitan", row.text("framework").lower()):
        engine = fsdp
    knobs: dict[str, object] = dict(stack.knobs) | (recipes.knobs(row) if stack.name == "nemo" else {})
    if stack.preset and not sharding.startswith(("fsdp", "hsdp")):
        preset = catalog.make_framework(stack.preset)
        engine = preset.engine
    else:
        preset = Framework(name=stack.name, engine=engine)
    attention = row.text("attention", "flash").lower()
    if re.search(r"eager|unfused|no flash", attention):
        knobs["attention"] = "unfused" if stack.preset else "eager"
    if row.text("compile").lower() == "true" or re.search(r"torch\.compile|, compile,", row.text("note")):
        knobs |= {"norm": "fused", "activation": "fused"}
        if stack.name == "torchtitan" and not re.match(r"202[0-4]", row.text("version")):
            # From 2025 on; at the end of 2024 the loss was left out (torchtitan e8977b0, d1f62be).
            knobs["loss"] = "compiled"
    if stack.name == "torchtitan" and not re.match(r"202[6-9]", row.text("version")):
        # Until January 2026 keys and values were repeated for each query head (torchtitan ff0829c).
        knobs["expand_kv"] = True
    loss = row.text("fused_ce")
    if loss == "none" and stack.plain_loss:
        knobs["loss"] = stack.plain_loss
    elif loss.startswith("chunked") and stack.chunk_tokens:
        knobs["loss_chunks"] = max(math.ceil(lengths.seq_len(read) / stack.chunk_tokens), 1)
    elif loss.startswith("chunked"):
        knobs |= {"loss": "chunked", "loss_chunks": int(loss[7:] or 8)}
    elif loss == "liger" and stack.knobs.get("loss") != "liger":
        # Liger patches the whole model; the accelerated plug-ins take its loss alone.
        knobs |= {"loss": "liger", "norm": "fused", "activation": "fused"}
    if row.text("fsdp_wrap"):
        knobs["wrap"] = row.text("fsdp_wrap")
    if row.text("ddp_gradient_as_bucket_view"):
        knobs["gradient_as_bucket_view"] = row.text("ddp_gradient_as_bucket_view") == "true"
    if row.text("keep_outputs"):
        knobs["keep_outputs"] = "compute" if row.text("keep_outputs") == "true" else "none"
    if row.mean_tokens and not row.text("seq_len"):
        knobs["reads_lengths"] = stack.name.startswith("hf")
    # Its fused adapters stay out of FSDP (fms-acceleration, framework_plugin_fast_kernels.py).
    if "foak" in stack.name and row.text("method") == "qlora":
        knobs["replicates_adapters"] = True
    # The Trainer's outputs are alive while the loss goes backward; under FSDP only the last hidden state is.
    if stack.name.startswith("hf") and row.text("method", "full") != "full":
        knobs["keep_outputs"] = "hidden" if engine == "fsdp1" else "compute"
    family = family_of(row.text("model").lower())
    if knobs.get("loss") == "hf_legacy" and family is not None and not family.upcasts:
        # Autocast makes the loss compute in fp32, and accelerate casts the outputs; nothing else does.
        knobs |= {"loss": "hf", "keep_outputs": "none"} if stack.name.startswith("hf") else {"loss": "no_upcast"}
    knobs["dequantize"] = adapters.dequantize(row)
    if "gpu_optimizer" not in knobs and not stack.preset:
        # A foreach step is PyTorch's default from 2.0 (March 2023) on, and had one more temporary at first.
        version = row.text("version").lower()
        if re.search(r"torch 2\.0\b", version):
            knobs["gpu_optimizer"] = "foreach_2.0"
        elif re.match(r"20(1\d|2[0-2])\b", version):
            knobs["gpu_optimizer"] = "single"
    return replace(preset, name=stack.name, engine=engine, **knobs)  # type: ignore[arg-type]


def _dtype(text: str) -> str:
    return re.split(r"[+ ]", text)[0]


WIDE = ("fp32", "bf16", "fp16")


def _precision(read: Reader, framework: Framework, lora: Lora | None, stack: Stack) -> Precision:
    row = read.row
    products = _dtype(read.text("compute_dtype", "bf16"))
    compute = products if products in WIDE else "bf16"
    amp = stack.name.startswith("hf") and lora is None and framework.engine in ("torch", "ddp")
    if amp and not row.text("param_dtype"):
        read.assumed.append(("param_dtype", "fp32 under autocast"))
    stored = _dtype(row.text("param_dtype", "fp32" if amp else stack.param_dtype or compute))
    stored = stored if stored in WIDE else compute
    moments = {"adamw_bf16": "bf16", "adamw_fp16": "fp16", "adamw_fp32states": "fp32"}.get(
        row.text("optimizer"), stored
    )
    master = row.text("master_weights").lower() == "true" and stored != "fp32"
    if framework.engine in ("deepspeed", "megatron"):
        master = master or row.text("master_weights") == ""
        moments = "fp32" if master else moments
    if master:
        moments = "fp32"
    # Megatron accumulates bf16 gradients in fp32, and fp16 ones in fp16.
    usual = "fp32" if framework.engine == "megatron" and stored == "bf16" else stored
    gradient = _dtype(row.text("grad_dtype", stack.grad_dtype or usual))
    if framework.engine in ("fsdp1", "fsdp2"):
        if master and stack.copies_master:
            return Precision("row", stored, stored, products, gradient, gradient, "fp32", master=True)
        # A master copy is FSDP's own fp32 shard; gradients are cast back to the stored dtype after the reduction.
        upcasts = stack.name.startswith("hf") and lora is None and row.text("master_weights") == ""
        if upcasts and compute != "fp32":
            read.assumed.append(("master_weights", "accelerate upcasts trained parameters to fp32"))
        stored = "fp32" if master or upcasts else stored
        reduce = gradient if row.text("grad_dtype") else ("fp32" if stored == "fp32" else compute)
        return Precision("row", stored, stored, products, stored, reduce, stored, master=False)
    autocast = stored == "fp32" and compute != "fp32" and framework.engine in ("torch", "ddp")
    gradient = stored if framework.engine in ("torch", "ddp") else gradient
    # prepare_model_for_kbit_training upcasts what stays unquantized, and with it the residual stream; not for GPTQ.
    prepared = row.text("method") == "qlora" and stack.prepares_kbit(row.text("framework"))
    prepared = prepared and not adapters.is_gptq(row)
    stream = "fp32" if prepared else ""
    return Precision("row", stored, stored, products, gradient, gradient, moments, master, autocast, stream)


OPTIMIZERS = (
    (r"adam.?mini", "adam_mini"),
    (r"schedule.?free", "schedule_free_adamw"),
    (r"apollo.?mini", "apollo_mini"),
    (r"apollo.*layer", "apollo_adamw_layerwise"),
    (r"apollo", "apollo_adamw"),
    (r"galore.*layer", "galore_adamw_layerwise"),
    (r"galore.*8.?bit", "galore_adamw_8bit"),
    (r"galore", "galore_adamw"),
    (r"muon", "muon"),
    (r"adalomo", "adalomo"),
    (r"lomo", "lomo"),
    (r"badam", "badam"),
    (r"^lisa", "lisa"),
    (r"foreach", "adamw_foreach"),
    (r"fused", "adamw_fused"),
    (r"single", "adamw_single"),
    (r"paged.*8.?bit", "paged_adamw_8bit"),
    (r"paged", "paged_adamw_32bit"),
    (r"adamw?_?8.?bit", "adamw_8bit"),
    (r"adamw?_?4.?bit", "adamw_4bit"),
    (r"adamw?_?fp8", "adamw_fp8"),
    (r"adafactor", "adafactor"),
    (r"lion.*8.?bit", "lion_8bit"),
    (r"lion", "lion"),
    (r"^sgd$", "sgd"),
    (r"adam|^$", "adamw"),
)


def _optimizer(read: Reader, framework: Framework) -> Optimizer:
    text = read.text("optimizer", "adamw").lower()
    for pattern, name in OPTIMIZERS:
        if re.search(pattern, text):
            rule = catalog.optimizer(name, framework.gpu_optimizer)
            return replace(rule, gradients="one") if "in backward" in text or "in_bwd" in text else rule
    raise Inexpressible(f"the optimizer {text} is not modelled")


def _accumulation(read: Reader, setup: Setup) -> float:
    row = read.row
    if row.text("grad_accum"):
        return row.number("grad_accum")
    sequences = row.number("global_batch_seqs", 0.0)
    per_step = float(setup.training.micro_batch_size * setup.data_parallel)
    if sequences >= per_step and sequences % per_step == 0:
        return sequences / per_step
    read.assumed.append(("grad_accum", "1"))
    return 1.0


def _consistent(setup: Setup, stack: Stack) -> Setup:
    """One process where nothing is sharded or replicated: what a table calls none on several devices is DDP."""
    strategy, devices = setup.strategy, float(setup.cluster.num_devices)
    if stack.name == "pytorch-trace" and setup.framework.engine == "torch":
        # One rank of a tensor-parallel group was traced; replicas beside it change nothing.
        return replace(setup, cluster=replace(setup.cluster, num_devices=float(strategy.tp)))
    if setup.framework.engine == "torch" and devices > float(strategy.tp):
        return replace(setup, framework=replace(setup.framework, engine="ddp"))
    return setup
