"""`python -m mmssl_jax.tune --config C --data.path DIR --space FILE --trials N --out DIR`."""

from mmssl_jax.cli.tune import tune_command

if __name__ == "__main__":
    tune_command()
