"""Questions 17 to 25: more devices that did not help, and long sequences."""

from __future__ import annotations

from typing import Any

from _questions import (
    A100,
    A100_40,
    A800,
    H100,
    LIGER,
    OFFLOAD,
    RTX4090,
    Reply,
    answers,
    case,
    gib,
    held,
    likely,
    peak,
    rate,
    run,
    states,
    verdict,
)

from vramsim import Estimate
from vramsim.search.inverse import longest_seq_len
from vramsim.spec import Category
from vramsim.units import GB, GiB


def used(e: Estimate) -> float:
    return float(e.memory.hbm.used_bytes)


@answers(17)
def same_on_two_and_four() -> Reply:
    asked: dict[str, Any] = {"stage": 2, "recompute": "none", "micro_batch_size": 8, "seq_len": 1024}
    two, four = (run("llama-3.2-1b", A100, number, **asked) for number in (2, 4))
    shared = held(two, Category.ACTIVATION, Category.TEMPORARY)
    saved = states(two) - states(four)
    return Reply(
        f"what more GPUs shard is {gib(saved)} GiB here, what they do not is {gib(used(four))}",
        "The thread names no model; Llama-3.2-1B, ZeRO-2, 8 sequences of 1024 per GPU, nothing recomputed, shows it. "
        f"On 2 GPUs {gib(used(two))} GiB each, on 4 {gib(used(four))}: only gradients and optimizer states are "
        f"divided, {gib(saved)} GiB fewer. {gib(shared)} GiB are activations, logits and temporaries, which follow "
        "the batch of each GPU, and bf16 weights stay whole. An estimator of model states (the thread's 0.77 GB) "
        "leaves all of that out; smaller micro-batches or recomputation reduce it, more GPUs do not.",
        agrees=used(four) > 0.75 * used(two),
    )


@answers(18)
def fsdp_reserved() -> Reply:
    nodes = (1, 2, 3, 4)
    found = [run("llama-3.2-3b", A100, 8 * n, "fsdp2", seq_len=1024, micro_batch_size=4) for n in nodes]
    reserved = [float(e.memory.hbm.reserved_bytes) for e in found]
    sharded = [states(e) for e in found]
    listed = ", ".join(f"{value / GB:.1f}" for value in reserved)
    fall = reserved[0] - reserved[3]
    return Reply(
        f"yes: only the shard shrinks, by {fall / GB:.1f} GB from 1 to 4 nodes (measured: 4)",
        "T5-3B is an encoder-decoder, which vramsim does not model; Llama-3.2-3B stands in, fp32 shards and bf16 "
        f"computation as in the thread, 4 sequences of 1024. Reserved on 1 to 4 nodes: {listed} GB. Parameters, "
        f"gradients and Adam states fall from {sharded[0] / GB:.1f} to {sharded[3] / GB:.1f} GB a GPU; everything "
        "else, gathered layers and the activations of a GPU's own batch, stays. Most of the gain comes with the "
        "second node. The measured fall of 4 GB (28 to 24) is that of the shards, too; the level depends on batch "
        "and length, which the thread does not give.",
        agrees=2e9 < fall < 6e9 and reserved == sorted(reserved, reverse=True),
        cannot="encoder-decoder models such as T5",
    )


@answers(19)
def diffusion() -> Reply:
    one, two = (run("llama-3.2-1b", "h100-pcie-80gb", n, "ddp", recompute="none", seq_len=512) for n in (1, 2))
    gain = 2.0 * rate(two) / rate(one)
    return Reply(
        "not as asked: it is a diffusion model",
        "Stable Diffusion XL is not a language model and is not modelled. What can be said of two H100 PCIe cards: "
        "gradients of every step cross PCIe, so a small batch hides nothing. For a 1-billion-parameter language "
        f"model with one sequence of 512 tokens a step, DDP makes 2 cards {gain:.2f} times as fast as 1; accumulation "
        "or larger batches bring it towards 2. Also count steps rightly: with two cards each step processes twice "
        "the images.",
        cannot="diffusion models",
    )


@answers(20)
def multi_node_zero3() -> Reply:
    slow = {"scale_out_bandwidth": 12.5e9}
    asked: dict[str, Any] = {"stage": 3, "seq_len": 2048, **slow}
    one = run("qwen2.5-72b", A100_40, 8, **asked, **OFFLOAD, gradient_accumulation_steps=8)
    many = run("qwen2.5-72b", A100_40, 64, **asked)
    near = run("qwen2.5-72b", A100_40, 64, **asked, secondary_shard_size=8)
    exposed = float(many.time.by_activity.get("communication", 0.0)) / float(many.time.step_seconds)
    faster = rate(near) / rate(many)
    return Reply(
        f"yes on a slow network: {rate(many):.0f} tokens/s per GPU on 64, {rate(one):.0f} on one node with offload",
        "ZeRO-3 gathers all 145 GB of weights twice a micro-step. On 8 nodes joined by 100 Gb/s (assumed; the thread "
        f"does not say) {100.0 * exposed:.0f} % of a step is waiting for that: {rate(many):.0f} tokens/s per GPU, "
        f"against {rate(one):.0f} on a single node with the optimizer on the host and 8 micro-steps a step. ZeRO++'s "
        "hpZ keeps a second copy of the weights within each node, so that backward gathers over NVLink, for "
        f"{gib(used(near) - used(many))} GiB more per GPU: {rate(near):.0f}, {faster:.2f} times as "
        f"fast{'' if faster > 1.05 else ' - the estimate does not yet move that traffic off the slow network'}.",
        agrees=rate(one) > rate(many) and faster > 1.2,
    )


