"""`python -m mmssl_jax.data.check DIR`."""

from mmssl_jax.cli.check import check_command

if __name__ == "__main__":
    check_command()
