"""What a train loop is built from: config, trainer, batches, log, resuming, report. It knows no task of its own."""
