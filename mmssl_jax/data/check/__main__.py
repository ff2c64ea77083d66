"""`python -m mmssl_jax.data.check DIR`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.check import check_command

    check_command()
