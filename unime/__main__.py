"""`python -m unime`, also under `accelerate launch -m unime`."""

from unime.cli import main

if __name__ == "__main__":
    main()
