# Hand-made for these tests, in the shape of an XTuner v0.1 configuration: QLoRA of Llama 3 8B, sequence parallel.
import torch
from bitsandbytes.optim import PagedAdamW32bit
from peft import LoraConfig
from transformers import BitsAndBytesConfig

pretrained_model_name_or_path = "meta-llama/Meta-Llama-3-8B-Instruct"
sequence_parallel_size = 2
max_length = 2048 * 2
batch_size = 1
accumulative_counts = 16 if sequence_parallel_size == 1 else 8
accumulative_counts *= sequence_parallel_size
max_norm = 0.5
model = dict(
    type=SupervisedFinetune,
    use_varlen_attn=True,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        torch_dtype=torch.float16,
        quantization_config=dict(
            type=BitsAndBytesConfig,
            load_in_4bit=True,
            load_in_8bit=False,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
        ),
    ),
    lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout=0.1),
)
train_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(
    type=AmpOptimWrapper, optimizer=dict(type=PagedAdamW32bit, lr=2e-4), accumulative_counts=accumulative_counts
)
if sequence_parallel_size > 4:
    batch_size = 99
launch = __import__("os").system("false")
