"""What every page of figures shares: its look, its plots, its pictures."""
