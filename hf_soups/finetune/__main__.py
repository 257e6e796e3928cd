"""`python -m hf_soups.finetune`; Ctrl-C and SIGTERM end it in one line, and nothing was written then."""

from hf_soups.ending import end_in_one_line, leave
from hf_soups.finetune.command import main

if __name__ == "__main__":
    end_in_one_line("hf_soups.finetune", "nothing was written")
    leave(main())
