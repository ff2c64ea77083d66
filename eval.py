"""Evaluates the best checkpoint of a run: `python eval.py --run RUN_DIR --split test`."""

from mmssl_jax.cli.eval import eval_command

if __name__ == "__main__":
    eval_command()
