"""Trains MMSSL: `python train.py --config configs/demo.yaml [--data.path DIR] [...]`."""

from mmssl_jax.commands import train_command

if __name__ == "__main__":
    train_command()
