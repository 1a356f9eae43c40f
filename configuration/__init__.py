"""Named model sizes, run recipes, and their one loader, [`recipe`]."""
