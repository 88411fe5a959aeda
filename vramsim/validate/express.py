"""From a measured row to a Setup: what each column means, and every assumption made for a blank one.

Nothing here is fitted: a column is translated, a blank takes the stack's own default, and both are the same for every
row of every source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vramsim import catalog, rules
from vramsim.errors import VramsimError
from vramsim.parts import pipeline
from vramsim.spec import (
    Cluster,
    Framework,
    Setup,
    Strategy,
    Training,
)
from vramsim.units import GiB, MiB
from vramsim.validate import adapters, lengths, machine, numerics, recipes, software
from vramsim.validate.architecture import Inexpressible, architecture, written_anew
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
    model = written_anew(model) if stack.own_models else model
    read.assumed += assumed
    framework = software.framework(read, stack)
    strategy = _strategy(read, stack, framework)
    lora = adapters.lora(read, stack)
    precision = numerics.precision(read, framework, lora, stack)
    training = Training(
        method=row.text("method", "full"),
        seq_len=lengths.seq_len(read),
        micro_batch_size=read.number("micro_batch", 1.0),
        gradient_accumulation_steps=1.0,
        precision=precision,
        optimizer=numerics.optimizer(read, framework, stack),
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
    checkpointing = read.text("act_ckpt", stack.recompute)
    recompute = _recomputed(checkpointing)
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
        etp=recipes.expert_degree(row) if stack.name == "nemo" else stack.expert_degree,
        cp=row.number("cp", 1.0),
        sp=row.number("ulysses_sp", 1.0),
        # Megatron overlaps tensor-parallel traffic under sequence parallelism only (training/arguments.py).
        megatron_sp=float(row.text("megatron_sp", overlapped).lower() in ("yes", "true", "1")),
        recompute=recompute,
        recompute_selective=1.0 if checkpointing == "selective" and stack.name != "torchtitan" else 0.0,
        recompute_op=1.0 if checkpointing == "selective_op" or per_op else 0.0,
        # FSDP's CPUOffload takes parameters, and the optimizer steps where they are.
        offload_optimizer=1.0 if "optimizer" in offload or (fsdp and "params" in offload) else 0.0,
        offload_parameters=1.0 if "params" in offload else 0.0,
        offload_activations=1.0 if "activations" in offload else 0.0,
        quantization=adapters.quantization(read),
        expert_load=row.capacity,
        # PyTorch's HYBRID_SHARD shares states within a node (fsdp/_init_utils.py, _init_intra_node_process_group).
        shard_size=read.number("gpus_per_node", 8.0) if sharding == "hsdp" else 0.0,
    )


def _recomputed(checkpointing: str) -> float:
    """Share of blocks that are recomputed whole: what act_ckpt says in a word, or in a number."""
    words = {"none": 0.0, "full": 1.0, "selective": 0.0, "selective_op": 0.0}
    if checkpointing in words:
        return words[checkpointing]
    if not re.fullmatch(r"0?\.\d+", checkpointing):
        raise Inexpressible(f"the recomputation {checkpointing} is not modelled")
    return float(checkpointing)


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
        tp = float(strategy.tp)
        return replace(setup, cluster=replace(setup.cluster, num_devices=tp, devices_per_node=tp))
    if setup.framework.engine == "torch" and devices > float(strategy.tp):
        return replace(setup, framework=replace(setup.framework, engine="ddp"))
    return setup
