package main

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/runenames"
)

// unicodeTable is the demo's data: the names of the characters in a range,
// without the placeholders such as <control> that many characters share.
func unicodeTable(first, last rune) []pair {
	var table []pair
	for r := first; r <= last; r++ {
		if name := runenames.Name(r); name != "" && !strings.HasPrefix(name, "<") {
			table = append(table, pair{unicodeKey(r), name})
		}
	}
	return table
}

// wholeUnicode has well over 30,000 pairs.
func wholeUnicode() []pair { return unicodeTable(0, unicode.MaxRune) }

func unicodeKey(r rune) string { return fmt.Sprintf("/unicode/%04X", r) }
