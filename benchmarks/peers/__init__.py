"""What healthd is measured beside, each as one would write it at first."""
