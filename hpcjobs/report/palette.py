"""The colours of the figures. In dark mode the page replaces their values."""

# The colours of Okabe and Ito, which colour-blind readers can distinguish. (Color Universal Design, 2008.)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, QUIET, GRID, PAPER = "#1b1f24", "#57606a", "#d5dae0", "#ffffff"
# Their names in the page. report.html.j2 has the values for light and dark mode.
VARIABLES = {PAPER: "paper", INK: "ink", QUIET: "quiet", GRID: "grid"} | {
    colour: f"c{number}" for number, colour in enumerate(COLOURS)
}
