"""`python -m mmssl_jax.prepare`."""

from mmssl_jax.prepare.command import main

if __name__ == "__main__":
    main()
