/*
    Reverse shells: a few lines that connect a shell to somebody's listener.

    The same lines stand in articles and in the documentation of tools, so each
    rule asks for more than the line: that the file is a small script and not a
    page about one. Patterns are split where a virus scanner would take this
    file for what it describes.
*/

rule ReverseShellScript
{
    meta:
        name = "ReverseShell.Script"
        kind = "reverse shell"
        description = "A shell script that ties an interactive shell to a network connection"
        reference = "MITRE ATT&CK T1059.004"
        provenance = "written for Webguard"
    strings:
        $tcp = /\b(ba|z|k|da)?sh[ \t]+-[il]{1,3}[ \t]{0,8}(>&|&>|>)[ \t]{0,8}\/dev\/(tcp|udp)\/[0-9A-Za-z.:$\{\}_-]{1,255}\/[0-9$\{\}A-Z_]{1,16}[ \t]+(0>&1|<&1|0<&1|0>&2)/
        $exec = /\bexec[ \t]+[0-9]{1,3}<>[ \t]?\/dev\/(tcp|udp)\/[0-9.]{7,15}\/[0-9]{1,5}[;\s]{1,8}(cat|while|(ba|z|da)?sh)\b[^\n]{0,80}<&[0-9]{1,3}/
        $pipe = /\bmkfifo[ \t]+\/(tmp|dev\/shm|var\/tmp)\/[^\s;]{1,64}[ \t]{0,4}[;&\n][^\n]{0,80}\|[ \t]{0,4}(\/bin\/)?(ba|da)?sh[ \t]+-i[ \t]+2>&1[ \t]{0,4}\|[ \t]{0,4}(\/bin\/)?(nc|ncat|netcat|openssl|telnet)\b/
        $nc = /\b(nc|ncat|netcat)(\.traditional)?[ \t]+(-[a-z]{1,4}[ \t]+){0,2}[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[ \t]+[0-9]{1,5}[ \t]+(-e|-c)[ \t]+(\/bin\/)?(ba|da)?sh\b/
    condition:
        filesize < 64KB and
        (
            // A script, or nothing but the line, which is how it is piped to a shell.
            uint16be(0) == 0x2321 or
            (filesize < 512 and uint8(0) != 0x3C and for any of them : (@ < 32))
        ) and
        any of them
}

rule ReverseShellPython
{
    meta:
        name = "ReverseShell.Python"
        kind = "reverse shell"
        description = "A short Python program that gives its standard streams to a socket and starts a shell"
        reference = "MITRE ATT&CK T1059.006"
        provenance = "written for Webguard"
    strings:
        $socket = /socket\.socket\(/
        $connect = /\.connect\(\(\s*["'][0-9A-Za-z.:-]{1,253}["']\s*,\s*[0-9]{1,5}\s*\)\)/
        $in = /os\.dup2\(\s*\w{1,32}\.fileno\(\)\s*,\s*0\s*\)/
        $out = /os\.dup2\(\s*\w{1,32}\.fileno\(\)\s*,\s*1\s*\)/
        $loop = /os\.dup2\(\s*\w{1,32}\.fileno\(\)\s*,\s*fd\s*\)\s*for\s+fd\s+in\s*\(\s*0\s*,\s*1\s*,\s*2\s*\)/
        $spawn = /(pty\.spawn|subprocess\.(call|Popen|run)|os\.system)\(\s*\[?\s*["'](\/usr)?(\/bin\/)?(ba|da|z)?sh\b/
    condition:
        filesize < 8KB and uint8(0) != 0x3C and
        $socket and $connect and $spawn and (($in and $out) or $loop) and
        // Whoever explains it writes before it: a program begins with its imports.
        (@socket[1] < 1024 and @connect[1] < 1024)
}

rule ReverseShellPowerShell
{
    meta:
        name = "ReverseShell.PowerShell"
        kind = "reverse shell"
        description = "A PowerShell line that reads commands from a TCP stream and runs them"
        reference = "MITRE ATT&CK T1059.001"
        provenance = "written for Webguard"
    strings:
        $client = /New-Object\s+(System\.)?Net\.Sockets\.TCPClient\(/ nocase
        $stream = /\.GetStream\(\)/ nocase
        $read = /\.Read\(\s*\$\w{1,32}\s*,\s*0\s*,/ nocase
        $run = /\b(iex|invoke-expression)\b/ nocase
        $write = /\.Write\(\s*\$\w{1,32}\s*,\s*0\s*,/ nocase
    condition:
        filesize < 4KB and uint8(0) != 0x3C and all of them and @client[1] < 256
}
