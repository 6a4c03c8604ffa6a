"""Where the time of a LoRA step on ViT-B/16 (batch 8, 224²) goes beyond the operation bound: LibTorch's own operations of one block, alone.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 python bench/parts.py [--threads 2]

(The two variables keep glibc from giving memory back between operations, as mmtune's block cache does.) Prints a line an operation: its time, the
time that its multiply-accumulates take at the best rate of a matrix product here, and their difference as a share of the block's bound.
"""

import argparse
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=2)
torch.set_num_threads(parser.parse_args().threads)
torch.set_grad_enabled(False)
BATCH, TOKENS, HEADS, HEAD, INNER = 8, 197, 12, 64, 3072
ROWS, WIDTH = BATCH * TOKENS, HEADS * HEAD


def seconds(work, rounds=9):
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[rounds // 2]


x, dx = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
y, dy = torch.randn(ROWS, INNER), torch.randn(ROWS, INNER)
narrow, wide = torch.empty(ROWS, WIDTH), torch.empty(ROWS, INNER)
ones, zeros, inner_zeros = torch.ones(WIDTH), torch.zeros(WIDTH), torch.zeros(INNER)
square, up, down = torch.randn(WIDTH, WIDTH) * 0.02, torch.randn(INNER, WIDTH) * 0.02, torch.randn(WIDTH, INNER) * 0.02
q, k, v = (torch.randn(BATCH, TOKENS, HEADS, HEAD).transpose(1, 2) for _ in range(3))
_, mean, deviation = torch.native_layer_norm(x, (WIDTH,), ones, zeros, 1e-6)
aten = torch.ops.aten
out, log_sum = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
MAP, FEED, SCORES = 2 * ROWS * WIDTH * WIDTH, 2 * ROWS * WIDTH * INNER, 4 * BATCH * HEADS * TOKENS * TOKENS * HEAD

# name, times a block, operations each, work
PARTS = [
    ("linear maps, width to width", 4, MAP, lambda: torch.addmm(zeros, x, square.t(), out=narrow)),
    ("their gradients", 4, MAP, lambda: torch.mm(dx, square, out=narrow)),
    ("feed-forward up", 1, FEED, lambda: torch.addmm(inner_zeros, x, up.t(), out=wide)),
    ("feed-forward down", 1, FEED, lambda: torch.addmm(zeros, y, down.t(), out=narrow)),
    ("gradient of up", 1, FEED, lambda: torch.mm(dy, up, out=narrow)),
    ("gradient of down", 1, FEED, lambda: torch.mm(dx, down, out=wide)),
    ("attention", 1, SCORES, lambda: aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)),
    ("its gradient", 1, 2 * SCORES, lambda: aten._scaled_dot_product_flash_attention_for_cpu_backward(out, q, k, v, out, log_sum, 0.0, False)),
    ("GELU", 1, 0, lambda: torch.nn.functional.gelu(y)),
    ("its gradient", 1, 0, lambda: aten.gelu_backward(dy, y)),
    ("layer norms", 2, 0, lambda: torch.native_layer_norm(x, (WIDTH,), ones, zeros, 1e-6)),
    ("their gradients", 2, 0, lambda: aten.native_layer_norm_backward(dx, x, (WIDTH,), mean, deviation, ones, zeros, (True, False, False))),
    ("sums of residuals and of gradients", 4, 0, lambda: torch.add(x, dx, out=narrow)),
]

best = max(MAP / seconds(lambda: torch.mm(x, square.t(), out=narrow)), FEED / seconds(lambda: torch.mm(x, up.t(), out=wide)))
bound = sum(times * operations for _, times, operations, _ in PARTS) / best
total = 0.0
print(f"{'part':36s} {'ms':>8s} {'ideal':>8s}  excess over the block's bound")
for name, times, operations, work in PARTS:
    taken, ideal = times * seconds(work), times * operations / best
    total += taken
    print(f"{name:36s} {taken * 1e3:8.2f} {ideal * 1e3:8.2f} {(taken - ideal) / bound:+7.1%}")
print(f"{'all of it, without LoRA':36s} {total * 1e3:8.2f} {bound * 1e3:8.2f} {total / bound - 1:+7.1%}")
