"""Networks of boxes (RetinaNet): datasets, training recipe, prediction and scoring."""
