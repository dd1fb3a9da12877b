"""One self-contained HTML file about a run of the pipeline: styles and drawings inside, no script, nothing fetched."""
