"""Evaluates the best checkpoint of a run: `python eval.py --run RUN_DIR --split test`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.eval import eval_command

    eval_command()
