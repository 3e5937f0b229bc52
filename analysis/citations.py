"""What a paper made with a study cites."""

from __future__ import annotations

from collections.abc import Collection

_ENTRIES = {
    "singh2022cass": """\
@misc{singh2022cass,
  title = {{CASS}: Cross Architectural Self-Supervision for Medical Image Analysis},
  author = {Singh, Pranav and Sizikova, Elena and Cirrone, Jacopo},
  year = {2022}, eprint = {2206.04170}, archiveprefix = {arXiv}
}""",
    "singh2023pairs": """\
@misc{singh2023pairs,
  title = {Cross-Architectural Positive Pairs improve the effectiveness of Self-Supervised Learning},
  author = {Singh, Pranav and Cirrone, Jacopo},
  year = {2023}, eprint = {2301.12025}, archiveprefix = {arXiv}
}""",
    "singh2023efficient": """\
@inproceedings{singh2023efficient,
  title = {Efficient Representation Learning for Healthcare with Cross-Architectural Self-Supervision},
  author = {Singh, Pranav and Cirrone, Jacopo},
  booktitle = {Machine Learning for Healthcare Conference}, series = {PMLR}, volume = {219}, pages = {691--711},
  year = {2023}, note = {arXiv 2308.10064}
}""",
    "caron2021dino": """\
@inproceedings{caron2021dino,
  title = {Emerging Properties in Self-Supervised Vision Transformers},
  author = {Caron, Mathilde and Touvron, Hugo and Misra, Ishan and J\\'egou, Herv\\'e and Mairal, Julien and
            Bojanowski, Piotr and Joulin, Armand},
  booktitle = {ICCV}, year = {2021}, note = {arXiv 2104.14294}
}""",
    "wightman2019timm": """\
@misc{wightman2019timm,
  title = {{PyTorch} Image Models}, author = {Wightman, Ross}, year = {2019},
  doi = {10.5281/zenodo.4414861}, howpublished = {github.com/huggingface/pytorch-image-models}
}""",
    "liaw2018tune": """\
@misc{liaw2018tune,
  title = {Tune: A Research Platform for Distributed Model Selection and Training},
  author = {Liaw, Richard and Liang, Eric and Nishihara, Robert and Moritz, Philipp and Gonzalez, Joseph E. and
            Stoica, Ion},
  year = {2018}, eprint = {1807.05118}, archiveprefix = {arXiv}
}""",
    "akiba2019optuna": """\
@inproceedings{akiba2019optuna,
  title = {Optuna: A Next-generation Hyperparameter Optimization Framework},
  author = {Akiba, Takuya and Sano, Shotaro and Yanase, Toshihiko and Ohta, Takeru and Koyama, Masanori},
  booktitle = {KDD}, year = {2019}, note = {arXiv 1907.10902}
}""",
}
_OF_METHOD = {"cass": ("singh2022cass", "singh2023pairs", "singh2023efficient"), "dino": ("caron2021dino",)}


def citations(methods: Collection[str], *, is_search: bool) -> list[str]:
    """Return BibTeX entries: of the methods' papers, and of what every study is built on.

    Args:
        methods: pretraining methods of the study.
        is_search: whether Optuna suggested its trials.
    """
    names = [name for method, own in _OF_METHOD.items() if method in methods for name in own]
    names += ["wightman2019timm", "liaw2018tune", *(["akiba2019optuna"] if is_search else [])]
    return [_ENTRIES[name] for name in names]
