"""One page that shows what happened in one run or several: analysis, then panels, then HTML."""
