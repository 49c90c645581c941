"""From a trained model and pictures to boxes, for notebooks and for predict.py."""
