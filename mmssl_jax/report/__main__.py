"""`python -m mmssl_jax.report RUN_DIR [RUN_DIR ...] --out report.html`."""

from mmssl_jax.cli.stops import stop_in_silence

if __name__ == "__main__":
    stop_in_silence()
    from mmssl_jax.cli.report import report_command

    report_command()
