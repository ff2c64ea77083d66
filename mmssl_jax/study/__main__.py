"""`python -m mmssl_jax.study --study ablations --config C --data.path DIR --seeds '[1,2,3]'`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.study import study_command

    study_command()
