/*
    Droppers: scripts that fetch a program from a bare address into a folder that
    everybody may write, and start it.

    Installers that people pipe to a shell fetch from a host with a name, check a
    sum, and install for one architecture; these rules ask for the opposite.
*/

rule DropperTemporary
{
    meta:
        name = "Dropper.Temporary"
        kind = "dropper"
        description = "A shell script that downloads from a bare IPv4 address into a temporary folder, makes the file executable and starts it"
        reference = "MITRE ATT&CK T1105, T1222.002"
        provenance = "written for Webguard"
    strings:
        $fetch = /\b(curl|wget|busybox[ \t]+wget)\b[^\n]{0,160}\b(https?|ftp):\/\/[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(:[0-9]{1,5})?\/[^\n]{1,160}(-o|-O|--output|>)[ \t]{0,4}\/(tmp|var\/tmp|dev\/shm|var\/run)\/[.\w-]{1,64}/
        $first = /\b(curl|wget|busybox[ \t]+wget)\b[^\n]{0,80}(-o|-O|--output)[ \t]{0,4}\/(tmp|var\/tmp|dev\/shm|var\/run)\/[.\w-]{1,64}[^\n]{0,80}\b(https?|ftp):\/\/[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(:[0-9]{1,5})?\//
        $mode = /\bchmod[ \t]+(-[A-Za-z][ \t]+)?([0-7]?777|[0-7]?755|[0-7]?700|[ua]?\+x|[ua]?\+rwx)[ \t]+\/(tmp|var\/tmp|dev\/shm|var\/run)\/[.\w-]{1,64}/
        $start = /(^|[;&|\n][ \t]{0,4})(nohup[ \t]+|setsid[ \t]+|exec[ \t]+|(\/bin\/)?(ba)?sh[ \t]+|\([ \t]*)?\/(tmp|var\/tmp|dev\/shm|var\/run)\/[.\w-]{1,64}/
        $private = /:\/\/(127\.|10\.|192\.168\.|172\.(1[6-9]|2[0-9]|3[01])\.)/
    condition:
        filesize < 64KB and uint16be(0) == 0x2321 and
        ($fetch or $first) and $mode and $start and not $private
}

rule DropperArchitectures
{
    meta:
        name = "Dropper.Architectures"
        kind = "dropper"
        description = "A shell script that downloads the same program for many architectures from a bare IPv4 address and tries them all, as the loaders of Mirai and its kin do"
        reference = "MITRE ATT&CK T1105; J. Gamblin, Mirai source code (published 2016), loader"
        provenance = "written for Webguard"
    strings:
        $mips = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-]mips(64)?\b/
        $mpsl = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-](mpsl|mipsel)\b/
        $arm = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-]arm(v?[4567]l?)?\b/
        $sh4 = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-](sh4|superh)\b/
        $ppc = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-](ppc|powerpc)\b/
        $m68k = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-](m68k|spc|sparc)\b/
        $x86 = /\b(curl|wget|tftp|ftpget)\b[^\n]{0,120}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[^\n]{0,120}[\/._-](x86(_64)?|i[3456]86)\b/
        $mode = /\bchmod[ \t]+(-[A-Za-z][ \t]+)?([0-7]?777|[ua]?\+x|[ua]?\+rwx)[ \t]/
    condition:
        filesize < 64KB and uint16be(0) == 0x2321 and
        4 of ($mips, $mpsl, $arm, $sh4, $ppc, $m68k, $x86) and $mode
}
