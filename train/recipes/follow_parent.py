"""Imported by the fork server before all else: from then on it ends when the recipe does, also when that is killed.

Without it the server would outlive the recipe, for every stage holds the pipe whose end tells it to stop.
"""

from train.recipes.stage_process import end_with_parent

end_with_parent()
