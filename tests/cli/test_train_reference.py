"""docs/reference.md is what the program prints."""

from training_support import ROOT, mmtune


def test_the_reference_page_is_up_to_date():
    page = mmtune("reference", check=0).stdout
    assert (ROOT / "docs" / "reference.md").read_text() == page, "run: build/mmtune reference > docs/reference.md"
    for key in ["epochs", "valid_fraction", "label_smoothing", "bottleneck", "lr_scale"]:
        assert f"`{key}`" in page, key
