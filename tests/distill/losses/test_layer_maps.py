"""Each option of layers refuses what it does not know, and its remedy names what it takes."""

import pytest

from biomlm.core.errors import ConfigError
from biomlm.distill.losses.layer_maps import check_map


@pytest.mark.parametrize("names", [("every", "uniform"), ("uniform", "last")])
def test_what_the_remedy_names_is_taken(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_map("2-9", "layers", names)
    for name in names:
        assert f"`{name}`" in caught.value.remedy
        check_map(name, "layers", names)
    check_map("1:2,2:4", "layers", names)
    other = ({"every", "last"} - set(names)).pop()
    with pytest.raises(ConfigError, match=f"layers `{other}` is no layer map"):
        check_map(other, "layers", names)
