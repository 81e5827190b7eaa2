"""Networks of boxes (RetinaNet): datasets, training, prediction and scoring."""
