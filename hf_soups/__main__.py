"""`python -m hf_soups`, also under torchrun and `accelerate launch`: the command line."""

from hf_soups.cli.app import main

if __name__ == "__main__":
    main()
