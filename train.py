"""Trains a method: `python train.py --config configs/demo.yaml [--data.path DIR] [...]`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.train import train_command

    train_command()
