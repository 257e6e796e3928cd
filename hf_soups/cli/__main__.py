"""`python -m hf_soups.cli`, also under torchrun and `accelerate launch`."""

from hf_soups.cli.app import main

if __name__ == "__main__":
    main()
