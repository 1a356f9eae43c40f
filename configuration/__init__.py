"""Named model sizes, run recipes, the settings that these are made of, and their one loader, recipe.py."""
