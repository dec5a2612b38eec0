"""`python -m uronet_jax` is the command `uronet`."""

from uronet_jax.command import main

if __name__ == "__main__":
    main()
