/*
    The EICAR test file, by its definition (EICAR, "Anti Malware Testfile"): the
    68 characters at the very beginning, followed by nothing but white space
    (space, tab, LF, CR, control-Z), and no longer than 128 bytes in all.

    In hexadecimal, so that no virus scanner takes this rule for the file.
*/
rule Eicar
{
    meta:
        name = "Eicar"
        kind = "test file"
        description = "The harmless file that every scanner agrees to find"
        reference = "EICAR, Anti Malware Testfile"
        provenance = "written for Webguard"
    strings:
        $whole = {
            58 35 4F 21 50 25 40 41 50 5B 34 5C 50 5A 58 35 34 28 50 5E 29 37 43 43
            29 37 7D 24 45 49 43 41 52 2D 53 54 41 4E 44 41 52 44 2D 41 4E 54 49 56
            49 52 55 53 2D 54 45 53 54 2D 46 49 4C 45 21 24 48 2B 48 2A
        }
    condition:
        filesize <= 128 and $whole at 0 and
        for all i in (0 .. 59) : (
            68 + i >= filesize or
            uint8(68 + i) == 0x20 or uint8(68 + i) == 0x09 or uint8(68 + i) == 0x0A or
            uint8(68 + i) == 0x0D or uint8(68 + i) == 0x1A
        )
}
