"""The report: one HTML file with the board, its plots and the samples, that needs nothing from anywhere."""
