"""Trains a method: `python train.py --config configs/demo.yaml [--data.path DIR] [...]`."""

from mmssl_jax.cli.train import train_command

if __name__ == "__main__":
    train_command()
