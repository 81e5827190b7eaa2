"""Object detection with boxes (RetinaNet): datasets, training recipe, prediction and scoring."""
