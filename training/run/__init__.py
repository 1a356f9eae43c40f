"""
One run, whatever its task: folder, lock, checkpoints, Trainer, metrics, result. Imports every other room.

    command, program                     what is asked for
    lifecycle                            the run, from its lock to its result
    folder, environment, result          what is written of it
    fingerprint, resuming                what it must have in common with what it goes on from
    checkpoints, saving                  what makes them whole; how the Trainer writes and reads them
    trainer, window_trainer              the Trainers; step_statistics is theirs
    interruption, lasting_output         signals, and output that nobody reads any more
    monitor, speed, trackers             metrics.jsonl and other places for figures
"""
