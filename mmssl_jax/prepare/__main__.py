"""`python -m mmssl_jax.prepare`."""

from mmssl_jax.cli.prepare import main

if __name__ == "__main__":
    main()
