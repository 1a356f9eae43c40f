"""
From text to its split, to tokens in shards, to windows of tokens. Imports what lies in `training/` itself alone.

    sources, hub_source, corpus    documents, one after the other
    file_search, stored_text       the files that a folder or a pattern means, and the text in one
    rows, text_field               the rows of a file or a dataset, and the text in one
    cutting, split, duplicates     where each is cut, the part that it belongs to, whether it came before
    mixture                        several corpora as one stream, each with its share of a run
    tokenizer, adoption, encoding  from text to ids
    tokenization, writing          shards, written so that a killed process loses little (work_folder)
    text_preparation, token_files  prepared data made of text, or of ids (completion, overlap, requirements)
    made_from                      prepared data found again
    preparation                    all of it: from a recipe to its shards
    shards, windows                prepared data, read
"""
