"""How a study is shown: tables, figures, page."""
