"""The first weights of a network: those that section `model` of a config names."""

from config.fusions import IMAGES
from config.schema import ModelConfig
from models.backbones import check_name
from models.weights import find_weights


def find_first_weights(model: ModelConfig) -> bool:
    """Find the first weights that section `model` names, and download what is not in a cache.

    Returns:
        Whether a branch has any.

    Raises:
        InputError: timm does not know a backbone or has no weights for it, or there is no file.
        RunError: Weights cannot be downloaded.
    """
    found = []
    for branch in [branch for branch in IMAGES if branch in model.reads]:
        backbone = getattr(model, f"{branch}_backbone")
        if backbone is not None:
            check_name(backbone, branch)
            if branch in model.loaded_later:
                continue
            file = getattr(model, f"{branch}_weights")
            found.append(find_weights(backbone, model.pretrained, file, branch))
    return any(found)
