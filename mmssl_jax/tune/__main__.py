"""`python -m mmssl_jax.tune --config C --data.path DIR --space FILE --trials N --out DIR`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.tune import tune_command

    tune_command()
