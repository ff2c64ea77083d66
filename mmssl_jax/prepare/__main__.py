"""`python -m mmssl_jax.prepare`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.prepare import main

    main()
