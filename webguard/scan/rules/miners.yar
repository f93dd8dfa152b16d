/*
    Coin miners. A miner is not malicious by itself; inside somebody's server
    container it nearly always is. The rules ask for a wallet in use or for a
    program that is a miner and nothing else, so neither the documentation of a
    miner nor its configuration as it is shipped matches.
*/

rule MinerConfiguration
{
    meta:
        name = "Miner.Configuration"
        kind = "coin miner"
        description = "A configuration of XMRig or its kin with a pool and a Monero wallet"
        reference = "MITRE ATT&CK T1496; XMRig documentation, config.json"
        provenance = "written for Webguard"
    strings:
        $pools = /"pools"\s{0,8}:\s{0,8}\[/
        $url = /"url"\s{0,8}:\s{0,8}"[^"\n]{3,300}:[0-9]{1,5}"/
        $wallet = /"user"\s{0,8}:\s{0,8}"[48][0-9A-Za-z]{94}([0-9A-Za-z]{11})?[^"\n]{0,64}"/
        $own_1 = "\"donate-level\""
        $own_2 = "\"randomx\""
        $own_3 = "\"rig-id\""
        $own_4 = "\"nicehash\""
        $own_5 = "\"cpu\""
    condition:
        filesize < 64KB and (uint8(0) == 0x7B or uint8(0) == 0x0A or uint8(0) == 0x20) and
        $pools and $url and $wallet and 2 of ($own_*)
}

rule MinerScript
{
    meta:
        name = "Miner.Script"
        kind = "coin miner"
        description = "A shell script that starts a miner with a Stratum pool and a Monero wallet"
        reference = "MITRE ATT&CK T1496"
        provenance = "written for Webguard"
    strings:
        $pool = /(-o|--url|-o=|--url=)[ \t=]{0,4}["']?(stratum\+(tcp|ssl|tls):\/\/)?[0-9A-Za-z.-]{3,253}:[0-9]{2,5}\b[^\n]{0,120}(-u|--user)[ \t=]{0,4}["']?[48][0-9A-Za-z]{94}\b/
        $turned = /(-u|--user)[ \t=]{0,4}["']?[48][0-9A-Za-z]{94}\b[^\n]{0,120}(-o|--url)[ \t=]{0,4}["']?(stratum\+(tcp|ssl|tls):\/\/)?[0-9A-Za-z.-]{3,253}:[0-9]{2,5}\b/
    condition:
        filesize < 64KB and uint16be(0) == 0x2321 and any of them
}

rule MinerProgram
{
    meta:
        name = "Miner.Program"
        kind = "coin miner"
        description = "A Linux program that is XMRig or made from it"
        reference = "MITRE ATT&CK T1496; XMRig source code, option and protocol names"
        provenance = "written for Webguard"
    strings:
        $pool_1 = "stratum+tcp://"
        $pool_2 = "stratum+ssl://"
        $own_1 = "donate-over-proxy"
        $own_2 = "donate-level"
        $own_3 = "randomx-1gb-pages"
        $own_4 = "cpu-max-threads-hint"
        $own_5 = "huge-pages-jit"
        $own_6 = "nicehash"
        $work = "keepalived"
        $hash = "rx/0"
    condition:
        uint32be(0) == 0x7F454C46 and filesize < 64MB and
        any of ($pool_*) and 3 of ($own_*) and $work and $hash
}
