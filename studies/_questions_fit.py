"""Questions 1 to 16: does it fit, on how many devices, and what do adapters need."""

from __future__ import annotations

from _questions import (
    A100,
    A100_40,
    A800,
    BOTH,
    H20,
    OFFLOAD,
    RTX3090,
    RTX4090,
    V100,
    Reply,
    answers,
    case,
    component,
    gib,
    host,
    likely,
    peak,
    rate,
    run,
    states,
    verdict,
)

from vramsim.search.inverse import Answer, fewest_devices, host_memory_needed, smallest_device_memory
from vramsim.units import GB

LORA = {"method": "lora", "lora": {"rank": 64, "alpha": 16}}
QLORA = {"method": "qlora", "lora": {"rank": 64, "alpha": 16}, "quantization": "nf4_dq"}


def count(found: Answer) -> str:
    return f"{found.value:.0f}" if found.value is not None else "no number of"


@answers(1)
def llama3_70b_on_16() -> Reply:
    asked = {"framework": "xtuner-v0.1", "stage": 3, "seq_len": 8192}
    few, many = (run("llama-3-70b", A100, number, **asked) for number in (16, 32))
    off = run("llama-3-70b", A100, 16, **asked, **OFFLOAD)
    fewest = fewest_devices(case("llama-3-70b", A100, 16, **asked))
    return Reply(
        f"16 no, {count(fewest)} would do, 32 comfortably; offload makes 16 do",
        f"On 16 GPUs: {verdict(few)}; {peak(few)}. Parameters, gradients and Adam states are {gib(states(few))} GiB "
        "of that, 16 bytes a parameter over 16 GPUs, and no batch or sequence setting moves them. On 32: "
        f"{verdict(many)}. With the optimizer on the host, 16 do: {verdict(off)}, {host(off)}, and a step of "
        f"{off.time.step_seconds:.0f} s instead of {few.time.step_seconds:.0f}. The fewest GPUs without offload are "
        f"{count(fewest)} ({fewest.binding}).",
        agrees=not few.fits and many.fits and off.fits,
    )


@answers(2)
def llama2_70b() -> Reply:
    plain = fewest_devices(case("llama-2-70b", A100, 8, stage=3))
    off = fewest_devices(case("llama-2-70b", A100, 8, stage=3, **OFFLOAD))
    sure = fewest_devices(case("llama-2-70b", A100, 8, stage=3), chance=0.9)
    assert plain.estimate is not None
    assert off.estimate is not None
    return Reply(
        f"{count(sure)} x 80 GB with ZeRO-3 ({count(plain)} if all goes well), {count(off)} with offload",
        "With ZeRO-3, bf16, AdamW and all activations recomputed, sequences of 4096 and micro-batch 1: "
        f"{count(plain)} A100-80GB are the fewest by the best estimate, {verdict(plain.estimate)}; "
        f"{peak(plain.estimate)}. Fewer fail: {plain.binding}. So little room is left on {count(plain)} that only "
        f"{count(sure)} fit with 90 %. With the optimizer on the host {count(off)} are enough, if a node has "
        f"{gib(off.estimate.memory.host.used_bytes_per_node)} GiB for it.",
    )


@answers(3)
def coder_33b() -> Reply:
    plain = run("yi-34b", A800, 8, stage=3)
    off = run("yi-34b", A800, 8, stage=3, **OFFLOAD, host_memory=1e12)
    return Reply(
        f"without offload {likely(plain)}, with the optimizer on the host {likely(off)}",
        "Yi-34B stands in for DeepSeek-Coder-33B (same width, 60 layers against 62). ZeRO-3 on 8 x A800-80GB at 4096 "
        f"tokens: {verdict(plain)}; {peak(plain)}. With the optimizer on the host: {verdict(off)}; {host(off)}, so 1 "
        f"TB of RAM is {'enough' if off.fits else 'too little'}. The step then takes {off.time.step_seconds:.1f} s "
        f"instead of {plain.time.step_seconds:.1f}.",
    )


