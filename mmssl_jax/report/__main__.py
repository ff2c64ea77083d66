"""`python -m mmssl_jax.report RUN_DIR [RUN_DIR ...] --out report.html`."""

from mmssl_jax.cli.report import report_command

if __name__ == "__main__":
    report_command()
