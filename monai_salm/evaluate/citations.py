# SPDX-License-Identifier: Apache-2.0
"""Who is to be cited for what an evaluation counts, by the names that options and scores have."""

from __future__ import annotations

from collections.abc import Iterable

_SQUEEZING = "Liu, Zhao, Larson: Image Shortcut Squeezing, ICML 2023, arXiv 2301.13838"
_NNUNET = "Isensee et al.: nnU-Net, Nature Methods 18, 2021, doi 10.1038/s41592-020-01008-z"
_EM = "Huang et al.: Unlearnable Examples: Making Personal Data Unexploitable, ICLR 2021, arXiv 2101.04898"

CITATIONS = {
    # Methods
    "salm": "Sun, Liu, Yan, Xu, Sun: Medical Unlearnable Examples (SALM), 2024, arXiv 2403.10573",
    "em": _EM,
    "em-augmented": _EM,
    "aue": "Wang, Zhang, Gao: Efficient Availability Attacks against Supervised and Contrastive Learning "
    "Simultaneously, NeurIPS 2024, arXiv 2402.04010",
    "tap": "Fowl et al.: Adversarial Examples Make Strong Poisons, NeurIPS 2021, arXiv 2106.10807",
    "lsp": "Yu et al.: Availability Attacks Create Shortcuts, KDD 2022, arXiv 2111.00898",
    "pil": "Perturbation-Induced Linearization, ICLR 2026",
    "umed": "UMed, 2024, arXiv 2403.14250",
    "voxshield": "VoxShield, arXiv 2605.17345",
    # Networks
    "resnet": "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385",
    "densenet": "Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017, arXiv "
    "1608.06993",
    "efficientnet": "Tan, Le: EfficientNet, ICML 2019, arXiv 1905.11946",
    "vit": "Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929",
    "unet": "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, arXiv 1505.04597",
    "attentionunet": "Oktay et al.: Attention U-Net, 2018, arXiv 1804.03999",
    "dynunet": _NNUNET,
    "segresnet": "Myronenko: 3D MRI brain tumor segmentation using autoencoder regularization, 2018, arXiv 1810.11654",
    "swinunetr": "Hatamizadeh et al.: Swin UNETR, 2022, arXiv 2201.01266",
    "+pretrained": "Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning (SimCLR), ICML "
    "2020, arXiv 2002.05709",
    # Augmentations and countermeasures
    "nnunet": _NNUNET,
    "jpeg": _SQUEEZING,
    "median": _SQUEEZING,
    "bit": _SQUEEZING,
    "percentile-clip": _NNUNET,
    "clahe": "Zuiderveld: Contrast Limited Adaptive Histogram Equalization, Graphics Gems IV, 1994",
    "n4": "Tustison et al.: N4ITK, IEEE TMI 29, 2010, doi 10.1109/TMI.2010.2046908",
    "cutout": "DeVries, Taylor: Cutout, 2017, arXiv 1708.04552",
    "mixup": "Zhang, Cisse, Dauphin, Lopez-Paz: mixup, ICLR 2018, arXiv 1710.09412",
    "adversarial-training": "Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, "
    "arXiv 1706.06083",
    "orthogonal-projection": "Sandoval-Segura et al.: What Can We Learn from Unlearnable Datasets?, NeurIPS 2023, "
    "arXiv 2305.19254",
    "denoiser": "after BridgePure, 2024, arXiv 2412.21061",
    # Scores
    "balanced_accuracy": "Brodersen et al.: The Balanced Accuracy and Its Posterior Distribution, ICPR 2010, doi "
    "10.1109/ICPR.2010.764",
    "auc": "Hanley, McNeil: The Meaning and Use of the Area under a ROC Curve, Radiology 143, 1982, doi "
    "10.1148/radiology.143.1.7063747",
    "mcc": "Matthews, Biochimica et Biophysica Acta 405, 1975, doi 10.1016/0005-2795(75)90109-9",
    "dice": "Dice, Ecology 26, 1945, doi 10.2307/1932409",
    "hd95": "Huttenlocher, Klanderman, Rucklidge, IEEE PAMI 15, 1993, doi 10.1109/34.232073",
    "icc": "Shrout, Fleiss: Intraclass Correlations, Psychological Bulletin 86, 1979, doi 10.1037/0033-2909.86.2.420",
    "first-order features": "Zwanenburg et al.: Image Biomarker Standardisation Initiative, arXiv 1612.07003",
    "texture features": "Haralick, Shanmugam, Dinstein: Textural Features for Image Classification, IEEE SMC 3, 1973, "
    "doi 10.1109/TSMC.1973.4309314",
    # What all of it is made with
    "monai": "Cardoso et al.: MONAI: An open-source framework for deep learning in healthcare, 2022, arXiv 2211.02701",
}
"""By the name of an option or score, or by what several of them have in common; our own small networks and plain
filters have none.
"""


def cited(names: Iterable[str]) -> list[dict[str, str]]:
    """Give what is to be cited for some methods, networks, countermeasures and scores, each once with the names that it
    is for.
    """
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys([*filter(None, names), "monai"]):
        for key in _keys(name.lower()):
            text = CITATIONS[key]
            found.setdefault(text, [])
            if name not in found[text]:
                found[text].append(name)
    return [{"for": ", ".join(users), "citation": text} for text, users in found.items()]


def _keys(name: str) -> list[str]:
    """Give the keys of a name: its own, or that of its family, and that of the pretraining behind a plus."""
    base, plus, _ = name.partition("+")
    first, _, rest = base.partition("-")
    candidates = (
        base,
        first,
        rest,
        first.rstrip("0123456789"),
        base.removesuffix("bn"),
    )  # small-resnet, jpeg-50, 6-bit, resnet18-3x3, efficientnetbn
    keys = [key for key in candidates if key in CITATIONS][:1]
    return keys + (["+pretrained"] if plus else [])