@answers(4)
def deepseek_v3() -> Reply:
    layout = {"stage": 3, "recompute": "full"}
    found = fewest_devices(case("deepseek-v3", A100, 8, **layout))
    sure = fewest_devices(case("deepseek-v3", A100, 8, **layout), chance=0.9)
    at64 = run("deepseek-v3", A100, 64, **layout)
    off = fewest_devices(case("deepseek-v3", A100, 8, **layout, **OFFLOAD))
    assert found.estimate is not None
    whole = states(at64) * 64
    return Reply(
        f"{count(sure)} for a full fine-tune ({count(found)} if all goes well), {count(off)} with the optimizer "
        "offloaded",
        f"671 billion parameters at 16 bytes (ZeRO-3, bf16, AdamW) are {whole / 1e12:.1f} TB of states, "
        f"{whole / 64 / GB:.0f} GB on each of 64 GPUs of 80 GB before the first activation: {verdict(at64)}. The "
        f"fewest A100-80GB are {count(found)}, {verdict(found.estimate)}; fewer fail ({found.binding}). With the "
        f"optimizer on the host {count(off)} are the fewest. The thread's 32 to 64 can therefore only mean offload, "
        "adapters or inference, which it does not say.",
        agrees=False,
    )


@answers(5)
def qwen_vl_72b() -> Reply:
    found = fewest_devices(case("qwen2.5-72b", A100, 8, stage=3, seq_len=8192))
    sure = fewest_devices(case("qwen2.5-72b", A100, 8, stage=3, seq_len=8192), chance=0.9)
    off = run("qwen2.5-72b", A100, 8, stage=3, seq_len=8192, **OFFLOAD)
    assert found.estimate is not None
    return Reply(
        f"{count(sure)} x 80 GB for its language model at 8192 tokens ({count(found)} if all goes well); 8 with "
        "offload",
        "Only the language model (Qwen2.5-72B) is estimated; the vision tower adds about 0.7 billion parameters, 1 % "
        f"of the states, and its activations if it trains. ZeRO-3, 8192 tokens, all recomputed: {count(found)} "
        f"A100-80GB, {verdict(found.estimate)}; {peak(found.estimate)}. With the optimizer on the host a single node "
        f"of 8 does: {verdict(off)}, {host(off)}.",
    )


@answers(6)
def qwen3_vl_30b() -> Reply:
    two = run("qwen3-30b-a3b", H20, 2, stage=3)
    many, longer = (run("qwen3-30b-a3b", A100, 32, stage=2, seq_len=length) for length in (2048, 4096))
    three = run("qwen3-30b-a3b", A100, 32, stage=3)
    return Reply(
        f"2 x H20 {likely(two)}; 32 x 80 GB with ZeRO-2 and short sequences {likely(many)}",
        f"The language model alone. 2 x H20-96GB, even with ZeRO-3: {verdict(two)}; its states are {gib(states(two))} "
        f"GiB per GPU. 32 x A100-80GB with ZeRO-2 at 2048 tokens: {verdict(many)}; {peak(many)}. At 4096: "
        f"{verdict(longer)}. ZeRO-2 keeps all bf16 weights on every GPU, {gib(component(many, 'trained parameters'))} "
        f"GiB, which is why so many GPUs are needed; ZeRO-3 on the same 32 needs {gib(three.memory.hbm.used_bytes)} "
        "GiB.",
        agrees=not two.fits and many.fits,
    )


@answers(7)
def least_memory_70b() -> Reply:
    asked = case("llama-2-70b", A100, 1, stage=3, devices_per_node=1, **BOTH)
    device, ram = smallest_device_memory(asked), host_memory_needed(asked)
    assert device.value is not None
    assert ram.value is not None
    total = device.value + ram.value
    return Reply(
        f"{device.value:.0f} GiB on one GPU and {ram.value:,.0f} GiB of host memory",
        "One GPU, ZeRO-3 with parameters and optimizer on the host, 4096 tokens, micro-batch 1: the GPU needs "
        f"{device.value:.1f} GiB ({device.note}), the host {ram.value:,.0f} GiB, {ram.binding}. Together {total:,.0f} "
        "GiB: the states are 16 bytes a parameter wherever they lie, so less is only possible with adapters, 8-bit "
        "states or NVMe. PyTorch may round pinned buffers up to powers of two, up to twice as much in the worst case.",
    )


@answers(8)
def llama_7b_fsdp() -> Reply:
    full = run("llama-2-7b", RTX3090, 8, "fsdp2", recompute="none", seq_len=2048)
    measured = 29e9
    e = run("llama-2-7b", A100_40, 4, "fsdp2", recompute="none", seq_len=2048, precision="bf16_pure")
    mixed = run("llama-2-7b", A100_40, 4, "fsdp2", recompute="none", seq_len=2048)
    whole = component(run("llama-2-7b", A100, 1, "torch", seq_len=512), "trained parameters")
    low, high = sorted(float(each.memory.hbm.reserved_bytes) for each in (e, mixed))
    return Reply(
        f"8 x 3090 cannot hold the unsharded start; 4 x A100-40 reserve {low / GB:.0f} to {high / GB:.0f} GB",
        f"The thread's OOM is inside FSDP(model): FSDP1 first moves the whole fp32 model to each GPU, {gib(whole)} "
        "GiB against the 23.7 of a 3090. That start is not part of the estimate (FSDP2 shards from the meta device); "
        f"the run after it needs {verdict(full)}. For 4 x A100-40GB the maintainer measured 29 GB reserved, without "
        f"sequence length, batch or precision. At 2048 tokens, micro-batch 1, nothing recomputed: {low / GB:.0f} GB "
        f"in pure bf16 and {high / GB:.0f} GB with fp32 weights, which "
        f"{'brackets' if low <= measured <= high else 'does not bracket'} it.",
        agrees=whole > full.memory.hbm.capacity_bytes and 0.8 * low <= measured <= 1.2 * high,
        cannot="FSDP1's start, with the whole model on each GPU",
    )


