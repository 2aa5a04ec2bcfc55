"""What every test shares. Shapes and types are checked too when pytest gets
`--jaxtyping-packages=teamcredit,beartype.beartype` (`make test` passes it)."""

import pytest
import torch
from hypothesis import settings

# Small networks run slower on two threads than on one, and a sum over one thread has one order.
torch.set_num_threads(1)

# No deadline: torch's first call takes over a second. Derandomized: the same examples on every machine.
settings.register_profile("teamcredit", deadline=None, derandomize=True)
settings.load_profile("teamcredit")


@pytest.fixture
def cli(capsys):
    """Runs a command in this process; exit code, standard output, standard error."""
    from teamcredit.marl.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        return code, *capsys.readouterr()

    return call
