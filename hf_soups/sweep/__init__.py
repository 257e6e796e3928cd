"""Many fine-tunes from one start: `plan` fixes them, `ledger` knows what became of each, `executor` runs them.

`launcher` starts the processes of one run, `dry_run` says what a sweep will need, and `run` puts it together.
"""

from hf_soups.sweep.run import SweepResult, print_result, run_sweep

__all__ = ["SweepResult", "print_result", "run_sweep"]
