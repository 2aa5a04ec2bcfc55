"""Prints the most bytes of memory this process held: the child that `scaling.measure_memory` starts.

python -m teamcredit.marl.bench.memory TASK ALGO ROUNDS
"""

import sys

from .child import peak_memory
from .scaling import trainer


def main() -> None:
    task, algo, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if rounds:
        learning = trainer(algo, {}, task=task, preset=None)
        for _ in range(rounds):
            learning.round()
    print(peak_memory())


if __name__ == "__main__":
    main()
