"""Methods side by side: each with the same budget of trials, then over seeds; tables and a page."""
