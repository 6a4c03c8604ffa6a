"""Operations a second of this machine's float32 matrix products, which operation bounds are counted by.

    python bench/rates.py THREADS [SIDE] [PRODUCTS]
"""

import sys
import time


def product_rate(side=1024, products=8):
    import torch

    a, b = torch.randn(side, side), torch.randn(side, side)
    a @ b
    begin = time.perf_counter()
    for _ in range(products):
        a @ b
    return products * 2 * side ** 3 / (time.perf_counter() - begin)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    print(product_rate(*map(int, sys.argv[2:])))