@answers(9)
def v100() -> Reply:
    small, large = (run(f"llama-2-{size}b", V100, 8, stage=3, precision="fp16", seq_len=2048) for size in (7, 13))
    off = run("llama-2-13b", V100, 8, stage=3, precision="fp16", seq_len=2048, **OFFLOAD)
    return Reply(
        f"8 x V100-32: 7B {likely(small)}, 13B {likely(large)}, with offload {likely(off)} (fp16, ZeRO-3)",
        f"V100s have no bf16, so fp16, ZeRO-3, 2048 tokens, all recomputed, 8 GPUs. 7B: {verdict(small)}. 13B: "
        f"{verdict(large)}; {peak(large)}. With the optimizer on the host 13B needs {verdict(off)}. On a single V100 "
        f"a full fine-tune of 7B needs {gib(states(small) * 8)} GiB of states alone: no.",
    )


@answers(10)
def llada_8b() -> Reply:
    e = run("llama-3-8b", A100_40, 2, stage=2, micro_batch_size=2, seq_len=1024, **OFFLOAD)
    three = run("llama-3-8b", A100_40, 2, stage=3, micro_batch_size=2, seq_len=1024, **OFFLOAD)
    weights = component(e, "trained parameters")
    start = float(e.memory.hbm.by_phase["init"])
    return Reply(
        f"{likely(e)}: {gib(e.memory.hbm.used_bytes)} of 39.5 GiB at its peak, {gib(start)} as it starts; take ZeRO-3",
        "Llama-3-8B stands in for LLaDA-8B. ZeRO-2 with the optimizer on the host, micro-batch 2 of 1024 tokens: "
        f"{verdict(e)}; {peak(e)}. The thread dies while ZeRO starts, asking for 14.9 GiB: a flat copy of the "
        f"{gib(weights)} GiB of bf16 weights. The estimate has {gib(start)} GiB at that time; a checkpoint that was "
        f"loaded in fp32 would hold {gib(weights)} GiB more, {gib(start + weights)}, and die just there. The thread "
        f"does not say how it was loaded. ZeRO-3 never holds the weights whole: {verdict(three)}.",
        agrees=not e.fits,
    )


@answers(11)
def qlora_70b() -> Reply:
    ddp = run("llama-2-70b", A100, 8, "ddp", seq_len=2048, **QLORA)
    two = run("llama-2-70b", A100, 8, "xtuner-v0.1", stage=2, seq_len=2048, **QLORA)
    off = run("llama-2-70b", A100_40, 8, "xtuner-v0.1", stage=2, seq_len=2048, **QLORA, **OFFLOAD)
    said = (55.0, 52.0)
    got = [float(e.memory.hbm.used_bytes) / GB for e in (ddp, two)]
    return Reply(
        f"DDP {got[0]:.0f} GB, ZeRO-2 {got[1]:.0f} GB; 40 GB GPUs "
        f"{'would do with offload' if off.fits else 'do not do'}",
        f"Rank 64 on all linear layers, nf4 with double quantization, 2048 tokens. DDP: {got[0]:.1f} GB "
        f"({peak(ddp)}). ZeRO-2: {got[1]:.1f} GB, since only gradients and Adam states of the adapters are sharded; "
        f"the 4-bit base is whole on every GPU in both. The maintainer's figures are {said[0]:.0f} and {said[1]:.0f} "
        f"GB. On 40 GB with the adapters' optimizer on the host: {verdict(off)}.",
        agrees=all(abs(g / s - 1.0) < 0.2 for g, s in zip(got, said, strict=True)) and got[1] <= got[0],
    )


