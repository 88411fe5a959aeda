# Hand-made for these tests, in the shape of an XTuner v0.1 configuration: full fine-tune of Llama 3 70B.
from torch.optim import AdamW
from transformers import AutoModelForCausalLM
from xtuner.model import SupervisedFinetune

pretrained_model_name_or_path = "meta-llama/Meta-Llama-3-70B"
use_varlen_attn = False
max_length = 8192
pack_to_max_length = True
sequence_parallel_size = 1
batch_size = 1
accumulative_counts = 1
accumulative_counts *= sequence_parallel_size
optim_type = AdamW
max_norm = 1
model = dict(
    type=SupervisedFinetune,
    use_varlen_attn=use_varlen_attn,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=pretrained_model_name_or_path),
)
train_dataloader = dict(
    batch_size=batch_size, sampler=dict(type=SequenceParallelSampler if sequence_parallel_size > 1 else DefaultSampler)
)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=optim_type, lr=2e-5),
    clip_grad=dict(max_norm=max_norm),
    accumulative_counts=accumulative_counts,
    dtype="float16",
)
