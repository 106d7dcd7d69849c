"""The check at import: the torch in use is the one that the compiled part was built for."""


def check_torch() -> None:
    """Raises ImportError when ortmod was not built, or was built for another major.minor version of torch."""
    import torch

    try:
        from ortmod._build_info import TORCH_VERSION as built
    except ImportError as error:
        raise ImportError("ortmod is not built yet: run `make`, or `pip install --no-build-isolation -e .`") from error
    used = str(torch.__version__)
    if built.split(".")[:2] != used.split(".")[:2]:
        raise ImportError(
            f"ortmod was built for torch {built}, but torch {used} is in use: "
            f"install torch {'.'.join(built.split('.')[:2])}, "
            "or build ortmod again (pip install --no-build-isolation -e .)"
        )
