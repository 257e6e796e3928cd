"""`python -m hf_soups.finetune`."""

import sys

from hf_soups.finetune.command import main

if __name__ == "__main__":
    sys.exit(main())
