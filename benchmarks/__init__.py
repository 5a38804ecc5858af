"""Speed and memory, as ratios within one run: machines are noisy, but what they do in the same minute compares.

`make bench` runs `python -m benchmarks.run`, which writes RESULTS.md beside it; one file holds one claim. Everything
compared here has one thread to itself, so the libraries are told before the first of them is imported, which is now.
"""

import os

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",  # JAX; what else XLA starts, `timing.one_core` holds to one core
    "JAX_PLATFORMS": "cpu",
}
os.environ.update(ONE_THREAD)
