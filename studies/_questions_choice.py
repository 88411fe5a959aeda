"""Questions 26 to 36: peaks outside the step, preference training, speed, and which devices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from _questions import A100, A100_40, H100, Reply, answers, case, component, gib, held, host, peak, rate, run, verdict

from vramsim import Estimate
from vramsim.procure.recommend import Recommendation, recommend
from vramsim.search import search
from vramsim.space import Space
from vramsim.spec import Category
from vramsim.units import GB, TFLOP, GiB


@answers(26)
def save_full() -> Reply:
    e = run("llama-3-8b", A100, 8, "fsdp2")
    weights = 8.0 * component(e, "trained parameters")
    saving, step = float(e.memory.hbm.by_phase["save"]), float(e.memory.hbm.used_bytes)
    return Reply(
        f"yes: a full state dict adds {gib(weights)} GiB on one GPU to the {gib(saving)} held while saving",
        f"Llama-3-8B, FSDP on 8 x A100-80GB: a step peaks at {gib(step)} GiB, and a sharded save needs no more than "
        f"the {gib(saving)} GiB of states. FULL_STATE_DICT gathers all weights on rank 0, {gib(weights)} GiB in fp32: "
        f"{gib(saving + weights)} GiB unless they go to the host tensor by tensor, and three times as much with the "
        f"optimizer's. A 70B model would add {gib(weights * 8.8)} GiB. Save sharded, or with offload to CPU and rank "
        "0 only.",
        agrees=saving + weights > step,
        cannot="FULL_STATE_DICT: the gathered copy is added here, not simulated",
    )


@answers(27)
def host_33b() -> Reply:
    asked: dict[str, Any] = {"stage": 3, "seq_len": 2048, "offload_optimizer": "cpu", "offload_parameters": "cpu"}
    e = run("yi-34b", A100_40, 8, **asked, host_memory=600e9)
    rounded = run("yi-34b", A100_40, 8, **asked, **{"framework.pinned_rounding": True})
    needed = float(e.memory.host.used_bytes_per_node)
    worst = float(rounded.memory.host.used_bytes_per_node)
    return Reply(
        f"{needed / GB:.0f} GB if pinned memory is exact, {worst / GB:.0f} GB as PyTorch rounds it",
        "Yi-34B stands in for LLaMA-33B. ZeRO-3 with parameters and optimizer on the host, 8 x A100-40GB: the GPUs "
        f"are no problem ({verdict(e)}), the host is: {host(e)}, 18 bytes a parameter (fp32 master weights, two "
        "moments and gradients, bf16 weights). PyTorch's pinned allocator rounds each request up to a power of two: "
        f"{worst / GB:.0f} GB. The operating system, data loaders and the checkpoint while it loads come on top, so "
        "600 GB die and 750 to 800 are sensible.",
        agrees=needed > 540e9 and worst > 600e9,
    )


@answers(28)
def second_step() -> Reply:
    e = run("llama-3-70b", A100, 16, "xtuner-v0.1", stage=3, seq_len=4096)
    phases = e.memory.hbm.by_phase
    first, step, later = (float(phases[name]) for name in ("first_step", "step", "head"))
    moments = held(e, Category.OPTIMIZER_STATE)
    capacity = float(e.memory.hbm.capacity_bytes)
    return Reply(
        f"yes: forward and backward use {gib(first)} GiB before the first step and {gib(later)} after it",
        "Adam's moments are made in the first optimizer step. Llama-3-70B on 16 x A100-80GB at 4096 tokens: the "
        f"first forward and backward peak at {gib(first)} GiB, the step at {gib(step)}, and from then on the loss "
        f"peaks at {gib(later)} GiB of {gib(capacity)}, with {gib(moments)} GiB of optimizer states alive. A run that "
        "got through its first step has not proved that it fits: judge by the second.",
        agrees=first < capacity < max(later, step),
    )


@answers(29)
def moe_backward() -> Reply:
    device = {"base": "h20-sxm-96gb", "name": "h20-141gb", "memory": 141 * GiB, "usable_memory": 139.8 * GiB}
    e = run("qwen3-30b-a3b", device, 8, stage=3, seq_len=8192, micro_batch_size=2)
    phases = {name: float(value) for name, value in e.memory.hbm.by_phase.items()}
    growth = phases["backward"] - phases["forward"]
    return Reply(
        f"backward adds {gib(growth)} GiB to forward here; {gib(phases['backward'])} of 139.8 GiB",
        "Qwen3-30B-A3B's language model, ZeRO-3, 2 sequences of 8192 a GPU, all recomputed, on 8 x H20-141GB: "
        f"forward ends at {gib(phases['forward'])} GiB, the loss peaks at {gib(phases['head'])}, the first block's "
        f"backward at {gib(phases['backward'])}. In all {verdict(e)}; {peak(e)}. Backward is where recomputed "
        "activations of a whole block, gathered experts and their gradients are alive together; a router that sends "
        "one rank most tokens makes it worse (strategy.expert_load). The thread gives no lengths, so its OOM is not "
        "reproduced.",
    )


@answers(30)
def fragmentation() -> Reply:
    at = {
        share: run("llama-3-8b", A100, 8, stage=3, seq_len=8192, **{"framework.fragmentation": share})
        for share in (0.0, 0.03, 0.2)
    }
    reserved = {share: float(e.memory.hbm.reserved_bytes) for share, e in at.items()}
    alive = float(at[0.03].memory.hbm.allocated_bytes)
    return Reply(
        f"a knob, not a prediction: {gib(reserved[0.03] - alive)} GiB at the default 3 %, "
        f"{gib(reserved[0.2] - alive)} at 20 %",
        f"What is alive is computed ({gib(alive)} GiB for Llama-3-8B, 8 x A100-80GB, 8192 tokens); what the allocator "
        "holds beyond it depends on the order and sizes of requests, and is a share that was fitted to published "
        f"runs: 3 %, {gib(reserved[0.03])} GiB reserved. Runs with changing lengths are reported with 20 % and more: "
        f"{gib(reserved[0.2])} GiB. expandable_segments removes most of it; set framework.fragmentation to what you "
        "see.",
        cannot="fragmentation from first principles",
    )


@answers(31)
def dpo() -> Reply:
    pair = run("llama-3-8b", A100, 8, stage=3, seq_len=2048, micro_batch_size=2)
    policy = run("llama-3-8b", A100, 8, stage=3, seq_len=2048, micro_batch_size=1)
    reference = component(
        run("llama-3-8b", A100, 8, stage=3, method="lora", lora={"rank": 1, "targets": ["q"]}), "frozen parameters"
    )
    total = float(pair.memory.hbm.used_bytes) + reference
    return Reply(
        f"SFT with twice the sequences, plus 2 bytes a parameter over N for the reference: {gib(total)} GiB in the "
        "example",
        "DPO is not a method of vramsim, but its parts are. A pair is two sequences in one batch, so take twice the "
        f"micro-batch: Llama-3-8B, ZeRO-3 on 8 x A100-80GB, 2048 tokens, {gib(pair.memory.hbm.used_bytes)} GiB "
        f"instead of SFT's {gib(policy.memory.hbm.used_bytes)}. The frozen reference adds 2 bytes a parameter, "
        f"sharded: {gib(reference)} GiB; nothing if its log-probabilities are computed beforehand, or if adapters "
        f"train and the base is the reference. Together {gib(total)} GiB. Its forward keeps no activations, but "
        "logits of its own.",
        cannot="DPO as a method: two models and a loss over pairs",
    )


@answers(32)
def ppo() -> Reply:
    e = run("llama-2-70b", A100, 32, stage=3)
    weights = 32.0 * component(e, "trained parameters")
    trained = 8.0 * weights  # 16 bytes a parameter, where bf16 weights have 2
    total = 2.0 * trained + 2.0 * weights
    fewest = -(-total // float(e.memory.hbm.capacity_bytes))
    usual = -(-fewest * 1.5 // 8) * 8
    return Reply(
        f"a lower bound: {total / 1e12:.1f} TB of states, {fewest:.0f} x 80 GB with nothing else on them",
        f"PPO trains an actor and a critic (16 bytes a parameter each: {gib(trained)} GiB) and keeps a reference and "
        f"a reward model (2 bytes each: {gib(weights)} GiB): {gib(total)} GiB before activations, generation's "
        f"key/value cache and buffers, so {fewest:.0f} GPUs of 80 GB hold nothing but states and about {usual:.0f} "
        f"are realistic without offload. One of the two trainable models alone needs, on 32 GPUs, {verdict(e)}. "
        "Generation is not modelled, so neither is the step time.",
        cannot="PPO: four models and generation",
    )


@answers(33)
def mfu() -> Reply:
    e = run("llama-2-7b", H100, 128, "fsdp2", recompute="none", micro_batch_size=2)
    flops = float(e.time.model_tflops_per_device) * TFLOP / rate(e)
    measured = 9600.0 * flops
    dense = e.graph.setup.cluster.device.peak("bf16")
    return Reply(
        f"{100.0 * measured / dense:.0f} %, against the dense peak",
        f"Llama-2-7B at 4096 tokens takes {flops / 1e9:.1f} GFLOP a token (forward and backward, causal attention "
        f"counted once), so the published 9,600 tokens/s are {measured / TFLOP:.0f} TFLOP/s. The H100's dense bf16 "
        f"peak is {dense / TFLOP:.0f}: {100.0 * measured / dense:.0f} %. 1,979 is the peak with 2:4 sparsity, which "
        f"training does not use, and gives half. vramsim itself expects {rate(e):,.0f} tokens/s and an MFU of "
        f"{e.time.mfu:.2f} on 128 GPUs with FSDP.",
        agrees=0.40 < measured / dense < 0.50,
    )


@answers(34)
def mixtral() -> Reply:
    asked: dict[str, Any] = {"gradient_accumulation_steps": 32, "stage": 1}
    layouts = {
        "tp 4, ep 4": {"tp": 4, "megatron_sp": 1, "ep": 4, "recompute": "none"},
        "tp 2, ep 8": {"tp": 2, "megatron_sp": 1, "ep": 8, "recompute": "none"},
        "ep 8": {"ep": 8, "recompute": "full"},
    }
    found = {
        name: run("mixtral-8x7b-v0.1", H100, 16, "megatron", **asked, **layout) for name, layout in layouts.items()
    }
    reached = {name: float(e.time.model_tflops_per_device) for name, e in found.items()}
    listed = "; ".join(f"{name}: {reached[name]:.0f} TFLOP/s, {verdict(e)}" for name, e in found.items())
    asked_for = found["tp 4, ep 4"]
    activities = sorted(asked_for.time.by_activity.items(), key=lambda item: -float(item[1]))
    shares = ", ".join(
        f"{name} {100.0 * float(s) / float(asked_for.time.step_seconds):.0f} %" for name, s in activities[:3]
    )
    return Reply(
        f"low: {reached['tp 4, ep 4']:.0f} TFLOP/s are expected of tp 4, {reached['tp 2, ep 8']:.0f} of tp 2 and ep 8",
        f"Megatron on 16 x H100 at 4096 tokens, 32 micro-steps: {listed}. The thread has tp 4 and 4 data-parallel "
        f"ranks; that experts are spread over these (ep 4) is assumed. With it a step is {shares}: tensor parallelism "
        "cuts the experts' already narrow matrices by four and gathers activations in every layer. The measured 130 "
        f"is {100.0 * 130.0 / reached['tp 4, ep 4']:.0f} % of the estimate: without grouped matrix products (the "
        "thread predates their default) each expert runs alone, and uneven routing makes ranks wait, neither of "
        "which is charged here. Low for this hardware, then, and the layout is part of why.",
        agrees=reached["tp 4, ep 4"] > 1.3 * 130.0,
    )


@answers(35)
def which_parallelism() -> Reply:
    lines = []
    for model, number in (("llama-3-8b", 8), ("llama-3-70b", 64)):
        best, size = fastest(model, number)
        strategy = best.graph.setup.strategy
        degrees = ", ".join(
            f"{name} {float(getattr(strategy, name)):.0f}" for name in ("tp", "sp") if getattr(strategy, name) > 1
        )
        lines.append(
            f"{model} on {number} x H100-80GB: ZeRO-{strategy.zero_stage:.0f}{', ' + degrees if degrees else ''}, "
            f"{100.0 * float(strategy.recompute):.0f} % of layers recomputed, micro-batch "
            f"{float(best.graph.setup.training.micro_batch_size):.0f} ({rate(best):,.0f} tokens/s per GPU, MFU "
            f"{best.time.mfu:.2f}; best of {size:,} configurations)"
        )
    return Reply(
        "the least that fits: shard states, recompute some layers, then split sequences or tensors",
        f"Every configuration of DeepSpeed was evaluated, 8192 tokens, a global batch of 128: {'; '.join(lines)}. As "
        "rules: shard states as far as memory asks for, no further than the network allows; recompute only as many "
        "layers as memory asks for; sequence parallelism when one sequence does not fit or ranks outnumber "
        "sequences; tensor parallelism inside a node when a layer does not fit; pipelines across nodes when the "
        "network is slow; offload when devices are few and the step is long. The space file of a case settles it in "
        "a second.",
    )


def fastest(model: str, number: int) -> tuple[Estimate, int]:
    from vramsim import simulate

    space = Space(
        case(model, H100, number, stage=3, seq_len=8192, global_batch_size=128),
        {
            "zero_stage": [1, 2, 3],
            "sp": [1, 2, 4, 8],
            "micro_batch_size": [1, 2, 4],
            "recompute": [0, 0.25, 0.5, 0.75, 1],
            "offload_optimizer": [0, 1],
        },
        constraints=["fits", {"min_fit_probability": 0.9}],
        objectives=["tokens_per_second_per_device"],
    )
    found = search(space)
    return simulate(found.case(found.best())), space.size


@lru_cache(maxsize=1)
def procurement() -> Recommendation:
    return recommend("llama-3-8b", 1e9, 2 * 86400.0, seq_len=8192)


@answers(36)
def rent_or_buy() -> Reply:
    given = procurement()
    best = given.best
    outcome = best.outcome()
    rents = {device: ways["on-demand"] for device, ways in given.by_device.items() if "on-demand" in ways}
    listed = "; ".join(
        f"{offer.candidate.num_devices:.0f} x {device} {float(offer.outcome().usd):,.0f} USD"
        for device, offer in sorted(rents.items(), key=lambda item: float(item[1].outcome().usd))
    )
    evens = {
        device: ways["buy"].break_even(ways["on-demand"].price)
        for device, ways in given.by_device.items()
        if {"buy", "on-demand"} <= ways.keys()
    }
    even = ", ".join(f"{device} {100.0 * share:.0f} %" for device, share in evens.items())
    return Reply(
        f"for Llama-3-8B on 1e9 tokens: {best.name}, {float(outcome.usd):,.0f} USD; buy only what is busy most of the "
        "time",
        "`recommend` for a full fine-tune of Llama-3-8B on a billion tokens within two days, with the catalog's "
        f"illustrative prices: {listed}. Owning is cheaper than renting on demand once devices are busy more than "
        f"this share of all hours: {even}. The device question turns on price per useful FLOP and on memory, and a "
        "price cut of a third reorders the list; the rent-or-buy question turns on utilization, hardly on "
        "electricity.",
    )
