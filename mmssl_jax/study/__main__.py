"""`python -m mmssl_jax.study --study ablations --config C --data.path DIR --seeds '[1,2,3]'`."""

from mmssl_jax.cli.study import study_command

if __name__ == "__main__":
    study_command()
