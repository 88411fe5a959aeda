# Hand-made for these tests, in the shape of ms-swift's examples.
nproc_per_node=2
NPROC_PER_NODE=$nproc_per_node \
swift sft \
    --model Qwen/Qwen2.5-7B-Instruct \
    --train_type lora \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps $(expr 16 / $nproc_per_node) \
    --max_length 2048 \
    --lora_rank 16 --lora_alpha 32 \
    --deepspeed zero3