@answers(12)
def qlora_72b_4090() -> Reply:
    plain = run("qwen2.5-72b", RTX4090, 2, "fsdp2", seq_len=1024, **QLORA)
    off = run("qwen2.5-72b", RTX4090, 2, "fsdp2", seq_len=1024, **QLORA, **BOTH)
    return Reply(
        f"without offload {likely(plain)}, with CPU offload {likely(off)}",
        "72 billion parameters in 4 bits are about 36 GB, 18 on each of two cards, and the embedding and the head "
        f"stay in bf16. FSDP, QLoRA of rank 64, 1024 tokens: {verdict(plain)}; {peak(plain)}. With parameters and "
        f"optimizer offloaded: {verdict(off)}; {host(off)}, and {100.0 * (1.0 - rate(off) / rate(plain)):.0f} % less "
        "throughput than if it fitted.",
    )


@answers(13)
def qlora_70b_3090() -> Reply:
    asked = {"method": "qlora", "lora": {"rank": 32, "alpha": 16}, "quantization": "nf4_dq", "optimizer": "adamw_8bit"}
    plain = run("llama-2-70b", RTX3090, 2, "fsdp2", seq_len=512, **asked)
    off = run("llama-2-70b", RTX3090, 2, "fsdp2", seq_len=512, **asked, **BOTH)
    low, high = plain.memory_band()
    return Reply(
        f"without offload {likely(plain)}, with CPU offload {likely(off)}",
        f"The thread's settings (rank 32, 512 tokens, 8-bit AdamW): {verdict(plain)}, nine of ten runs between "
        f"{gib(low)} and {gib(high)}; {peak(plain)}. The 4-bit base is "
        f"{gib(component(plain, 'quantized parameters'))} GiB of each card, and loading it needs room besides. With "
        f"CPU offload: {verdict(off)}.",
        agrees=float(plain.fit_probability) < 0.5 or None,
    )


@answers(14)
def total_or_per_card() -> Reply:
    ddp = run("llama-2-70b", A100, 2, "ddp", seq_len=1024, method="qlora", lora={"rank": 8}, quantization="nf4_dq")
    fsdp = run("llama-2-70b", A100, 2, "fsdp2", seq_len=1024, method="qlora", lora={"rank": 8}, quantization="nf4_dq")
    return Reply(
        "per card with DDP, in total with FSDP or ZeRO-3",
        "The 48 GB are those of a 70B QLoRA. With DDP each card holds the whole 4-bit model: "
        f"{gib(ddp.memory.hbm.used_bytes)} GiB on every one of two cards, so the figure is per card. With FSDP the "
        f"base is sharded: {gib(fsdp.memory.hbm.used_bytes)} GiB per card, so it is about the total. The difference "
        f"is {gib(component(ddp, 'quantized parameters') - component(fsdp, 'quantized parameters'))} GiB of 4-bit "
        "weights.",
    )


@answers(15)
def host_ram_at_load() -> Reply:
    asked = {"method": "qlora", "lora": {"rank": 16}, "quantization": "nf4", "seq_len": 8192}
    once = run("llama-3-8b", "a40-48gb", 4, "fsdp2", **asked, devices_per_node=4)
    copy = component(run("llama-3-8b", A100, 1, "torch", method="lora"), "frozen parameters")
    return Reply(
        f"yes: up to {gib(4 * copy)} GiB of host memory while loading, against 16 GB",
        f"Training itself fits the GPUs: {verdict(once)}. Loading does not fit the host: the checkpoint is "
        f"{gib(copy)} GiB in bf16, as large as all of the 16 GB already, and if each of the 4 processes reads it "
        f"before it quantizes, a node needs {gib(4 * copy)} GiB. Loading on one rank at a time, straight to the GPU, "
        "or from a 4-bit checkpoint avoids it.",
        agrees=copy > 0.9 * 16e9,
        cannot="loading a checkpoint: the copies are counted here, not simulated",
    )


@answers(16)
def zero3_lora_32b() -> Reply:
    e = run("qwen2.5-32b", A100, 8, stage=3, **LORA)
    ddp = run("qwen2.5-32b", A100, 8, "ddp", **LORA)
    frozen = component(e, "frozen parameters")
    return Reply(
        f"no: {gib(frozen)} GiB of it each, and one layer at a time while it runs",
        f"ZeRO-3 shards frozen weights too: of {gib(frozen * 8)} GiB in bf16, each of 8 GPUs keeps {gib(frozen)} and "
        f"gathers the rest layer by layer ({gib(component(e, 'gathered parameters'))} GiB at a time). In all "
        f"{verdict(e)}; with DDP it is {gib(ddp.memory.hbm.used_bytes)} GiB. If each GPU does load the whole model, "
        "the ZeRO-3 initialization was not active when it was created (zero3_init_flag, or the config was set too "
        "late).",
    )
