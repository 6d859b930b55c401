"""Models on a hub that speaks the Hugging Face Hub's protocol: looked at, pulled, pushed.

    names      hf://org/model@rev -> what is asked for
    transport  one bounded GET: redirects, ranges, errors in our words
    listing    a revision -> its commit, and the commit's files
    chosen     which of those files make up the model
    blobs      files into the hub's own cache: resumed, checked by hash
    outline    headers and small files, for checks before anything is downloaded
    source     the door: a RemoteSource, for registering and merging
    pull, push the next version of an entry; a version back to a hub
    publishable what of a version's files may leave this machine

Nothing the other side says is believed: names are checked before they become paths, sizes before
bytes are read, hashes before a file has its name. Whatever it sends, memory and disk are bounded.

Source: https://huggingface.co/docs/hub/api; the layout of the cache is that of
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""
