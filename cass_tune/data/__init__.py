"""Images, labels, splits and augmentation."""