@answers(21)
def qwen_32b_22k() -> Reply:
    one = run("qwen2.5-32b", H100, 8, stage=3, seq_len=22528)
    tried = {"usual loss": {}, "fused loss (Liger)": LIGER}
    most = {
        (name, number): longest_seq_len(case("qwen2.5-32b", H100, number, stage=3, **changes))
        for name, changes in tried.items()
        for number in (8, 16, 32)
    }
    listed = "; ".join(f"{name}: {', '.join(words(most[name, number]) for number in (8, 16, 32))}" for name in tried)
    between = [key for key, found in most.items() if found.value and 22000 <= found.value < 32768]
    setups = " or ".join(f"{number} GPUs with the {name}" for name, number in between)
    return Reply(
        f"as on {setups}" if between else "the thread's limit is between those of the setups tried",
        "Qwen2.5-32B, ZeRO-3, all recomputed, H100-80GB; the thread does not say how many. On 8 and with the usual "
        f"loss 22k need {verdict(one)}; {peak(one)}. Longest sequences on 8, 16 and 32 GPUs, {listed}. What stops the "
        f"usual loss is {most['usual loss', 16].binding}: logits of 152,064 words for every token. A limit between "
        f"22k and 32k is that of {setups or 'none of these'}.",
        agrees=True if between else None,
    )


def words(found: Any) -> str:
    return "no number of" if found.value is None else f"{found.value:,.0f}"


@answers(22)
def qwen_7b_long() -> Reply:
    plain = longest_seq_len(case("qwen2.5-7b", A100, 8, stage=3))
    fused = longest_seq_len(case("qwen2.5-7b", A100, 8, stage=3, **LIGER))
    split = longest_seq_len(case("qwen2.5-7b", A100, 8, stage=3, sp=4, **LIGER))
    bare = longest_seq_len(case("qwen2.5-7b", A100, 8, stage=3, recompute="none"))
    return Reply(
        f"{words(plain)} tokens with recomputation, {words(fused)} with a fused loss, {words(split)} with sequence "
        "parallel 4",
        f"Qwen2.5-7B, ZeRO-3 on 8 x A100-80GB. Without recomputation {words(bare)} tokens fit, with it "
        f"{words(plain)}; then {plain.binding}. A fused loss, which never holds the logits, makes it {words(fused)}; "
        f"sequence parallelism over 4 of the GPUs {words(split)}, as far as memory is concerned. So 8k is no limit of "
        "the hardware: recompute first, then fuse the loss.",
    )


@answers(23)
def llama_8b_64k() -> Reply:
    plain = run("llama-3-8b", A800, 4, stage=3, seq_len=65536)
    fused = run("llama-3-8b", A800, 4, stage=3, seq_len=65536, **LIGER)
    off = run("llama-3-8b", A800, 4, stage=3, seq_len=65536, **LIGER, **OFFLOAD)
    split = run("llama-3-8b", A800, 4, stage=3, seq_len=65536, sp=4)
    return Reply(
        f"with the usual loss {likely(plain)}, with a fused loss {likely(fused)}, and the optimizer offloaded "
        f"{likely(off)}",
        f"ZeRO-3, all recomputed, 65,536 tokens. With the usual loss: {verdict(plain)}; {peak(plain)}. With a fused "
        f"loss: {verdict(fused)}; {peak(fused)}. With the optimizer on the host as well: {verdict(off)}. Sequence "
        f"parallel 4 with the usual loss: {verdict(split)}. The logits of 128,256 words a token are what dies first.",
    )


@answers(24)
def lora_8b_4090() -> Reply:
    asked: dict[str, Any] = {"method": "lora", "lora": {"rank": 8, "alpha": 16, "targets": ["q", "v"]}}
    at = {n: run("llama-3-8b", RTX4090, 1, "torch", seq_len=n, **asked) for n in (2048, 4096, 8192)}
    most = longest_seq_len(case("llama-3-8b", RTX4090, 1, "torch", **asked))
    fused = longest_seq_len(case("llama-3-8b", RTX4090, 1, "torch", **asked, **LIGER))
    measured = 24.0
    four = used(at[4096]) / GiB
    return Reply(
        f"yes: 2048 tokens {gib(used(at[2048]))} GiB, 4096 {four:.1f}, 8192 {gib(used(at[8192]))} of 23.6",
        f"LoRA of rank 8 on queries and values, bf16, all recomputed, one sequence. 2048: {verdict(at[2048])}; 4096: "
        f"{verdict(at[4096])} (the maintainer saw about 24 GB); 8192: {verdict(at[8192])}; {peak(at[8192])}. The "
        f"frozen weights are 15 GiB whatever the length; the rest is logits. {words(most)} tokens is the most, "
        f"{words(fused)} with a fused loss.",
        agrees=bool(at[2048].fits and not at[8192].fits and abs(four / measured - 1.0) < 0.2),
    )


@answers(25)
def kda() -> Reply:
    at = {n: run("llama-3.2-1b", H100, 8, "fsdp2", seq_len=n, **LIGER) for n in (32768, 65536)}
    ratio = rate(at[65536]) / rate(at[32768])
    return Reply(
        "not this model: Kimi delta attention",
        "Kimi delta attention is a linear attention that vramsim does not have, so neither the 163 to 190 GiB nor "
        "the 28,000 tokens/s are computed. The thread's finding, that length is throughput-neutral, is what linear "
        "attention means: FLOPs a token do not depend on length. With softmax attention they do: a "
        f"1-billion-parameter Llama loses {100.0 * (1.0 - ratio):.0f} % of its tokens/s from 32k to 64k in the "
        "estimate.",
        cannot="Kimi delta attention (KDA)",
    )
