"""What a probe has to say: words, tables, figures, pages, terminal."""
