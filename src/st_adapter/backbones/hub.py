"""Whether the Hugging Face hub can be reached."""


def is_hub_reachable() -> bool:
    """Ask the hub for an answer and wait at most 5 seconds; False in its offline mode."""
    from huggingface_hub import constants, get_session

    if is_hub_offline():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)  # uses the same proxies as downloads
    except Exception:  # versions of huggingface_hub raise the errors of different libraries
        return False
    return True


def is_hub_offline() -> bool:
    """Whether the user has set the hub's offline mode, in which only its cache is used."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
