"""The text of the tables, whole: it is what the kernel gets."""

from typing import Any

import pytest

from netiso.redirect import Redirect, generation_of, render_closed, render_web

GIVEN: dict[str, Any] = {
    "instance": "shop",
    "generation": 7,
    "proxy_port": 13128,
    "ports": (443, 80, 443),
    "levels": 2,
}

WEB = """\
add table inet shop_web_7 { flags owner; }
add set inet shop_web_7 cg1 { type cgroupsv2; }
add set inet shop_web_7 cg2 { type cgroupsv2; }
add set inet shop_web_7 selftest { type cgroupsv2; }
add set inet shop_web_7 live { type nf_proto; }
add chain inet shop_web_7 redirected
add chain inet shop_web_7 containers
add chain inet shop_web_7 probe
add chain inet shop_web_7 output { type nat hook output priority -105; policy accept; }
add chain inet shop_web_7 refused
add chain inet shop_web_7 bypass
add chain inet shop_web_7 refuse { type filter hook output priority -110; policy accept; }
add chain inet shop_web_7 guard { type filter hook input priority -5; policy accept; }
flush chain inet shop_web_7 redirected
flush chain inet shop_web_7 containers
flush chain inet shop_web_7 probe
flush chain inet shop_web_7 output
flush chain inet shop_web_7 refused
flush chain inet shop_web_7 bypass
flush chain inet shop_web_7 refuse
flush chain inet shop_web_7 guard
add rule inet shop_web_7 redirected meta l4proto tcp counter redirect to :13128
add rule inet shop_web_7 containers socket cgroupv2 level 1 @cg1 goto redirected
add rule inet shop_web_7 containers socket cgroupv2 level 2 @cg2 goto redirected
add rule inet shop_web_7 probe socket cgroupv2 level 1 @selftest meta l4proto tcp \
counter redirect to :13128
add rule inet shop_web_7 output ip daddr 127.0.0.0/8 ip daddr != 127.87.71.1 return
add rule inet shop_web_7 output ip6 daddr ::1 return
add rule inet shop_web_7 output tcp dport { 80, 443 } meta nfproto @live jump containers
add rule inet shop_web_7 output tcp dport { 80, 443 } jump probe
add rule inet shop_web_7 refused meta l4proto tcp counter reject with tcp reset
add rule inet shop_web_7 refused counter reject with icmpx type port-unreachable
add rule inet shop_web_7 bypass socket cgroupv2 level 1 @cg1 goto refused
add rule inet shop_web_7 bypass socket cgroupv2 level 2 @cg2 goto refused
add rule inet shop_web_7 refuse ip daddr 127.0.0.0/8 return
add rule inet shop_web_7 refuse ip6 daddr ::1 return
add rule inet shop_web_7 refuse ct direction reply return
add rule inet shop_web_7 refuse udp dport { 80, 443 } meta nfproto @live jump bypass
add rule inet shop_web_7 refuse ct state untracked tcp dport { 80, 443 } meta nfproto @live \
jump bypass
add rule inet shop_web_7 guard tcp dport 13128 ct status dnat accept
add rule inet shop_web_7 guard tcp dport 13128 counter reject with tcp reset
"""

CLOSED = """\
add set inet shop_closed_7 cg1 { type cgroupsv2; }
add set inet shop_closed_7 cg2 { type cgroupsv2; }
add chain inet shop_closed_7 refused
add chain inet shop_closed_7 containers
add chain inet shop_closed_7 output { type filter hook output priority 0; policy accept; }
flush chain inet shop_closed_7 refused
flush chain inet shop_closed_7 containers
flush chain inet shop_closed_7 output
add rule inet shop_closed_7 refused meta l4proto tcp counter reject with tcp reset
add rule inet shop_closed_7 refused counter reject with icmpx type port-unreachable
add rule inet shop_closed_7 containers socket cgroupv2 level 1 @cg1 goto refused
add rule inet shop_closed_7 containers socket cgroupv2 level 2 @cg2 goto refused
add rule inet shop_closed_7 output ip daddr 127.0.0.0/8 return
add rule inet shop_closed_7 output ip6 daddr ::1 return
add rule inet shop_closed_7 output ct direction reply return
add rule inet shop_closed_7 output meta l4proto { tcp, udp } ct original proto-dst { 80, 443 } \
jump containers
add rule inet shop_closed_7 output ct state untracked tcp dport { 80, 443 } jump containers
add rule inet shop_closed_7 output ct state untracked udp dport { 80, 443 } jump containers
"""


def test_the_web_table_is_this_text() -> None:
    assert render_web(Redirect(**GIVEN)) == WEB


def test_the_closed_table_is_this_text() -> None:
    assert render_closed(Redirect(**GIVEN)) == CLOSED


def test_eight_levels_are_matched_unless_said_otherwise() -> None:
    text = render_web(Redirect(**{**GIVEN, "levels": 8}))
    assert text == render_web(
        Redirect(instance="shop", generation=7, proxy_port=13128, ports=(80, 443))
    )
    assert "socket cgroupv2 level 8 @cg8 goto redirected" in text


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"instance": ""}, id="no name"),
        pytest.param({"instance": "a; flush ruleset"}, id="nft commands"),
        pytest.param({"instance": "a\n"}, id="newline at the end"),
        pytest.param({"instance": "Shop"}, id="capital letter"),
        pytest.param({"instance": "1shop"}, id="digit first"),
        pytest.param({"instance": "a" * 32}, id="too long"),
        pytest.param({"generation": -1}, id="negative generation"),
        pytest.param({"generation": 10**9 + 1}, id="endless generation"),
        pytest.param({"ports": ()}, id="no ports"),
        pytest.param({"ports": (0,)}, id="port 0"),
        pytest.param({"ports": (65536,)}, id="port too high"),
        pytest.param({"proxy_port": 0}, id="proxy port 0"),
        pytest.param({"proxy_port": 80}, id="proxy port intercepted"),
        pytest.param({"levels": 0}, id="level 0, which is every process"),
        pytest.param({"levels": 256}, id="level the kernel does not know"),
    ],
)
def test_what_nft_must_not_see_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not|no ports"):
        Redirect(**{**GIVEN, **changed})


@pytest.mark.parametrize(
    ("table", "generation"),
    [
        pytest.param("shop_web_7", 7, id="web"),
        pytest.param("shop_closed_12", 12, id="closed"),
        pytest.param("shop_web_", None, id="no number"),
        pytest.param("shop_web_7x", None, id="more after the number"),
        pytest.param("shop_web_web_7", None, id="instance with a longer name"),
        pytest.param("webshop_web_7", None, id="other instance"),
        pytest.param("filter", None, id="another's"),
    ],
)
def test_only_our_own_tables_have_a_generation(table: str, generation: int | None) -> None:
    assert generation_of("shop", table) == generation
