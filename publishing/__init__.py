"""
From a model folder to a verified repository on the Hub; imports of training only `errors`, `files` and `record`.

    source, record, contents                        what there is, and which of it goes along
    release, card                                   the folder that is sent, and its model card
    confidential, verification                      what it is checked for
    stranger, environments                          the process without this project that opens it, and its libraries
    space, space_app, visit                         a Space beside the model: its files, its app, a visit to it
    access, client, repository, commit, publish     the Hub
"""
