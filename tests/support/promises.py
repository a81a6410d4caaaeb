"""What docs/RELIABILITY.md promises; a test names one by its key: `pytest.mark.promise(key)`."""

PROMISES = {
    "resume": "A run that is killed at any point and started again ends with the weights, metrics "
    "and predictions of one that was never killed, byte for byte",
    "checkpoint": "Two checkpoints are kept; where the newest is cut short or corrupt, the one "
    "before it is used",
    "stop": "A signal that asks to end saves the state and prints the command that resumes",
    "non_finite": "A loss or gradient that is NaN or infinite moves no weight, is logged with its "
    "utterances, and ends in a repaired run that says so or in a failed run with the cause",
    "bad_audio": "Every kind of odd audio file has a stated outcome: used, or refused by name with "
    "the reason; all bad files of a corpus are named at once",
    "properties": "Readers, configs and metrics hold their properties on random inputs",
    "fuzz": "No corrupt config, manifest or EmoEvaluation file ends in a traceback",
    "foreign": "Nothing foreign is executed: no pickle, no YAML tag, no shell",
    "containment": "A manifest cannot reach outside corpus.root",
    "escaping": "Names from a corpus are escaped wherever they are shown",
    "bounds": "Sizes are bounded before memory is taken",
    "full_disk": "On a full disk a run stops with what was needed, leaves no corrupt file, and "
    "resumes when there is room",
    "lost_disk": "A run folder that is read-only or was removed stops the run with one message",
    "same_run": "Of two runs of one name the second is refused, with the first's process and host",
    "same_store": "Two runs that need the same images compute them once",
    "stale_lock": "The lock of a dead process is taken over",
}
