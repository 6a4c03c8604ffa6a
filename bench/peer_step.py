"""The peer of `mmtune cost --measure`: LoRA training steps of transformers + peft on random inputs without padding, in this process.

Prints one JSON object: median seconds a step, peak memory, trainable parameters.
"""

import argparse
import json
import resource
import time

import peft
import torch
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--classes", type=int, default=2)
parser.add_argument("--rank", type=int, default=8)
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.manual_seed(1)
config = transformers.AutoConfig.from_pretrained(options.model, num_labels=options.classes)
vision = config.model_type == "vit"
kind = transformers.AutoModelForImageClassification if vision else transformers.AutoModelForSequenceClassification
model = kind.from_pretrained(options.model, config=config)
targets = ["q_proj", "v_proj"] if any("q_proj" in name for name, _ in model.named_modules()) else ["query", "value"]
model = peft.get_peft_model(model, peft.LoraConfig(r=options.rank, lora_alpha=16, lora_dropout=0.0, target_modules=targets, modules_to_save=["classifier"]))
# No dropout anywhere on either side: the backbone in evaluation mode, LoRA without dropout.
model.eval()
if vision:
    inputs = {"pixel_values": torch.randn(options.batch, 3, config.image_size, config.image_size)}
else:
    inputs = {"input_ids": torch.randint(0, 8, (options.batch, options.tokens))}
labels = torch.zeros(options.batch, dtype=torch.long)
trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimiser = torch.optim.AdamW(trainable, lr=1e-3, fused=True)
seconds = []
for step in range(options.steps + 2):
    start = time.perf_counter()
    optimiser.zero_grad()
    model(**inputs, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    optimiser.step()
    if step >= 2:
        seconds.append(time.perf_counter() - start)
print(json.dumps({
    "seconds": sorted(seconds)[len(seconds) // 2],
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "trainable": sum(parameter.numel() for parameter in trainable),
    "attention": getattr(config, "_attn_implementation", None),
}))
