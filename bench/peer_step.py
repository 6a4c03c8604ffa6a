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


class TwoTowers(torch.nn.Module):
    """A linear classifier on the pooled outputs of CLIP's two towers, side by side."""

    def __init__(self):
        super().__init__()
        self.clip = transformers.CLIPModel.from_pretrained(options.model)
        self.classifier = torch.nn.Linear(config.vision_config.hidden_size + config.text_config.hidden_size, options.classes)

    def forward(self, pixel_values, input_ids, labels):
        pooled = [self.clip.vision_model(pixel_values=pixel_values).pooler_output, self.clip.text_model(input_ids=input_ids).pooler_output]
        loss = torch.nn.functional.cross_entropy(self.classifier(torch.cat(pooled, 1)), labels)
        return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss)


class OneStream(torch.nn.Module):
    """A linear classifier on ViLT's pooled output."""

    def __init__(self):
        super().__init__()
        self.vilt = transformers.ViltModel.from_pretrained(options.model)
        self.classifier = torch.nn.Linear(config.hidden_size, options.classes)

    def forward(self, pixel_values, input_ids, labels):
        loss = torch.nn.functional.cross_entropy(self.classifier(self.vilt(pixel_values=pixel_values, input_ids=input_ids).pooler_output), labels)
        return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss)


pictures = config.model_type in ("vit", "swin", "clip", "vilt")
sounds = config.model_type == "wav2vec2"
if config.model_type == "clip":
    model = TwoTowers()
elif config.model_type == "vilt":
    model = OneStream()
else:
    kind = transformers.AutoModelForAudioClassification if sounds else transformers.AutoModelForSequenceClassification
    if pictures:
        kind = transformers.AutoModelForImageClassification
    model = kind.from_pretrained(options.model, config=config)
targets = ["q_proj", "v_proj"] if any("q_proj" in name for name, _ in model.named_modules()) else ["query", "value"]
model = peft.get_peft_model(model, peft.LoraConfig(r=options.rank, lora_alpha=16, lora_dropout=0.0, target_modules=targets, modules_to_save=["classifier"]))
# No dropout anywhere on either side: the backbone in evaluation mode, LoRA without dropout.
model.eval()
inputs = {}
if pictures:
    size = config.vision_config.image_size if config.model_type == "clip" else config.image_size
    inputs["pixel_values"] = torch.randn(options.batch, 3, size, size)
if sounds:
    inputs["input_values"] = torch.randn(options.batch, 4 * 16000)
if options.tokens:
    inputs["input_ids"] = torch.randint(0, 8, (options.batch, options.tokens))
    if config.model_type == "clip":
        inputs["input_ids"][:, -1] = config.text_config.eos_token_id
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
