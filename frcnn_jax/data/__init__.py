"""Images and boxes on the host: COCO folders in, padded numpy batches out."""
