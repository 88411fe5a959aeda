"""What estimates and searches look like to a person: tables for the terminal, Markdown, HTML, plots."""
