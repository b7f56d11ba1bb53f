"""What a training step costs with and without the memory of the step before: processor time, page faults.

python benchmarks/freed_memory.py [--states 8] [--steps 40]

Two blocks of 64 channels, 16 sequences of 1,024 steps with dropout, one thread; the steps as glibc manages
memory by itself come first, for :func:`compressm.training.keep_freed_memory` holds from its call on.
"""

import argparse
import resource

import torch
import torch.nn.functional as F

import compressm
from compressm.models import SequenceClassifier
from compressm.training import keep_freed_memory


def main() -> None:
    """Measure both, one after the other, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--states", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SequenceClassifier(
        3, 10, num_layers=2, model_dim=64, state_dim=given.states, dropout=0.1, mixer="lru"
    )
    optimizer = torch.optim.AdamW(compressm.parameter_groups(model, lr=1e-3))
    for name in ("as it is", "kept"):
        if name == "kept" and not keep_freed_memory():
            raise SystemExit("freed_memory: the C library is not glibc, and keeps what it likes")
        for _ in range(5):
            step(model, optimizer)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(given.steps):
            step(model, optimizer)
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        faults = (after.ru_minflt - before.ru_minflt) / given.steps
        print(
            f"{name}: {1e3 * user / given.steps:.1f} ms + {1e3 * system / given.steps:.1f} ms of the system, "
            f"{faults:,.0f} page faults a step"
        )


def step(model: SequenceClassifier, optimizer: torch.optim.Optimizer) -> None:
    """Train once on fresh noise."""
    loss = F.cross_entropy(model(torch.randn(16, 1024, 3)), torch.randint(10, (16,)))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


if __name__ == "__main__":
    main()
