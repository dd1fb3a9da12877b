"""Accuracy: detector outputs to boxes, suppression of duplicates, COCO mAP, top-k, and boxes drawn on pictures."""
