/*
    Web shells: server pages that run whatever a request asks them to.

    They are seen when they are uploaded, often inside a form, so they need not
    stand at the beginning. A page that passes a parameter to a shell or to
    `eval` unchanged has no honest reading; one that escapes it first is not meant.
*/

rule WebShellPhp
{
    meta:
        name = "WebShell.Php"
        kind = "web shell"
        description = "PHP that evaluates or executes a parameter of the request as it came"
        reference = "MITRE ATT&CK T1505.003"
        provenance = "written for Webguard"
    strings:
        $open = /<\?(php|=)/ nocase
        $run = /\b(eval|assert|system|passthru|shell_exec|exec|popen|proc_open|pcntl_exec)\s{0,4}\(\s{0,4}@?\s{0,4}(stripslashes\s{0,4}\(\s{0,4}|base64_decode\s{0,4}\(\s{0,4}|gzinflate\s{0,4}\(\s{0,4}|str_rot13\s{0,4}\(\s{0,4}){0,3}@?\$_(GET|POST|REQUEST|COOKIE|SERVER)\s{0,4}[\[\{]\s{0,4}['"]?[\w-]{1,64}['"]?\s{0,4}[\]\}]\s{0,4}(\)|\.\s{0,4}['"] ?2>&1)/ nocase
        $tick = /`\s{0,4}\{?\$_(GET|POST|REQUEST|COOKIE)\s{0,4}\[['"]?\w{1,64}['"]?\]\}?\s{0,4}`/
    condition:
        filesize < 256KB and
        ($open in (0 .. 4096)) and
        // An article quotes the code in a page of its own; what is uploaded does not begin as one.
        not (uint32be(0) == 0x3C21444F or uint32be(0) == 0x3C21646F or uint32be(0) == 0x3C68746D) and
        ($run or $tick)
}

rule WebShellJsp
{
    meta:
        name = "WebShell.Jsp"
        kind = "web shell"
        description = "JSP that executes a parameter of the request as it came"
        reference = "MITRE ATT&CK T1505.003"
        provenance = "written for Webguard"
    strings:
        $open = "<%"
        $run = /getRuntime\(\)\s{0,8}\.\s{0,8}exec\(\s{0,8}request\s{0,8}\.\s{0,8}getParameter\(/
        $builder = /new\s{1,8}ProcessBuilder\(\s{0,8}request\s{0,8}\.\s{0,8}getParameter\(/
    condition:
        filesize < 64KB and ($open in (0 .. 4096)) and
        not (uint32be(0) == 0x3C21444F or uint32be(0) == 0x3C21646F or uint32be(0) == 0x3C68746D) and
        ($run or $builder)
}
